"""How well an epoch's judges agree: each with the others, with known answers, and all of them together.

By numbers of people, never by names. Derived from judgements alone, so that it can be made again at any time.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from d3po_core.preferences import ImagePair, ballots_of, latest_judgements, votes_of
from d3po_core.records import Judgement
from d3po_core.reliability import dawid_skene

__all__ = ["Agreement", "JudgeQuality", "agreement_of", "gold_score", "krippendorff_alpha"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeQuality:
    """One judge in one epoch. A share is None where there is nothing to share."""

    judge: str
    """``user:7``."""
    groups: int
    """Groups judged."""
    seconds_median: float | None
    """Of their judgements, where Label Studio measured it."""
    compared: int
    """Image pairs on which the others' votes have a majority."""
    agreement: float | None
    """Share of these on which the judge says what that majority says."""
    reliability: float | None
    """Probability that a vote is right, by Dawid and Skene's model."""
    gold_answers: int
    """Comparisons with a known answer that were judged."""
    gold_accuracy: float | None
    """Share of them, pair by pair of a good and a bad image, that was told rightly; a tie is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The judges of one epoch."""

    judges: tuple[JudgeQuality, ...]
    """In the order of their names."""
    alpha: float | None
    """Krippendorff's alpha over all votes on image pairs (worse, tie, better): 1 is agreement, 0 is chance."""

    def metrics(self) -> dict[str, float]:
        """The numbers of the whole epoch under their metric names; what is not known is left out."""
        answers = [(one.gold_accuracy, one.gold_answers) for one in self.judges if one.gold_accuracy is not None]
        total = sum(count for _, count in answers)
        values = {
            "data/krippendorff_alpha": self.alpha,
            "data/gold_accuracy": sum(share * count for share, count in answers) / total if total else None,
        }
        return {name: value for name, value in values.items() if value is not None}


def agreement_of(
    judgements: Iterable[Judgement],
    gold: Iterable[Judgement] = (),
    good: Mapping[str, Iterable[str]] | None = None,
) -> Agreement:
    """Compare every judge with the others, and with what is known.

    Args:
        judgements: Of the epoch's groups, validated, in any order.
        gold: Of the comparisons with a known answer.
        good: Such a comparison's id → the ids of its good images.
    """
    counted, _, _ = latest_judgements(judgements)
    ballots = ballots_of(counted)
    reliability = dawid_skene(ballots).of_judge
    agreeing = _with_the_others(ballots)
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for answer in latest_judgements(gold)[0]:
        scores[answer.judge].append(gold_score(answer, set((good or {})[answer.group_id])))
    own: defaultdict[str, list[Judgement]] = defaultdict(list)
    for judgement in counted:
        own[judgement.judge].append(judgement)
    qualities = tuple(
        JudgeQuality(
            judge=judge,
            groups=len(own[judge]),
            seconds_median=_median(one.seconds for one in own[judge]),
            compared=len(agreeing[judge]),
            agreement=_mean(agreeing[judge]),
            reliability=reliability.get(judge),
            gold_answers=len(scores[judge]),
            gold_accuracy=_mean(scores[judge]),
        )
        for judge in sorted({*own, *scores}, key=_by_number)
    )
    return Agreement(judges=qualities, alpha=krippendorff_alpha(ballots))


def gold_score(answer: Judgement, good: set[str]) -> float:
    """The share of (good image, bad image) pairs on which an answer says that the good one is better, in [0, 1].

    Raises:
        ValueError: All images are good, or none is.
    """
    votes = votes_of(answer)
    told = [
        (vote if first in good else -vote) == 1
        for (first, second), vote in votes.items()
        if (first in good) != (second in good)
    ]
    if not told:
        raise ValueError(f"{answer.group_id} has no pair of a good and a bad image; its good ones are {sorted(good)}.")
    return fmean(told)


def krippendorff_alpha(ballots: Mapping[ImagePair, Mapping[str, int]]) -> float | None:
    """Krippendorff's alpha of the votes on image pairs, as interval data: a tie lies halfway from worse to better.

    Returns:
        None where no pair has two votes, or all such votes are the same: there is nothing to disagree about.
    """
    shared = [ballot for ballot in ballots.values() if len(ballot) > 1]
    if len({vote for ballot in shared for vote in ballot.values()}) < 2:
        return None
    import pandas as pd
    from crowdkit.metrics.data import alpha_krippendorff

    rows = [(item, judge, vote) for item, ballot in enumerate(shared) for judge, vote in ballot.items()]
    votes = pd.DataFrame(rows, columns=["task", "worker", "label"])
    return float(alpha_krippendorff(votes, _distance))


def _distance(vote: Any, other: Any) -> float:
    """Of two votes, in [0, 1]."""
    return float((vote - other) ** 2) / 4


def _with_the_others(ballots: Mapping[ImagePair, Mapping[str, int]]) -> defaultdict[str, list[bool]]:
    """Judge → for each image pair on which more than half of the others' votes are equal, whether theirs is, too."""
    agreeing: defaultdict[str, list[bool]] = defaultdict(list)
    for ballot in ballots.values():
        for judge, vote in ballot.items():
            others = Counter(other for name, other in ballot.items() if name != judge)
            if not others:
                continue
            [(common, times)] = others.most_common(1)
            if 2 * times > others.total():
                agreeing[judge].append(vote == common)
    return agreeing


def _by_number(judge: str) -> tuple[str, int, str]:
    kind, _, number = judge.partition(":")
    return (kind, int(number), "") if number.isdigit() else (kind, -1, number)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _mean(values: list[float] | list[bool]) -> float | None:
    return fmean(values) if values else None
