"""One optimizer step's gradient, in micro-batches of any size, for any objective (METHOD 2).

The loss depends on the network through one number per image and transition: a log-prob, or a denoising error. Its
coefficients ∂L/∂value come from autograd on that tiny table; then Σ coefficient · value is backpropagated micro-batch by
micro-batch, so memory is one micro-batch's, whatever the loss couples. Each state passes through the network once, not
once per pair or image. Where the values come from makes three cases:

* *known*: before the first update the log-probs are the stored ones: no first pass, and the second is the start check
  as well;
* *one pass*: where the loss couples no more than a group's images at one transition, and these fit a micro-batch, the
  micro-batch's own forward gives its coefficients;
* *two passes*: else, a forward over everything without gradient comes first.

Elements whose coefficient is known to be 0 (clipped, or in no pair) are not computed, unless the objective adds a KL to
the pretrained model at every state.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from d3po_core import ddim
from d3po_core.errors import TrainingError
from d3po_core.evaluations import Evaluation, blocks, cut, every_evaluation, means_of, names, values_of
from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, Objective
from d3po_core.policy import Policy
from d3po_core.start_check import StartCheck

__all__ = ["accumulate_gradient"]


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
        micro_batch: network evaluations (states; guidance takes two rows each) in one forward and backward.
        start_check: given before the first update: log-ratios are known, and checked.

    Returns:
        The objective's metrics of these groups, to be summed over processes.

    Raises:
        TrainingError: where a log-prob or the loss is not finite, naming the trajectories.
    """
    if not groups:
        return {}
    if objective.spec.quantity == "denoising_error" and objective.reference == "pretrained":
        groups = _with_reference_errors(policy, groups, micro_batch)
    if start_check is not None:
        coefficients, metrics = _coefficients(objective, groups, [group.stored for group in groups], count)
        return _merged(metrics, _second_pass(policy, objective, groups, coefficients, micro_batch, count, start_check))
    largest = max(len(group.ids) for group in groups)
    if objective.spec.couples == "transition" and largest <= micro_batch:
        return _one_pass(policy, objective, groups, count, micro_batch)
    current = _tables(policy, groups, micro_batch)
    coefficients, metrics = _coefficients(objective, groups, current, count)
    return _merged(metrics, _second_pass(policy, objective, groups, coefficients, micro_batch, count, None))


def _one_pass(
    policy: Policy, objective: Objective, groups: Sequence[GroupData], count: int, micro_batch: int
) -> Metrics:
    total: Metrics = {}
    for members in blocks(groups, micro_batch):
        parts = [groups[group].at(places) for group, places in members.items()]
        batch = every_evaluation(parts)
        output, values = values_of(policy, parts, batch)
        current = [torch.empty_like(part.stored) for part in parts]
        _scatter(current, batch, values.detach().cpu())
        coefficients, metrics = _coefficients(objective, parts, current, count)
        kl, beside = _kl_gradient(policy, objective, parts, batch, output, count)
        weights = _gather(coefficients, batch)
        if kl is not None or bool(weights.any()):
            _backward(policy, output, values, weights, kl)
        del output, values  # with their graph, where there was no backward to free it
        _merged(_merged(total, metrics), beside)
    return total


def _second_pass(
    policy: Policy,
    objective: Objective,
    groups: Sequence[GroupData],
    coefficients: list[torch.Tensor],
    micro_batch: int,
    count: int,
    start_check: StartCheck | None,
) -> Metrics:
    total: Metrics = {}
    every = every_evaluation(groups)
    needed = [one for one in every if objective.kl_weight or bool(_gather(coefficients, [one]).any())]
    if start_check is not None and not needed:
        needed = every[:micro_batch]  # even splits alone: no gradient yet, but the check is due
    for batch in cut(needed, micro_batch):
        output, values = values_of(policy, groups, batch)
        if start_check is not None:
            stored = _gather([group.stored for group in groups], batch)
            start_check.compare(values.detach().cpu(), stored, names(groups, batch))
        kl, beside = _kl_gradient(policy, objective, groups, batch, output, count)
        _backward(policy, output, values, _gather(coefficients, batch), kl)
        _merged(total, beside)
    return total


@torch.no_grad()
def _tables(policy: Policy, groups: Sequence[GroupData], micro_batch: int) -> list[torch.Tensor]:
    """Every value [K, S] per group, without gradient."""
    tables = [torch.empty_like(group.stored) for group in groups]
    for batch in cut(every_evaluation(groups), micro_batch):
        _, values = values_of(policy, groups, batch)
        _scatter(tables, batch, values.cpu())
    return tables


