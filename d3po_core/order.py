"""Which groups and transitions each optimizer step trains on: fixed by seeds before the first of them.

Groups are dealt, never shards or rows: a seeded permutation of the sorted group ids per inner epoch, cut into whole
groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from d3po_core import noise
from d3po_core.config import TrainingConfig
from d3po_core.objectives.specs import Couples

__all__ = ["OptimizerStep", "plan_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStep:
    """The data of one optimizer step, over all processes."""

    inner_epoch: int
    group_ids: tuple[str, ...]
    transitions: tuple[tuple[int, ...], ...]
    """Per group, the denoising steps to train on, rising."""
    count: int
    """Terms of the loss in the whole step (pairs × transitions, say): what every mean of the step is over."""


def plan_steps(
    terms: Mapping[str, int],
    trainable_T: torch.Tensor,
    training: TrainingConfig,
    *,
    run_seed: int,
    epoch: int,
    couples: Couples = "transition",
) -> list[OptimizerStep]:
    """All optimizer steps of one training, in order.

    Args:
        terms: group id -> terms of the loss (at each transition, or over all where it couples trajectories); ties are
            no pairs and so are in no mean.
        trainable_T: [T] bool, the steps to train on: those that have a density.
        training: inner epochs, groups per step, transitions per trajectory.
        couples: what one term holds together.

    Raises:
        ValueError: where there are no terms, or fewer trainable transitions than asked for.
    """
    steps_of = [int(step) for step in torch.nonzero(trainable_T[: training.first_transitions]).flatten()]
    wanted = training.transitions_per_trajectory or len(steps_of)
    if not terms:
        raise ValueError(
            "There is nothing to train on: every vote was a tie, or nothing was judged. See `d3po status RUN`; "
            "training.votes: soft makes pairs of split votes."
        )
    if not steps_of or wanted > len(steps_of):
        raise ValueError(
            f"training.transitions_per_trajectory is {wanted}, but {len(steps_of)} of the "
            f"{len(trainable_T[: training.first_transitions])} denoising steps to train on have a density (σ > 0). Set "
            "it lower or leave it empty."
        )
    ids, plan = sorted(terms), []
    per_term = 1 if couples == "trajectory" else wanted
    for inner in range(training.inner_epochs):
        order = noise.generator("order", run_seed=run_seed, epoch=epoch, step=inner).permutation(len(ids))
        for first in range(0, len(ids), training.groups_per_step):
            members = tuple(ids[place] for place in order[first : first + training.groups_per_step])
            chosen = tuple(_transitions(steps_of, wanted, run_seed, epoch, group, inner) for group in members)
            plan.append(
                OptimizerStep(
                    inner_epoch=inner,
                    group_ids=members,
                    transitions=chosen,
                    count=per_term * sum(terms[group] for group in members),
                )
            )
    return plan


def _transitions(
    steps_of: list[int], wanted: int, run_seed: int, epoch: int, group: str, inner: int
) -> tuple[int, ...]:
    """A group's images share the subset: a pair is compared at the same transitions."""
    if wanted == len(steps_of):
        return tuple(steps_of)
    generator = noise.generator("transitions", run_seed=run_seed, epoch=epoch, group=group, step=inner)
    return tuple(sorted(steps_of[place] for place in generator.choice(len(steps_of), wanted, replace=False)))
