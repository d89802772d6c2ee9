"""Values become judgements, and judges that err at a stated rate stand in for people.

A simulated judge answers from (run seed, epoch, group, judge) and the values alone: not from when, in which order or
how often it is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from d3po_core import noise
from d3po_core.records import Judgement

__all__ = ["SimulatedJudge", "programmed_judgement"]


def programmed_judgement(
    group_id: str, trajectory_ids: Sequence[str], values: Mapping[str, Sequence[float]], updated_at: str | None = None
) -> Judgement:
    """One group's judgement by programmed objectives: each image's levels are its values.

    Args:
        group_id: the group.
        trajectory_ids: [k] its images.
        values: objective's name -> [k] values, higher is better; several objectives must all agree (METHOD 3).
        updated_at: ISO 8601 time; now if empty.

    Raises:
        ValueError: where a value is missing or not finite.
    """
    names = sorted(values)
    columns = [[float(value) for value in values[name]] for name in names]
    for name, column in zip(names, columns, strict=True):
        if len(column) != len(trajectory_ids) or not np.isfinite(column).all():
            raise ValueError(f"{name} of {group_id}: expected {len(trajectory_ids)} finite values, found {column}.")
    judge = "programmed:" + "+".join(names)
    return Judgement(
        id=f"{judge}:{group_id}",
        group_id=group_id,
        judge=judge,
        verdict="programmed",
        trajectory_ids=tuple(trajectory_ids),
        levels=tuple(zip(*columns, strict=True)),
        updated_at=updated_at or datetime.now(UTC).isoformat(timespec="seconds"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedJudge:
    """Somebody who sees the values, and errs."""

    name: str
    run_seed: int
    epoch: int
    error_rate: float = 0.0
    """Share of answers given the wrong way round, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.error_rate <= 1.0:
            raise ValueError(f"error_rate is {self.error_rate}, expected 0 … 1.")

    def compare(self, group_id: str, left: float, right: float) -> Literal["left", "right", "tie"]:
        """The answer to two images as shown: the better one, the other one in case of an error; equal values tie."""
        if left == right:
            return "tie"
        errs = self._generator(group_id).random() < self.error_rate
        return "left" if (left > right) != errs else "right"

    def mark(self, group_id: str, values: Mapping[str, float], share: float = 0.5) -> tuple[str, ...]:
        """The ids marked bad: the worst ``share`` of the images (rounded down, at least one), each mark flipped in case
        of an error. Equal values are told apart by id, and nothing is marked where all are equal.

        Args:
            group_id: the group.
            values: trajectory id -> value, higher is better.
            share: in (0, 1).
        """
        if not 0.0 < share < 1.0:
            raise ValueError(f"share is {share}, expected between 0 and 1.")
        ids = sorted(values)
        worst = sorted(ids, key=lambda name: (values[name], name))[: max(1, int(len(ids) * share))]
        if len({values[name] for name in ids}) == 1:
            worst = []
        errs = self._generator(group_id).random(len(ids)) < self.error_rate
        return tuple(name for name, err in zip(ids, errs, strict=True) if (name in worst) != err)

    def _generator(self, group_id: str) -> np.random.Generator:
        return noise.generator("judge", run_seed=self.run_seed, epoch=self.epoch, group=group_id, image=self.name)
