"""One optimizer step's gradient, in micro-batches of any size, for any objective over log-ratios (METHOD 2).

The loss depends on the network through one log-prob per image and transition. Its coefficients ∂L/∂log π come from
autograd on that tiny table; then Σ coefficient · log π is backpropagated micro-batch by micro-batch, so memory is one
micro-batch's, whatever the loss couples. Each image's log-prob is computed once per transition, not once per pair.
Where the log-probs come from makes three cases:

* *known*: before the first update they are the stored ones: no first pass, and the second is the start check as well;
* *one pass*: where the loss couples no more than a group's images at one transition, and these fit a micro-batch, the
  micro-batch's own forward gives its coefficients;
* *two passes*: else, a forward over everything without gradient comes first.

Elements whose coefficient is known to be 0 (clipped, or in no pair) are not computed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from d3po_core import ddim
from d3po_core.errors import TrainingError
from d3po_core.objectives.base import GroupPairs, Metrics, Objective
from d3po_core.policy import Policy
from d3po_core.start_check import StartCheck

__all__ = ["GroupData", "accumulate_gradient", "log_probs"]

Row = tuple[int, int, int]
"""(group, image, place among the group's transitions)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupData:
    """One group's part of a step: K images that are in a pair, S transitions."""

    ids: tuple[str, ...]
    """[K] trajectory ids."""
    latents: torch.Tensor
    """[K, T+1, C, H, W]."""
    embeds: torch.Tensor
    """[L, D] float32: the prompt."""
    transitions: tuple[int, ...]
    """[S] denoising steps."""
    stored: torch.Tensor
    """[K, S] float64: log-probs of the policy that sampled."""
    reference: torch.Tensor
    """[K, S] float64: log-probs of the reference."""
    pairs: GroupPairs


def accumulate_gradient(
    policy: Policy,
    objective: Objective,
    groups: Sequence[GroupData],
    *,
    count: int,
    micro_batch: int,
    start_check: StartCheck | None = None,
) -> Metrics:
    """Add this step's gradient (this process's part of it) to the adapter's ``.grad``.

    Args:
        groups: this process's whole groups of the step; may be none.
        count: terms of the whole step over all processes: the sum of the parts is the global mean.
        micro_batch: rows (images × transitions) in one forward and backward.
        start_check: given before the first update: log-ratios are known, and checked.

    Returns:
        The objective's metrics of these groups, to be summed over processes.

    Raises:
        TrainingError: where a log-prob or the loss is not finite, naming the trajectories.
    """
    if not groups:
        return {}
    if start_check is not None:
        coefficients, metrics = _coefficients(objective, policy, groups, [group.stored for group in groups], count)
        _second_pass(policy, groups, coefficients, micro_batch, start_check)
        return metrics
    largest = max(len(group.ids) for group in groups)
    if objective.couples == "transition" and largest <= micro_batch:
        return _one_pass(policy, objective, groups, count, micro_batch)
    with torch.no_grad():
        current = [torch.empty_like(group.stored) for group in groups]
        for rows in _cut(_all_rows(groups), micro_batch):
            _, values = log_probs(policy, groups, rows)
            for (place, image, transition), value in zip(rows, values.cpu(), strict=True):
                current[place][image, transition] = value
    coefficients, metrics = _coefficients(objective, policy, groups, current, count)
    _second_pass(policy, groups, coefficients, micro_batch, None)
    return metrics


def log_probs(policy: Policy, groups: Sequence[GroupData], rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy's means [rows, C, H, W] and its log-probs [rows] float64 of the stored actions.

    Raises:
        TrainingError: where a log-prob is not finite, naming the trajectories.
    """
    steps = [groups[place].transitions[transition] for place, _, transition in rows]
    states = torch.stack([groups[row[0]].latents[row[1], step] for row, step in zip(rows, steps, strict=True)])
    actions = torch.stack([groups[row[0]].latents[row[1], step + 1] for row, step in zip(rows, steps, strict=True)])
    embeds = torch.stack([groups[place].embeds for place, _, _ in rows])
    mean, sigma = policy.transition(states, torch.tensor(steps), embeds)
    values = ddim.log_prob(actions, mean, sigma)
    finite = values.detach().isfinite().cpu()
    if not bool(finite.all()):
        places = [_name(groups, row) for row, fine in zip(rows, finite.tolist(), strict=True) if not fine]
        bad = [f"{trajectory} (step {step})" for trajectory, step in places]
        raise TrainingError(
            f"The log-prob is not finite for {len(bad)} of {len(rows)} transitions: {', '.join(bad[:8])}. Nothing of "
            "this step was applied. Lower training.learning_rate or use model.dtype float32, then `d3po run CONFIG --retrain`."
        )
    return mean, values


def _one_pass(
    policy: Policy, objective: Objective, groups: Sequence[GroupData], count: int, micro_batch: int
) -> Metrics:
    total: Metrics = {}
    for blocks in _pack(groups, micro_batch):
        rows = [
            (place, image, transition)
            for place, transitions in blocks.items()
            for image in range(len(groups[place].ids))
            for transition in transitions
        ]
        mean, values = log_probs(policy, groups, rows)
        parts = [_part(groups[place], transitions) for place, transitions in blocks.items()]
        sizes = [part.stored.numel() for part in parts]
        current = [
            value.reshape_as(part.stored) for value, part in zip(values.detach().cpu().split(sizes), parts, strict=True)
        ]
        coefficients, metrics = _coefficients(objective, policy, parts, current, count)
        _backward(policy, mean, values, torch.cat([table.flatten() for table in coefficients]))
        _merge(total, metrics)
    return total


def _second_pass(
    policy: Policy,
    groups: Sequence[GroupData],
    coefficients: list[torch.Tensor],
    micro_batch: int,
    start_check: StartCheck | None,
) -> None:
    rows = [row for row in _all_rows(groups) if coefficients[row[0]][row[1], row[2]] != 0]
    if start_check is not None and not rows:
        rows = _all_rows(groups)[:micro_batch]  # even splits alone: no gradient yet, but the check is due
    for batch in _cut(rows, micro_batch):
        mean, values = log_probs(policy, groups, batch)
        if start_check is not None:
            stored = torch.stack([groups[place].stored[image, transition] for place, image, transition in batch])
            start_check.compare(values.detach().cpu(), stored, [_name(groups, row) for row in batch])
        weights = torch.stack([coefficients[place][image, transition] for place, image, transition in batch])
        _backward(policy, mean, values, weights)


def _coefficients(
    objective: Objective, policy: Policy, groups: Sequence[GroupData], log_prob: list[torch.Tensor], count: int
) -> tuple[list[torch.Tensor], Metrics]:
    """∂L/∂(mean log-prob) [K, S] per group by autograd on the tables of log-probs, and the metrics."""
    unit = policy.dimensions if objective.reduction == "sum" else 1
    tables: list[torch.Tensor] = []
    total: Metrics = {}
    for group, values in zip(groups, log_prob, strict=True):
        leaf = values.detach().clone().requires_grad_(True)
        ratio, sampled = (leaf - group.reference) * unit, (group.stored - group.reference) * unit
        loss, metrics = objective(ratio, sampled, group.pairs, count)
        (table,) = torch.autograd.grad(loss, leaf)
        if not (bool(loss.isfinite()) and bool(table.isfinite().all())):
            raise TrainingError(
                f"The loss is not finite ({float(loss)}) for the trajectories {', '.join(group.ids)}. Nothing of this "
                "step was applied. Lower training.learning_rate, then `d3po run CONFIG --retrain`."
            )
        tables.append(table)
        _merge(total, metrics)
    return tables, total


def _backward(policy: Policy, mean: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> None:
    """Add Σ weights · log-probs' gradient to the adapter's ``.grad`` (float32).

    A float16 network would lose gradients this small (coefficients are of order β / count, means over C, H, W): they
    enter it scaled to about 1 by a power of two, which is exact, and are scaled back in float32.
    """
    (at_mean,) = torch.autograd.grad((values * weights.to(values)).sum(), mean)
    scale = 1.0
    if policy.dtype == torch.float16:
        largest = float(at_mean.abs().max())
        scale = 2.0 ** -math.frexp(largest)[1] if largest > 0 else 1.0
    parameters = list(policy.lora_parameters().values())
    for parameter, gradient in zip(
        parameters, torch.autograd.grad(mean, parameters, grad_outputs=at_mean * scale), strict=True
    ):
        gradient = gradient / scale if scale != 1.0 else gradient
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _all_rows(groups: Sequence[GroupData]) -> list[Row]:
    return [
        (place, image, transition)
        for place, group in enumerate(groups)
        for image in range(len(group.ids))
        for transition in range(len(group.transitions))
    ]


def _cut(rows: list[Row], size: int) -> Iterator[list[Row]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _pack(groups: Sequence[GroupData], size: int) -> Iterator[dict[int, list[int]]]:
    """Fill micro-batches with whole (group, transition) blocks: group -> places of its transitions."""
    batch: dict[int, list[int]] = {}
    room = size
    for place, group in enumerate(groups):
        for transition in range(len(group.transitions)):
            if len(group.ids) > room:
                yield batch
                batch, room = {}, size
            batch.setdefault(place, []).append(transition)
            room -= len(group.ids)
    if batch:
        yield batch


def _part(group: GroupData, places: list[int]) -> GroupData:
    """The group with some of its transitions only."""
    return GroupData(
        ids=group.ids,
        latents=group.latents,
        embeds=group.embeds,
        transitions=tuple(group.transitions[place] for place in places),
        stored=group.stored[:, places],
        reference=group.reference[:, places],
        pairs=group.pairs,
    )


def _name(groups: Sequence[GroupData], row: Row) -> tuple[str, int]:
    place, image, transition = row
    return groups[place].ids[image], groups[place].transitions[transition]


def _merge(total: Metrics, part: Metrics) -> None:
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value
