"""Values become judgements, and judges that err at a stated rate stand in for people.

A simulated judge answers from (run seed, epoch, group, judge) and the values alone: not from when, in which order or
how often it is asked.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from d3po_core import noise
from d3po_core.preferences import better
from d3po_core.records import Judgement

__all__ = ["SimulatedJudge", "expected_accuracy", "programmed_judgement", "to_be_marked"]


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


def expected_accuracy(error_rate: float, bias: float, leaned: float = 0.5) -> float:
    """The share of right answers that a ``SimulatedJudge`` gives in the long run.

    Args:
        error_rate: the judge's.
        bias: the judge's.
        leaned: how often what the judge leans to is right anyway. ``compare``: half of the time the left image is the
            better one. ``mark``: the share of the images that are to be marked.
    """
    return (1 - bias) * (1 - error_rate) + bias * leaned


def to_be_marked(images: int, share: float) -> int:
    """How many of a group's images are its worst ``share``: rounded down, at least one."""
    return max(1, int(images * share))


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedJudge:
    """Somebody who sees the values, errs, and leans to one side.

    An image's value is a number, or one number for each of several objectives: then better is what
    ``d3po_core.preferences.better`` says.
    """

    name: str
    run_seed: int
    epoch: int
    error_rate: float = 0.0
    """Share of the answers (of the marks) that are given the wrong way round, in [0, 1]."""
    bias: float = 0.0
    """In [0, 1]. ``compare``: the share of the groups that are answered *left* without a look, ties too. ``mark``: the share
    of the images that are marked without a look."""

    def __post_init__(self) -> None:
        for name in ("error_rate", "bias"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 … 1.")

    def compare(
        self, group_id: str, left: float | Sequence[float], right: float | Sequence[float]
    ) -> Literal["left", "right", "tie"]:
        """The answer to two images as shown: the better one, the other one in case of an error; where neither is better, a
        tie."""
        generator = self._generator(group_id)
        errs, leans = generator.random() < self.error_rate, generator.random() < self.bias
        order = better(_values(left), _values(right))
        if leans:
            return "left"
        if order == 0:
            return "tie"
        return "left" if (order > 0) != errs else "right"

    def mark(self, group_id: str, values: Mapping[str, float | Sequence[float]], share: float = 0.5) -> tuple[str, ...]:
        """The ids marked bad: the worst ``share`` of the images (rounded down, at least one), each mark flipped in case of an
        error, and with a bias others as well. The worst are those that most others are better than; equal ones are told
        apart by id, and nothing is bad where none is better than another.

        Args:
            group_id: the group.
            values: trajectory id -> value, higher is better.
            share: in (0, 1).
        """
        if not 0.0 < share < 1.0:
            raise ValueError(f"share is {share}, expected between 0 and 1.")
        ids = sorted(values)
        of = {name: _values(values[name]) for name in ids}
        rank = {name: sum(better(of[name], of[other]) for other in ids) for name in ids}
        worst = sorted(ids, key=lambda name: (rank[name], name))[: to_be_marked(len(ids), share)]
        return self._marked(group_id, set(worst) if any(rank.values()) else set(), ids)

    def mark_below(self, group_id: str, values: Mapping[str, float], threshold: float) -> tuple[str, ...]:
        """The ids marked bad by a standard that stays: what is below ``threshold``, each mark flipped in case of an error.

        So fewer are marked as the images get better. A bias marks that share of all others as well.

        Args:
            group_id: the group.
            values: trajectory id -> value of one objective, higher is better.
            threshold: in the objective's unit.
        """
        return self._marked(group_id, {name for name in values if values[name] < threshold}, sorted(values))

    def _marked(self, group_id: str, bad: Set[str], ids: Sequence[str]) -> tuple[str, ...]:
        generator = self._generator(group_id)
        errs, leans = generator.random(len(ids)) < self.error_rate, generator.random(len(ids)) < self.bias
        return tuple(
            name for name, err, lean in zip(ids, errs, leans, strict=True) if (name in bad) != bool(err) or lean
        )

    def _generator(self, group_id: str) -> np.random.Generator:
        return noise.generator("judge", run_seed=self.run_seed, epoch=self.epoch, group=group_id, image=self.name)


def _values(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) else (float(value),)
