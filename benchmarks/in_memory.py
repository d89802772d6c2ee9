"""Epochs in one process and in memory, by the core's own functions: what is measured without store and services."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from d3po_core.checkpoint import CheckpointState
from d3po_core.policy import Policy
from d3po_core.records import Group, Pair, Reward, Trajectories
from d3po_core.reference import reference_log_probs
from d3po_core.rollout import rollout
from d3po_core.training import TrainingResult, train
from tasks.config import Configuration
from tasks.generation.prompts import epoch_prompts, read_prompts

__all__ = ["InMemory", "first_preferred", "groups_of", "loaded", "one_prompt", "sampled", "trained"]


class InMemory:
    """One epoch's trajectories as the training loop's source."""

    def __init__(self, batches: Sequence[Trajectories], embeds: dict[str, torch.Tensor]) -> None:
        first = batches[0]
        self._all = replace(
            first,
            ids=tuple(id for batch in batches for id in batch.ids),
            group_ids=tuple(id for batch in batches for id in batch.group_ids),
            prompts=tuple(prompt for batch in batches for prompt in batch.prompts),
            latents=torch.cat([batch.latents for batch in batches]),
            log_prob=torch.cat([batch.log_prob for batch in batches]),
            images=None,
        )
        self._embeds = embeds

    def read(self, group_ids) -> Trajectories:
        return self._all.select(
            [row for group in group_ids for row, own in enumerate(self._all.group_ids) if own == group]
        )

    def prompt_embeds(self, prompts) -> torch.Tensor:
        return torch.stack([self._embeds[prompt] for prompt in prompts])


def loaded(configuration: Configuration) -> Policy:
    """The configured model with a new adapter."""
    return Policy.load(
        configuration.model,
        configuration.sampling,
        configuration.lora,
        threads=configuration.orchestration.threads,
        lora_seed=configuration.seed,
    )


def groups_of(configuration: Configuration, policy: Policy, epoch: int) -> tuple[list[Group], dict[str, torch.Tensor]]:
    """The groups that this epoch's plan would have, and their prompts' embeddings."""
    count = configuration.prompts.groups_per_epoch
    prompts = epoch_prompts(
        read_prompts(configuration.prompts.file), seed=configuration.seed, used=epoch * count, count=count
    )
    return _groups(policy, prompts)


def one_prompt(policy: Policy, count: int) -> tuple[list[Group], dict[str, torch.Tensor]]:
    """Groups of one prompt, where only time and memory matter."""
    return _groups(policy, ["a picture"] * count)


def _groups(policy: Policy, prompts: Sequence[str]) -> tuple[list[Group], dict[str, torch.Tensor]]:
    groups = [Group(id=f"g{index:06d}", index=index, prompt=prompt) for index, prompt in enumerate(prompts)]
    distinct = sorted({*prompts, ""})
    return groups, dict(zip(distinct, policy.encode(distinct), strict=True))


def sampled(
    configuration: Configuration,
    policy: Policy,
    groups: list[Group],
    embeds: dict[str, torch.Tensor],
    epoch: int = 0,
    *,
    images: bool = True,
) -> list[Trajectories]:
    """The groups' trajectories, in generation batches."""
    size = configuration.sampling.groups_per_batch
    batches = [groups[first : first + size] for first in range(0, len(groups), size)]
    return list(
        rollout(
            policy,
            batches,
            configuration.sampling,
            run_seed=configuration.seed,
            epoch=epoch,
            embeds=embeds,
            images=images,
        )
    )


def first_preferred(group: Group) -> Pair:
    """One person preferred the group's first image to its second."""
    return Pair(
        group_id=group.id,
        preferred=f"{group.id}-0",
        dispreferred=f"{group.id}-1",
        target=1.0,
        votes_preferred=1,
        votes_tie=0,
        votes_dispreferred=0,
    )


def trained(
    configuration: Configuration,
    policy: Policy,
    source: InMemory,
    pairs: Sequence[Pair],
    rewards: Sequence[Reward] = (),
    epoch: int = 0,
    state: CheckpointState | None = None,
) -> TrainingResult:
    """An epoch's training, from where an earlier one ended; the policy has the new adapter afterwards."""
    held = None
    if configuration.objective.reference == "pretrained" and configuration.objective.spec.quantity == "log_prob":
        held = reference_log_probs(policy, source, sorted({one.group_id for one in (*pairs, *rewards)}))
    result = train(
        policy,
        source,
        pairs,
        configuration.objective,
        configuration.training,
        run_seed=configuration.seed,
        epoch=epoch,
        rewards=rewards,
        reference_log_probs=held,
        initial_state=state,
    )
    policy.load_lora_state(dict(result.state.lora))
    return result
