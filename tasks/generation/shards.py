"""A shard of an epoch: computed from the plan alone, then committed, trajectories and images together."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from d3po_core.noise import NoiseAddress
from d3po_core.records import Group, Trajectories
from d3po_core.rollout import rollout
from storage.commits import Commit
from storage.embeddings import StoredPrompts
from storage.epoch import Epoch
from storage.trajectories import TrajectoryArrays, write_shard
from tasks.context import EpochContext
from tasks.log import logger
from tasks.policies import policy_at_start

__all__ = ["Check", "GeneratedShard", "commit_shard", "compute_shard", "prompt_embeds", "to_arrays", "write_generated"]

Check = Callable[[dict[str, Any]], None]
"""Looks at what was computed before it is committed, and raises where it must not be."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class GeneratedShard:
    """A shard in memory."""

    arrays: TrajectoryArrays
    images: np.ndarray
    """[n, h, w, 3] uint8."""


def write_generated(context: EpochContext, name: str, *, supersede: bool = False, check: Check | None = None) -> Commit:
    """Compute a shard and commit it; ``supersede`` where an earlier attempt is to be replaced (heal)."""
    return commit_shard(context, name, compute_shard(context, name), supersede=supersede, check=check)


def compute_shard(context: EpochContext, name: str) -> GeneratedShard:
    """Sample a shard's generation batches as the plan has them."""
    begun = time.perf_counter()
    groups = context.groups()
    policy = policy_at_start(context)
    batches = [[groups[group_id] for group_id in batch] for batch in context.plan["shards"][name]]
    generated = rollout(
        policy,
        batches,
        context.configuration.sampling,
        run_seed=context.configuration.seed,
        epoch=context.number,
        embeds=prompt_embeds(context.epoch, ["", *(group.prompt for batch in batches for group in batch)]),
    )
    count = sum(map(len, batches)) * context.configuration.sampling.group_size
    shard = to_arrays(generated, count, _seeds(context, batches))
    logger().info("%s: %d trajectories computed in %.2f s", name, len(shard.images), time.perf_counter() - begun)
    return shard


def commit_shard(
    context: EpochContext, name: str, shard: GeneratedShard, *, supersede: bool = False, check: Check | None = None
) -> Commit:
    """Write a shard's files and make them exist."""
    begun = time.perf_counter()
    attempt = context.epoch.begin(name)
    content = write_shard(attempt.path, shard.arrays, shard.images)
    if check is not None:
        check(content)
    commit = context.epoch.commit(attempt, {"trajectories": len(shard.images)}, content, supersede=supersede)
    logger().info("%s: stored in %.2f s", name, time.perf_counter() - begun)
    return commit


def prompt_embeds(epoch: Epoch, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Stored prompt embeddings, [L, D] float32 each; only these are read."""
    stored = StoredPrompts(epoch.fetch(epoch.latest("prompts"))).read(sorted(set(prompts)))
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


def to_arrays(batches: Iterable[Trajectories], count: int, seeds: Mapping[str, str]) -> GeneratedShard:
    """Generation batches of one shard as the store's arrays; bfloat16 latents become a uint16 view.

    Each batch is copied to its place as it comes, so that a shard is in memory once, and one batch beside it.

    Args:
        batches: As they are sampled.
        count: Trajectories of all of them together.
        seeds: Trajectory id to its noise addresses.
    """
    latents, log_prob, images = torch.empty(0), torch.empty(0), np.empty(0)
    ids: list[str] = []
    group_ids: list[str] = []
    prompts: list[str] = []
    for batch in batches:
        if not ids:
            latents = torch.empty(count, *batch.latents.shape[1:], dtype=batch.latents.dtype)
            log_prob = torch.empty(count, *batch.log_prob.shape[1:], dtype=batch.log_prob.dtype)
            images = np.empty((count, *batch.images.shape[1:]), batch.images.dtype)
        place = slice(len(ids), len(ids) + len(batch))
        latents[place], log_prob[place], images[place] = batch.latents, batch.log_prob, batch.images
        ids += batch.ids
        group_ids += batch.group_ids
        prompts += batch.prompts
        timesteps, trainable = batch.timesteps, batch.trainable
    if len(ids) != count:
        raise ValueError(f"{len(ids)} trajectories came for a shard of {count}")
    return GeneratedShard(
        TrajectoryArrays(
            ids=tuple(ids),
            group_ids=tuple(group_ids),
            prompts=tuple(prompts),
            latents=(latents.view(torch.uint16) if latents.dtype == torch.bfloat16 else latents).numpy(),
            latents_dtype=str(latents.dtype).removeprefix("torch."),
            log_prob=log_prob.numpy(),
            timesteps=timesteps.numpy(),
            trainable=trainable.numpy(),
            seeds=seeds,
        ),
        images,
    )
