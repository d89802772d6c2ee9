"""Generate an epoch's trajectories, shard by shard, and its prompt embeddings once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from d3po_core.noise import NoiseAddress
from d3po_core.records import Group, Trajectories
from d3po_core.rollout import rollout
from storage.commits import Commit
from storage.epoch import Epoch
from storage.trajectories import TrajectoryArrays, read_prompts, write_prompts, write_shard
from tasks.context import EpochContext
from tasks.log import logger
from tasks.policies import policy_at_start, policy_for

__all__ = ["encode_prompts", "generate_shard", "prompt_embeds", "to_arrays", "write_generated", "write_prompt_embeds"]


Check = Callable[[dict[str, Any]], None]
"""Looks at what was computed before it is committed, and raises where it must not be."""


@task(name="prompts", cache_policy=NO_CACHE, persist_result=False)
def encode_prompts(context: EpochContext) -> str:
    """Text-encoder output once per prompt of the epoch, and of the unconditional prompt."""
    if context.epoch.latest("prompts") is None:
        write_prompt_embeds(context)
    return "prompts"


@task(name="generate", task_run_name="generate-{name}", cache_policy=NO_CACHE, persist_result=False)
def generate_shard(context: EpochContext, name: str) -> str:
    """One shard's trajectories and images, committed together; nothing is done where it is committed already."""
    if context.epoch.latest(name) is not None:
        logger().info("%s is committed already", name)
        return name
    write_generated(context, name)
    return name


def write_prompt_embeds(
    context: EpochContext, name: str = "prompts", *, supersede: bool = False, check: Check | None = None
) -> Commit:
    """Encode the epoch's prompts and commit them."""
    prompts = sorted({group.prompt for group in context.groups().values()} | {""})
    embeds = policy_for(context.configuration).encode(prompts)
    attempt = context.epoch.begin(name)
    content = write_prompts(attempt.path, prompts, embeds.numpy())
    if check is not None:
        check(content)
    return context.epoch.commit(attempt, content=content, supersede=supersede)


def write_generated(context: EpochContext, name: str, *, supersede: bool = False, check: Check | None = None) -> Commit:
    """Compute a shard and commit it; ``supersede`` where an earlier attempt is to be replaced (heal)."""
    epoch, groups = context.epoch, context.groups()
    policy = policy_at_start(context)
    batches = [[groups[group_id] for group_id in batch] for batch in context.plan["shards"][name]]
    generated = rollout(
        policy,
        batches,
        context.configuration.sampling,
        run_seed=context.configuration.seed,
        epoch=context.number,
        embeds=prompt_embeds(epoch),
    )
    arrays, images = to_arrays(list(generated), _seeds(context, batches))
    attempt = epoch.begin(name)
    content = write_shard(attempt.path, arrays, images)
    if check is not None:
        check(content)
    return epoch.commit(
        attempt,
        {"trajectories": len(arrays.ids), "latent_shape": list(policy.latent_shape)},
        content,
        supersede=supersede,
    )


def prompt_embeds(epoch: Epoch) -> Mapping[str, torch.Tensor]:
    """The epoch's stored prompt embeddings, [L, D] float32 each."""
    stored = read_prompts(epoch.fetch(epoch.latest("prompts")))
    return {prompt: torch.from_numpy(np.array(embeds)) for prompt, embeds in stored.items()}


def _seeds(context: EpochContext, batches: Sequence[Sequence[Group]]) -> dict[str, str]:
    """Trajectory id → the noise addresses that it can be generated from again."""
    sampling, seed = context.configuration.sampling, context.configuration.seed
    seeds = {}
    for group in (group for batch in batches for group in batch):
        for image, id in enumerate(group.trajectory_ids(sampling.group_size)):
            x_T = NoiseAddress(
                domain="x_T",
                run_seed=seed,
                epoch=context.number,
                group=group.index,
                image=None if sampling.shared_initial_noise else image,
            )
            step = NoiseAddress(domain="step", run_seed=seed, epoch=context.number, group=group.index, image=image)
            seeds[id] = f"[{x_T},{step}]"
    return seeds


def to_arrays(batches: list[Trajectories], seeds: Mapping[str, str]) -> tuple[TrajectoryArrays, np.ndarray]:
    """Generation batches of one shard as the store's arrays; bfloat16 latents become a uint16 view."""
    latents = torch.cat([batch.latents for batch in batches])
    dtype = str(latents.dtype).removeprefix("torch.")
    return (
        TrajectoryArrays(
            ids=tuple(id for batch in batches for id in batch.ids),
            group_ids=tuple(id for batch in batches for id in batch.group_ids),
            prompts=tuple(prompt for batch in batches for prompt in batch.prompts),
            latents=(latents.view(torch.uint16) if latents.dtype == torch.bfloat16 else latents).numpy(),
            latents_dtype=dtype,
            log_prob=torch.cat([batch.log_prob for batch in batches]).numpy(),
            timesteps=batches[0].timesteps.numpy(),
            trainable=batches[0].trainable.numpy(),
            seeds=seeds,
        ),
        np.concatenate([batch.images for batch in batches]),
    )
