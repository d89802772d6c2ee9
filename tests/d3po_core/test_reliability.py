"""Judges of known accuracy are found again, and a bad one among good ones costs less than by majority."""

import numpy as np
import pytest

from d3po_core.preferences import judgements_to_pairs
from d3po_core.programmed.judges import SimulatedJudge
from d3po_core.records import Judgement
from d3po_core.reliability import dawid_skene

ERRORS = {"user:1": 0.05, "user:2": 0.10, "user:3": 0.20, "user:4": 0.45}
TOLERANCE = 0.03
"""Of a reliability, from 3,000 groups that three of the judges each see; up to 1.1 % is the sampling error alone."""


def simulated(groups: int, errors: dict[str, float], per_group: int, seed: int = 0) -> list[Judgement]:
    """What simulated judges say of pairs of which the first image is the better one where the group's number is even."""
    judges = {name: SimulatedJudge(name=name, run_seed=seed, epoch=0, error_rate=rate) for name, rate in errors.items()}
    rng = np.random.default_rng(seed)
    said = []
    for group in range(groups):
        name = f"g{group:06d}"
        for judge in rng.choice(sorted(judges), per_group, replace=False):
            answer = judges[judge].compare(name, float(group % 2 == 0), float(group % 2 == 1))
            levels = {"left": ((1.0,), (0.0,)), "right": ((0.0,), (1.0,))}[answer]
            said.append(
                Judgement(
                    id=f"{judge}:{name}",
                    group_id=name,
                    judge=str(judge),
                    verdict="prefer",
                    trajectory_ids=(f"{name}-0", f"{name}-1"),
                    levels=levels,
                    updated_at="2026-01-01T00:00:00Z",
                )
            )
    return said


def ballots(judgements: list[Judgement]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for one in judgements:
        found.setdefault(one.group_id, {})[one.judge] = 1 if one.levels[0] > one.levels[1] else -1
    return found


def right(pairs) -> float:
    """The share of pairs whose preferred image is the better one."""
    return float(np.mean([int(pair.preferred[-1]) == int(pair.group_id[1:]) % 2 for pair in pairs]))


@pytest.mark.parametrize("seed", range(3))
def test_judges_of_known_accuracy_are_found_again(seed: int) -> None:
    found = dawid_skene(ballots(simulated(3000, ERRORS, per_group=3, seed=seed))).of_judge
    assert found == pytest.approx({judge: 1 - error for judge, error in ERRORS.items()}, abs=TOLERANCE)


def test_two_judges_a_group_are_enough_where_they_mix() -> None:
    found = dawid_skene(ballots(simulated(3000, ERRORS, per_group=2))).of_judge
    assert found == pytest.approx({judge: 1 - error for judge, error in ERRORS.items()}, abs=2 * TOLERANCE)
    assert sorted(found, key=found.__getitem__)[:2] == ["user:4", "user:3"]


@pytest.mark.parametrize("seed", range(3))
def test_bad_judges_among_good_ones_cost_less_than_by_majority(seed: int) -> None:
    errors = {"user:1": 0.05, "user:2": 0.45, "user:3": 0.45}
    said = simulated(600, errors, per_group=3, seed=seed)
    majority, _ = judgements_to_pairs(said, "majority")
    weighted, _ = judgements_to_pairs(said, "reliability")
    assert len(majority) == len(weighted) == 600, "three votes without ties always have a majority"
    assert right(weighted) > right(majority) + 0.05
    assert right(weighted) > 0.9


def test_targets_are_as_sure_as_they_are_right() -> None:
    pairs, _ = judgements_to_pairs(simulated(3000, ERRORS, per_group=2), "reliability")
    assert all(0.5 <= pair.target <= 1 for pair in pairs)
    unsure = [pair for pair in pairs if pair.target < 0.8]
    sure = [pair for pair in pairs if pair.target > 0.95]
    for some in (unsure, sure):
        assert len(some) > 200
        assert right(some) == pytest.approx(np.mean([pair.target for pair in some]), abs=0.05)


def few_shared(groups: int, repeated: float, seed: int) -> list[Judgement]:
    """One of four judges a group, two in a share of them: what ``labels.repeat_fraction`` makes."""
    errors = {"user:1": 0.10, "user:2": 0.15, "user:3": 0.20, "user:4": 0.25}
    rng = np.random.default_rng(seed)
    said = simulated(groups, errors, per_group=4, seed=seed)
    return [
        said[4 * group + judge]
        for group in range(groups)
        for judge in rng.permutation(4)[: 1 + int(rng.random() < repeated)]
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("groups", "repeated"), [(128, 0.1), (128, 0.3), (1000, 0.1)])
def test_a_few_shared_pairs_turn_no_vote_around(groups: int, repeated: float, seed: int) -> None:
    said = few_shared(groups, repeated, seed)
    soft, _ = judgements_to_pairs(said, "soft")
    weighted, _ = judgements_to_pairs(said, "reliability")
    assert not [
        pair for pair in weighted if pair.votes_preferred < pair.votes_dispreferred and not pair.votes_preferred
    ]
    assert right(weighted) > right(soft) - 0.06
    assert np.mean([pair.target for pair in weighted]) > 0.7, "and most of what they say is kept"


def test_two_who_disagree_once_are_both_believed_in_all_else() -> None:
    """By the plain model one of them is always right and the other always wrong."""
    votes = {f"a{item}": {"a": 1 - 2 * (item % 2)} for item in range(29)}
    votes |= {f"b{item}": {"b": 1 - 2 * (item % 2)} for item in range(19)} | {"both": {"a": 1, "b": -1}}
    found = dawid_skene(votes)
    assert found.of_judge["a"] == pytest.approx(found.of_judge["b"])
    assert found.of_judge["a"] > 0.8
    assert all(
        (found.first_better[item] - 0.5) * sum(ballot.values()) > 0.3
        for item, ballot in votes.items()
        if len(ballot) == 1
    )
    assert found.first_better["both"] == pytest.approx(0.5)


def test_one_judge_alone_is_taken_at_their_word() -> None:
    said = simulated(20, {"user:1": 0.3}, per_group=1)
    assert dawid_skene(ballots(said)).of_judge == {}
    assert judgements_to_pairs(said, "reliability")[0] == judgements_to_pairs(said, "soft")[0]


def test_who_shares_no_pair_with_anybody_has_no_reliability() -> None:
    found = dawid_skene({1: {"a": 1, "b": 1}, 2: {"a": -1, "b": 1}, 3: {"c": 1}})
    assert set(found.of_judge) == {"a", "b"}


def test_ties_alone_make_no_pair_and_ties_count_as_answers() -> None:
    found = dawid_skene({1: {"a": 0, "b": 0}, 2: {"a": 1, "b": 1}, 3: {"a": -1, "b": -1}})
    assert found.first_better == pytest.approx({1: 0.5, 2: 1.0, 3: 0.0}, abs=1e-6)
    assert found.of_judge == pytest.approx({"a": 1.0, "b": 1.0})


def test_all_votes_equal_say_nothing_of_anybody() -> None:
    found = dawid_skene({1: {"a": 1, "b": 1}, 2: {"a": 1}})
    assert (found.of_judge, found.first_better) == ({}, {1: 1.0, 2: 1.0})


def test_a_vote_is_one_of_three() -> None:
    with pytest.raises(ValueError, match=r"1, 0 or -1; found \[2\]"):
        dawid_skene({1: {"a": 2}})
