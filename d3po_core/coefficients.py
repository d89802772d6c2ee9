"""From values to coefficients: ∂L/∂value by autograd on the tables of values, [images × transitions] a group.

Nothing here knows the network: ``gradients.py`` puts its values in and takes their coefficients out.
"""

from collections.abc import Iterable, Sequence

import torch

from d3po_core.errors import TrainingError
from d3po_core.evaluations import Evaluation
from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, Objective

__all__ = ["add_up", "coefficients", "coefficients_at", "gather", "scatter"]


def scatter(tables: Sequence[torch.Tensor], batch: Iterable[Evaluation], values: torch.Tensor) -> None:
    """Put values, in the order of ``values_of``, to their images and transitions: one table [K, S] per group."""
    remaining = iter(values)
    for one in batch:
        for image in one.images:
            tables[one.group][image, one.place] = next(remaining)


def gather(tables: Sequence[torch.Tensor], batch: Iterable[Evaluation]) -> torch.Tensor:
    """The reverse: [images] of the tables, in the order of ``values_of``."""
    return torch.stack([tables[one.group][image, one.place] for one in batch for image in one.images])


def coefficients(
    objective: Objective, groups: Sequence[GroupData], current: Sequence[torch.Tensor], count: int
) -> tuple[list[torch.Tensor], Metrics]:
    """∂L/∂value [K, S] per group, and the metrics.

    Raises:
        TrainingError: where the loss or a coefficient is not finite.
    """
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
        add_up(total, metrics)
    return tables, total


def coefficients_at(
    objective: Objective,
    groups: Sequence[GroupData],
    current: Sequence[torch.Tensor],
    batch: Sequence[Evaluation],
    count: int,
) -> torch.Tensor:
    """∂L/∂value [images] of whole blocks, in the order of ``values_of``.

    The tables have to have these blocks' values; what else is in them makes no difference, as it is not coupled.
    """
    places: dict[int, dict[int, int]] = {}  # group -> its transitions in the batch -> their columns
    for one in batch:
        own = places.setdefault(one.group, {})
        own.setdefault(one.place, len(own))
    parts = [groups[group].at(list(own)) for group, own in places.items()]
    found, _ = coefficients(objective, parts, [current[group][:, list(own)] for group, own in places.items()], count)
    tables = dict(zip(places, found, strict=True))
    return torch.stack(
        [tables[one.group][image, places[one.group][one.place]] for one in batch for image in one.images]
    )


def add_up(total: Metrics, part: Metrics) -> Metrics:
    """Add a part's metrics to the total, in place."""
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value
    return total
