"""How far each judge is to be believed, and what was probably meant, from nothing but who agreed with whom.

The one-coin model of Dawid and Skene (1979): every judge has one probability of answering right, an error falls on the
other answers alike, and expectation maximisation finds these probabilities and the answers together. One number a judge,
and not a whole confusion matrix, because which image of a pair comes first is drawn by lot: there is no class to favour.
The estimator is crowd-kit's. From a handful of shared votes it calls one judge infallible and another always wrong, so
what it says of a judge counts by how many votes it says it from, and no vote ever counts against what it says. Knows
nothing of how votes became judgements.
"""

import math
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

__all__ = ["Reliability", "dawid_skene"]

Item = TypeVar("Item", bound=Hashable)
TIE, FIRST, SECOND = 0, 1, -1
ITERATIONS = 200
TOLERANCE = 1e-7
"""Of the mean evidence bound of a vote; crowd-kit's default, 1e-5, stops a few thousandths short in the reliabilities."""
PRIOR_VOTES = 20
"""A judge is taken for one of all, and all for right, with the weight of this many votes."""
SURE = 1 - 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What the votes say of the judges, and of each other."""

    of_judge: Mapping[str, float]
    """Judge → probability that a vote of theirs is right, in [0, 1]; only who voted where another did as well."""
    first_better: Mapping[Any, float]
    """Item → P(the first is better) + P(a tie) / 2, in [0, 1]; votes that agree are never overruled."""


def dawid_skene(ballots: Mapping[Item, Mapping[str, int]]) -> Reliability:
    """Estimate the judges and the answers together.

    Args:
        ballots: Item (an image pair) → judge → vote: 1 the first is better, -1 the second, 0 a tie.

    Returns:
        Without any item that two judges voted on, or where all votes are equal, nothing can be told: no judge has a
        reliability, and an item's probability is the mean of its votes.

    Raises:
        ValueError: A vote that is none of the three.

    Source: Dawid and Skene 1979; one coin: Zhang et al. 2014 (crowd-kit's ``OneCoinDawidSkene``). Ours: a judge's
    estimate is drawn towards everybody's by ``PRIOR_VOTES``, and is at least that of a guess.
    """
    answers = {vote for ballot in ballots.values() for vote in ballot.values()}
    if unknown := answers - {TIE, FIRST, SECOND}:
        raise ValueError(f"A vote is 1, 0 or -1; found {sorted(unknown)}.")
    shared = {item: ballot for item, ballot in ballots.items() if len(ballot) > 1}
    if not shared or len(answers) == 1:
        return Reliability(
            of_judge={},
            first_better={item: _mean_vote(ballot) for item, ballot in ballots.items() if ballot},
        )
    estimated = _fit([(place, *vote) for place, ballot in enumerate(shared.values()) for vote in ballot.items()])
    votes = Counter(judge for ballot in shared.values() for judge in ballot)
    everybody = _drawn(fmean(estimated[judge] for judge in votes.elements()), votes.total(), towards=1.0)
    of_judge = {judge: _drawn(estimated[judge], votes[judge], towards=everybody) for judge in sorted(votes)}
    prior = _prior(ballots)
    return Reliability(
        of_judge=of_judge,
        first_better={
            item: _first_better([(of_judge.get(judge, everybody), vote) for judge, vote in ballot.items()], prior)
            for item, ballot in ballots.items()
            if ballot
        },
    )


def _drawn(estimate: float, votes: int, *, towards: float) -> float:
    return (votes * estimate + PRIOR_VOTES * towards) / (votes + PRIOR_VOTES)


def _prior(ballots: Mapping[Item, Mapping[str, int]]) -> dict[int, float]:
    """How often which answer is right, before any vote: which image of a pair is the first is drawn by lot."""
    votes = Counter(vote for ballot in ballots.values() for vote in ballot.values())
    tie = votes[TIE] / votes.total()
    return {FIRST: (1 - tie) / 2, SECOND: (1 - tie) / 2, **({TIE: tie} if tie else {})}


def _first_better(ballot: list[tuple[float, int]], prior: Mapping[int, float]) -> float:
    """P(the first is better) + P(a tie) / 2, of votes with the probabilities that they are right."""
    guess = 1 / len(prior)
    logs = {
        answer: math.log(share)
        + sum(
            math.log(right if vote == answer else (1 - right) / (len(prior) - 1))
            for right, vote in ((min(max(right, guess), SURE), vote) for right, vote in ballot)
        )
        for answer, share in prior.items()
        if share
    }
    highest = max(logs.values())
    weights = {answer: math.exp(value - highest) for answer, value in logs.items()}
    return (weights.get(FIRST, 0.0) + weights.get(TIE, 0.0) / 2) / sum(weights.values())


def _fit(votes: list[tuple[int, str, int]]) -> dict[str, float]:
    """Judge → the share of votes that are right, by expectation maximisation."""
    # Two seconds of imports, paid by those who ask.
    import pandas as pd
    from crowdkit.aggregation import OneCoinDawidSkene

    table = pd.DataFrame(votes, columns=["task", "worker", "label"])
    with warnings.catch_warnings():  # crowd-kit names arguments that pandas 3 will drop one day
        warnings.simplefilter("ignore", DeprecationWarning)
        skills = OneCoinDawidSkene(n_iter=ITERATIONS, tol=TOLERANCE).fit(table).skills_
    return {str(judge): float(skill) for judge, skill in skills.items()}


def _mean_vote(ballot: Mapping[str, int]) -> float:
    return 0.5 + sum(ballot.values()) / (2 * len(ballot))