def _with_reference_errors(policy: Policy, groups: Sequence[GroupData], micro_batch: int) -> list[GroupData]:
    """The pretrained model's denoising errors, under the same noise."""
    with policy.reference():
        tables = _tables(policy, groups, micro_batch)
    return [replace(group, reference=table) for group, table in zip(groups, tables, strict=True)]


@torch.no_grad()
def _kl_gradient(
    policy: Policy,
    objective: Objective,
    groups: Sequence[GroupData],
    batch: Sequence[Evaluation],
    mean: torch.Tensor,
    count: int,
) -> tuple[torch.Tensor | None, Metrics]:
    """∂/∂μ of the weighted Σ KL(π_θ ‖ pretrained) = ‖μ − μ_pre‖² / (2σ²) over these states, and its metric."""
    if not objective.kl_weight:
        return None, {}
    with policy.reference():
        pretrained, sigma = means_of(policy, groups, batch)
    # One evaluation stands for all images whose state it is. The unit is the log-prob's: a mean over C, H, W, or a sum.
    images = torch.tensor([len(one.images) for one in batch], dtype=torch.float64, device=mean.device)
    weights = images * objective.unit / count
    with torch.enable_grad():
        leaf = mean.detach().requires_grad_(True)
        kl = (weights * ddim.kl(leaf, pretrained, sigma)).sum()
        (gradient,) = torch.autograd.grad(objective.kl_weight * kl, leaf)
    return gradient, {"train/kl": kl.detach().cpu()}


def _scatter(tables: list[torch.Tensor], batch: Iterable[Evaluation], values: torch.Tensor) -> None:
    """Put values, in the order of ``values_of``, to their images and transitions: one table [K, S] per group."""
    remaining = iter(values)
    for one in batch:
        for image in one.images:
            tables[one.group][image, one.place] = next(remaining)


def _gather(tables: Sequence[torch.Tensor], batch: Iterable[Evaluation]) -> torch.Tensor:
    """The reverse: [images] of the tables, in the order of ``values_of``."""
    return torch.stack([tables[one.group][image, one.place] for one in batch for image in one.images])


def _coefficients(
    objective: Objective, groups: Sequence[GroupData], current: list[torch.Tensor], count: int
) -> tuple[list[torch.Tensor], Metrics]:
    """∂L/∂value [K, S] per group by autograd on the tables of values, and the metrics."""
    tables: list[torch.Tensor] = []
    total: Metrics = {}
    for group, values in zip(groups, current, strict=True):
        leaf = values.detach().clone().requires_grad_(True)
        change, sampled = (leaf - group.reference) * objective.unit, (group.stored - group.reference) * objective.unit
        loss, metrics = objective(change, sampled, group, count)
        (table,) = torch.autograd.grad(loss, leaf)
        if not (bool(loss.isfinite()) and bool(table.isfinite().all())):
            raise TrainingError(
                f"The loss is not finite ({float(loss)}) for the trajectories {', '.join(group.ids)}. Nothing of this "
                "step was applied. Lower training.learning_rate, then `d3po run CONFIG --retrain`."
            )
        tables.append(table)
        _merged(total, metrics)
    return tables, total


def _backward(
    policy: Policy, output: torch.Tensor, values: torch.Tensor, weights: torch.Tensor, beside: torch.Tensor | None
) -> None:
    """Add the gradient of Σ weights · values, and what comes ``beside`` it at the output, to the adapter's ``.grad``.

    A float16 network would lose gradients this small (coefficients are of order β / count, means over C, H, W): they
    enter it scaled to about 1 by a power of two, which is exact, and are scaled back in float32.
    """
    (at_output,) = torch.autograd.grad((values * weights.to(values)).sum(), output)
    if beside is not None:
        at_output = at_output + beside
    scale = 1.0
    if policy.dtype == torch.float16:
        largest = float(at_output.abs().max())
        scale = 2.0 ** -math.frexp(largest)[1] if largest > 0 else 1.0
    parameters = list(policy.lora_parameters().values())
    for parameter, gradient in zip(
        parameters, torch.autograd.grad(output, parameters, grad_outputs=at_output * scale), strict=True
    ):
        gradient = gradient / scale if scale != 1.0 else gradient
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _merged(total: Metrics, part: Metrics) -> Metrics:
    """Add a part's metrics to the total, in place."""
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value
    return total
