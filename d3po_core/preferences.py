"""Judgements become votes, votes become pairs (METHOD 2, "From judgements to pairs").

One rule serves every verdict: a judge votes a ≻ b where each of a's levels is at least b's and one is above; else the
vote is a tie. Everything is joined by ids, nothing by position. What counts as a judgement at all (skips, drafts,
orphans) was decided before.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Literal

from d3po_core.records import Judgement, Pair
from d3po_core.reliability import dawid_skene

__all__ = [
    "Contradiction",
    "ImagePair",
    "PreferenceStatistics",
    "ballots_of",
    "better",
    "judgements_to_pairs",
    "latest_judgements",
    "votes_of",
]

ImagePair = tuple[str, str, str]
"""Group, and two of its trajectories in the order of their ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """One judge's earlier judgement of a group that votes otherwise than the one that counts."""

    group_id: str
    judge: str
    earlier: str
    """The id of the judgement that does not count."""
    counted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceStatistics:
    """What the judgements said, before any of it is trained on. Shares are None where there is nothing to share."""

    judgements: int
    """Judgements that count: the latest of each judge and group."""
    superseded: int
    """Earlier ones of the same judge and group."""
    contradictions: tuple[Contradiction, ...]
    judges: int
    groups: int
    both_bad: int
    """Judgements that say so; each is a tie vote as well."""
    pairs: int
    undecided: int
    """Image pairs with votes that became no pair: only ties, or no majority."""
    tie_rate: float | None
    """Share of votes on image pairs that are ties."""
    marked_rate: float | None
    """Share of images marked, over the ``mark`` judgements."""
    agreement: float | None
    """Share of equal votes, over every two judges of one image pair."""

    def metrics(self) -> dict[str, float]:
        """The numbers under their metric names; shares of nothing are left out."""
        values = {
            "data/judgements": self.judgements,
            "data/pairs": self.pairs,
            "data/undecided": self.undecided,
            "data/both_bad": self.both_bad,
            "data/contradictions": len(self.contradictions),
            "data/tie_rate": self.tie_rate,
            "data/marked_rate": self.marked_rate,
            "data/agreement": self.agreement,
        }
        return {name: float(value) for name, value in values.items() if value is not None}


def judgements_to_pairs(
    judgements: Iterable[Judgement], votes: Literal["majority", "soft", "reliability"] = "majority"
) -> tuple[tuple[Pair, ...], PreferenceStatistics]:
    """Count everybody's votes on every two images of a group.

    Args:
        judgements: validated ones, in any order.
        votes: ``majority``: a pair where more than half of all votes, ties included, go one way, with target 1;
            ``soft``: a pair wherever someone did not vote a tie, with target p = (n_w + n_tie / 2) / n;
            ``reliability``: the same pairs, with the probability that Dawid and Skene's model gives them: everybody's
            vote counts for as much as their agreement with the others says.

    Returns:
        The pairs, sorted by their ids, and the statistics.
    """
    counted, superseded, contradictions = latest_judgements(judgements)
    ballots = ballots_of(counted)
    believed = dawid_skene(ballots).first_better if votes == "reliability" else {}
    made = (_pair(key, [*ballots[key].values()], votes, believed.get(key)) for key in sorted(ballots))
    pairs = tuple(pair for pair in made if pair is not None)
    cast = [vote for ballot in ballots.values() for vote in ballot.values()]
    agreeing = [a == b for ballot in ballots.values() for a, b in combinations(ballot.values(), 2)]
    marks = [level[0] < 0 for judgement in counted if judgement.verdict == "mark" for level in judgement.levels]
    return pairs, PreferenceStatistics(
        judgements=len(counted),
        superseded=superseded,
        contradictions=contradictions,
        judges=len({judgement.judge for judgement in counted}),
        groups=len({judgement.group_id for judgement in counted}),
        both_bad=sum(judgement.verdict == "both_bad" for judgement in counted),
        pairs=len(pairs),
        undecided=len(ballots) - len(pairs),
        tie_rate=_share(vote == 0 for vote in cast),
        marked_rate=_share(marks),
        agreement=_share(agreeing),
    )


