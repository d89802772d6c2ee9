"""How far each judge is to be believed, and what was probably meant, from nothing but who agreed with whom.

The one-coin model of Dawid and Skene (1979): every judge has one probability of answering right, an error falls on the
other answers alike, and expectation maximisation finds these probabilities and the answers together. One number a judge,
and not a whole confusion matrix, because which image of a pair comes first is drawn by lot: there is no class to favour.
The estimator is crowd-kit's. Knows nothing of how votes became judgements.
"""

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Reliability", "dawid_skene"]

Item = TypeVar("Item", bound=Hashable)
TIE, FIRST, SECOND = 0, 1, -1
ITERATIONS = 200
TOLERANCE = 1e-7
"""Of the mean evidence bound of a vote; crowd-kit's default, 1e-5, stops a few thousandths short in the reliabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What the votes say of the judges, and of each other."""

    of_judge: Mapping[str, float]
    """Judge → probability that a vote of theirs is right, in [0, 1]; only who voted where another did as well."""
    first_better: Mapping[Any, float]
    """Item → P(the first is better) + P(a tie) / 2, in [0, 1]."""


def dawid_skene(ballots: Mapping[Item, Mapping[str, int]]) -> Reliability:
    """Estimate the judges and the answers together.

    Args:
        ballots: Item (an image pair) → judge → vote: 1 the first is better, -1 the second, 0 a tie.

    Returns:
        Without any item that two judges voted on, or where all votes are equal, nothing can be told: no judge has a
        reliability, and an item's probability is the mean of its votes.

    Raises:
        ValueError: A vote that is none of the three.

    Source: Dawid and Skene 1979; one coin: Zhang et al. 2014 (crowd-kit's ``OneCoinDawidSkene``).
    """
    votes = [(item, judge, vote) for item in ballots for judge, vote in ballots[item].items()]
    if unknown := {vote for _, _, vote in votes} - {TIE, FIRST, SECOND}:
        raise ValueError(f"A vote is 1, 0 or -1; found {sorted(unknown)}.")
    shared = {judge for ballot in ballots.values() if len(ballot) > 1 for judge in ballot}
    if not shared or len({vote for _, _, vote in votes}) == 1:
        return Reliability(
            of_judge={},
            first_better={item: _mean_vote(ballot) for item, ballot in ballots.items() if ballot},
        )
    skills, posterior = _fit(votes, list(ballots))
    return Reliability(
        of_judge={judge: float(skills[judge]) for judge in sorted(shared)},
        first_better=posterior,
    )


def _fit(votes: list[tuple[Item, str, int]], items: list[Item]) -> tuple[Any, dict[Item, float]]:
    # Two seconds of imports, paid by those who ask.
    import pandas as pd
    from crowdkit.aggregation import OneCoinDawidSkene

    number = {item: place for place, item in enumerate(items)}
    table = pd.DataFrame(
        [(number[item], judge, vote) for item, judge, vote in votes], columns=["task", "worker", "label"]
    )
    with warnings.catch_warnings():  # crowd-kit names arguments that pandas 3 will drop one day
        warnings.simplefilter("ignore", DeprecationWarning)
        model = OneCoinDawidSkene(n_iter=ITERATIONS, tol=TOLERANCE)
        probability = model.fit_predict_proba(table).reindex(columns=[SECOND, TIE, FIRST], fill_value=0.0)
    first = (probability[FIRST] + probability[TIE] / 2).reindex(range(len(items)))
    return model.skills_, dict(zip(items, first.tolist(), strict=True))


def _mean_vote(ballot: Mapping[str, int]) -> float:
    return 0.5 + sum(ballot.values()) / (2 * len(ballot))
