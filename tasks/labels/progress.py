"""When an epoch's judgements are complete: the one answer for the gate, the flow and ``d3po status``.

Counted from validated judgements. Label Studio's own counters count invalid annotations, stay short for ever when two
people submit at the same moment, and never finish a task that everybody skips.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from d3po_core.records import Judgement

__all__ = ["Progress", "progress"]


class Skipped(Protocol):
    """What is read of a skip."""

    @property
    def group_id(self) -> str: ...
    @property
    def judge(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far people have come with one epoch."""

    settled: tuple[str, ...]
    """Groups with enough judgements by distinct people, in plan order."""
    set_aside: tuple[str, ...]
    """Groups that enough people skipped."""
    open: tuple[str, ...]
    """All other groups."""
    per_judge: Mapping[str, int]
    """Groups that each judge has judged, most first."""
    left_for: Mapping[str, int]
    """Open groups that each of these judges has not judged yet."""
    needed: int
    """Judgements that the groups not set aside need in all."""
    given: int
    """How many of these are there; what exceeds a group's need does not count."""

    @property
    def groups(self) -> int:
        """All of them."""
        return len(self.settled) + len(self.set_aside) + len(self.open)

    @property
    def complete(self) -> bool:
        """Nothing is left to judge."""
        return not self.open

    @property
    def fraction(self) -> float:
        """given / needed, in [0, 1]; 1 when nothing is needed."""
        return self.given / self.needed if self.needed else 1.0


def progress(
    group_ids: Iterable[str],
    judgements: Iterable[Judgement],
    skips: Iterable[Skipped],
    *,
    judgements_per_group: int | Mapping[str, int],
    max_skips: int,
) -> Progress:
    """Count who has judged what.

    Args:
        group_ids: The groups that were pushed.
        judgements: Validated; several by one person on one group count once.
        skips: A person who skipped a group and has judged it as well has judged it.
        judgements_per_group: How many people a group needs, for all groups or for each.
        max_skips: So many people who skip a group without enough others judging it set it aside; 0 for never.

    Raises:
        ValueError: A group that needs less than one judgement, or a negative ``max_skips``.
    """
    groups = tuple(group_ids)
    need = {group: _need(judgements_per_group, group) for group in groups}
    if max_skips < 0:
        raise ValueError(f"max_skips is a number of people, not {max_skips}")
    judges: defaultdict[str, set[str]] = defaultdict(set)
    skippers: defaultdict[str, set[str]] = defaultdict(set)
    for judgement in judgements:
        judges[judgement.group_id].add(judgement.judge)
    for skip in skips:
        skippers[skip.group_id].add(skip.judge)

    def state(group: str) -> str:
        if len(judges[group]) >= need[group]:
            return "settled"
        return "set aside" if 0 < max_skips <= len(skippers[group] - judges[group]) else "open"

    state_of = {group: state(group) for group in groups}
    settled, set_aside, left = (
        tuple(group for group in groups if state_of[group] == kind) for kind in ("settled", "set aside", "open")
    )
    per_judge = Counter(judge for group in groups for judge in sorted(judges[group]))
    return Progress(
        settled=settled,
        set_aside=set_aside,
        open=left,
        per_judge=dict(per_judge.most_common()),
        left_for={judge: sum(judge not in judges[group] for group in left) for judge in per_judge},
        needed=sum(need[group] for group in (*settled, *left)),
        given=sum(min(len(judges[group]), need[group]) for group in (*settled, *left)),
    )


def _need(judgements_per_group: int | Mapping[str, int], group: str) -> int:
    need = judgements_per_group if isinstance(judgements_per_group, int) else judgements_per_group[group]
    if need < 1:
        raise ValueError(f"group {group} needs {need} judgements; at least one was expected")
    return need
