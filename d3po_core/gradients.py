"""One optimizer step's gradient, in micro-batches of any size, for any objective (METHOD 2).

The loss depends on the network through one number per image and transition: a log-prob, or a denoising error. Its
coefficients ∂L/∂value come from autograd on that tiny table; then Σ coefficient · value is backpropagated micro-batch by
micro-batch, so memory is one micro-batch's, whatever the loss couples. Each state passes through the network once, not
once per pair or image. Where the values come from makes three cases:

* *known*: before the first update the log-probs are the stored ones: no first pass, and the second is the start check
  as well;
* *one pass*: where a block of what the loss couples (one image's value, a group's images at one transition, a group's
  whole trajectories) fits a micro-batch, the micro-batch's own forward gives its coefficients;
* *two passes*: for larger blocks, a forward without gradient comes first.

A second pass leaves out the elements whose coefficient is 0 (clipped, or in no pair); one pass backpropagates what is
clipped, as that is known only after its forward. Images that have no coefficient whatever the network says are not
evaluated at all. With a KL to the pretrained model at every state, nothing is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from d3po_core import ddim
from d3po_core.coefficients import add_up, coefficients, coefficients_at, gather, scatter
from d3po_core.evaluations import Evaluation, blocks, cut, every_evaluation, means_of, names, packed, values_of
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
    tables = [group.stored.clone() for group in groups]
    ready, beside = every_evaluation(groups), Metrics()
    if start_check is None:
        wanted = _with_coefficients(objective, groups)
        ready = [one for block in wanted if len(block) > micro_batch for one in block]
        _first_pass(policy, groups, ready, tables, micro_batch)
        fitting = [block for block in wanted if len(block) <= micro_batch]
        beside = _one_pass(policy, objective, groups, fitting, tables, count, micro_batch)
    weights, metrics = coefficients(objective, groups, tables, count)
    add_up(metrics, beside)
    return add_up(metrics, _second_pass(policy, objective, groups, ready, weights, micro_batch, count, start_check))


def _with_coefficients(objective: Objective, groups: Sequence[GroupData]) -> list[list[Evaluation]]:
    """The blocks that have a gradient, as far as that is known beforehand."""
    every = blocks(groups, objective.spec.couples)
    if objective.kl_weight:
        return every
    idle = [objective.idle(group) for group in groups]
    return [block for block in every if any(not set(one.images) <= idle[one.group] for one in block)]


@torch.no_grad()
def _first_pass(
    policy: Policy,
    groups: Sequence[GroupData],
    evaluations: Sequence[Evaluation],
    tables: Sequence[torch.Tensor],
    micro_batch: int,
) -> None:
    """Put the values of these evaluations into the tables [K, S], without gradient."""
    for batch in cut(evaluations, micro_batch):
        _, values = values_of(policy, groups, batch)
        scatter(tables, batch, values.cpu())


def _one_pass(
    policy: Policy,
    objective: Objective,
    groups: Sequence[GroupData],
    fitting: Sequence[list[Evaluation]],
    tables: Sequence[torch.Tensor],
    count: int,
    micro_batch: int,
) -> Metrics:
    """The gradient of blocks that each fit a micro-batch, and their values into the tables."""
    total: Metrics = {}
    for batch in packed(fitting, micro_batch):
        output, values = values_of(policy, groups, batch)
        scatter(tables, batch, values.detach().cpu())
        weights = coefficients_at(objective, groups, tables, batch, count)
        kl, beside = _kl_gradient(policy, objective, groups, batch, output, count)
        if kl is not None or bool(weights.any()):
            _backward(policy, output, values, weights, kl)
        del output, values  # with their graph, where there was no backward to free it
        add_up(total, beside)
    return total


def _second_pass(
    policy: Policy,
    objective: Objective,
    groups: Sequence[GroupData],
    ready: Sequence[Evaluation],
    weights: Sequence[torch.Tensor],
    micro_batch: int,
    count: int,
    start_check: StartCheck | None,
) -> Metrics:
    """The gradient of evaluations whose coefficients are known."""
    total: Metrics = {}
    needed = [one for one in ready if objective.kl_weight or bool(gather(weights, [one]).any())]
    if start_check is not None and not needed:
        needed = list(ready[:micro_batch])  # even splits alone: no gradient yet, but the check is due
    for batch in cut(needed, micro_batch):
        output, values = values_of(policy, groups, batch)
        if start_check is not None:
            stored = gather([group.stored for group in groups], batch)
            start_check.compare(values.detach().cpu(), stored, names(groups, batch))
        kl, beside = _kl_gradient(policy, objective, groups, batch, output, count)
        _backward(policy, output, values, gather(weights, batch), kl)
        add_up(total, beside)
    return total


def _with_reference_errors(policy: Policy, groups: Sequence[GroupData], micro_batch: int) -> list[GroupData]:
    """The pretrained model's denoising errors, under the same noise."""
    tables = [torch.empty_like(group.stored) for group in groups]
    with policy.reference():
        _first_pass(policy, groups, every_evaluation(groups), tables, micro_batch)
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