def ballots_of(counted: Iterable[Judgement]) -> dict[ImagePair, dict[str, int]]:
    """Everybody's vote on every two images of a group: 1 where the first is better, -1 the second, 0 for a tie.

    Args:
        counted: At most one judgement of each judge and group, as ``latest_judgements`` leaves them.
    """
    ballots: dict[ImagePair, dict[str, int]] = defaultdict(dict)
    for judgement in counted:
        for (first, second), vote in votes_of(judgement).items():
            ballots[judgement.group_id, first, second][judgement.judge] = vote
    return dict(ballots)


def latest_judgements(
    judgements: Iterable[Judgement],
) -> tuple[list[Judgement], int, tuple[Contradiction, ...]]:
    """Of one judge's several judgements of one group the latest, how many are not, and those that contradict it.

    Returns:
        The judgements that count in order of group and judge, the number of the others, the contradictions.
    """
    by_judge: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_judge[judgement.group_id, judgement.judge].append(judgement)
    counted, contradictions, superseded = [], [], 0
    for key in sorted(by_judge):
        *earlier, last = sorted(by_judge[key], key=_moment)
        counted.append(last)
        superseded += len(earlier)
        contradictions += [
            Contradiction(group_id=key[0], judge=key[1], earlier=old.id, counted=last.id)
            for old in earlier
            if votes_of(old) != votes_of(last)
        ]
    return counted, superseded, tuple(contradictions)


def _moment(judgement: Judgement) -> tuple[datetime, int, str]:
    """When it was given; of the same time in the order of the numbers that ids end with: ``row:10`` is after ``row:9``."""
    time = datetime.fromisoformat(judgement.updated_at)
    return time if time.tzinfo else time.replace(tzinfo=UTC), len(judgement.id), judgement.id


def votes_of(judgement: Judgement) -> dict[tuple[str, str], int]:
    """(a, b) with a < b by id -> 1 where a ≻ b, -1 where b ≻ a, 0 for a tie."""
    if len(judgement.trajectory_ids) != len(judgement.levels):
        raise ValueError(
            f"Judgement {judgement.id} has {len(judgement.levels)} levels for {len(judgement.trajectory_ids)} images."
        )
    levels = dict(zip(judgement.trajectory_ids, judgement.levels, strict=True))
    return {(a, b): better(levels[a], levels[b]) for a, b in combinations(sorted(levels), 2)}


def better(a: Sequence[float], b: Sequence[float]) -> int:
    """1 where a ≻ b, −1 where b ≻ a, 0 for a tie: better is at least as good in all values and better in one.

    Args:
        a: [objectives] values of one image, higher is better.
        b: [objectives] the other's.

    Source: Pareto dominance (METHOD 3).
    """
    if tuple(a) == tuple(b):
        return 0
    if all(x >= y for x, y in zip(a, b, strict=True)):
        return 1
    return -1 if all(x <= y for x, y in zip(a, b, strict=True)) else 0


def _pair(key: ImagePair, ballot: list[int], votes: str, believed: float | None) -> Pair | None:
    """The pair that a ballot makes; ``believed`` is P(the first is better) where the judges' reliability counts."""
    group, first, second = key
    count, total = Counter(ballot), len(ballot)
    if count[0] == total:
        return None
    share = (count[1] + count[0] / 2) / total if believed is None else believed
    ahead = share - 0.5 or count[1] - count[-1]
    preferred, dispreferred, vote = (first, second, 1) if ahead >= 0 else (second, first, -1)
    if votes == "majority" and 2 * count[vote] <= total:
        return None
    return Pair(
        group_id=group,
        preferred=preferred,
        dispreferred=dispreferred,
        target=1.0 if votes == "majority" else max(share, 1 - share),
        votes_preferred=count[vote],
        votes_tie=count[0],
        votes_dispreferred=count[-vote],
    )


def _share(values: Iterable[bool]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
