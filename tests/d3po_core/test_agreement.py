"""The table of an epoch's judges, in closed form."""

import pytest

from d3po_core.agreement import agreement_of, gold_score, krippendorff_alpha
from d3po_core.records import Judgement

LEVELS = {"first": ((1.0,), (0.0,)), "second": ((0.0,), (1.0,)), "tie": ((0.0,), (0.0,))}


def said(group: int, judge: int, answer: str, seconds: float | None = None, at: int = 0) -> Judgement:
    name = f"g{group:06d}"
    return Judgement(
        id=f"ls:{group}{judge}{at}", group_id=name, judge=f"user:{judge}", verdict="prefer", seconds=seconds,
        trajectory_ids=(f"{name}-0", f"{name}-1"), levels=LEVELS[answer], updated_at=f"2026-01-01T00:00:0{at}Z",
    )  # fmt: skip


def test_each_judge_is_compared_with_the_majority_of_the_others() -> None:
    found = agreement_of(
        [
            said(0, 1, "first", 2.0), said(0, 2, "first", 4.0), said(0, 3, "second"),
            said(1, 1, "second", 3.0), said(1, 2, "second", 4.0), said(1, 3, "second"),
            said(2, 1, "first", 9.0),
        ]
    )  # fmt: skip
    one, two, three = found.judges
    assert [(judge.judge, judge.groups, judge.seconds_median) for judge in found.judges] == [
        ("user:1", 3, 3.0), ("user:2", 2, 4.0), ("user:3", 2, None),
    ]  # fmt: skip
    # In the first group the others of 1 disagree with each other, and so do those of 2: there is no majority.
    assert (one.compared, one.agreement) == (1, 1.0)
    assert (two.compared, two.agreement) == (1, 1.0)
    assert (three.compared, three.agreement) == (2, 0.5)
    assert three.reliability < one.reliability
    assert [judge.gold_accuracy for judge in found.judges] == [None] * 3


def test_judges_come_in_the_order_of_their_numbers() -> None:
    found = agreement_of([said(0, judge, "first") for judge in (10, 9, 2)])
    assert [judge.judge for judge in found.judges] == ["user:2", "user:9", "user:10"]


def test_alpha_by_hand() -> None:
    # Two judges, three pairs: (1, 1), (1, -1), (-1, -1). Observed disagreement: one pair of three, distance 1.
    # Expected: of 6 values 3 are 1 and 3 are -1, so 3·3·2 of 6·5 ordered pairs differ: 0.6. Alpha = 1 - (1/3)/0.6.
    votes = {key: {"a": a, "b": b} for key, (a, b) in enumerate([(1, 1), (1, -1), (-1, -1)])}
    assert krippendorff_alpha(votes) == pytest.approx(1 - (1 / 3) / 0.6)
    # With a tie in the place of the one disagreement, its distance is a quarter: 1/12 observed. Expected, of the values
    # 1 1 1 0 -1 -1: (3·2·1 + 3·1·¼ + 1·2·¼)·2 of 30.
    votes[1] = {"a": 1, "b": 0}
    assert krippendorff_alpha(votes) == pytest.approx(1 - (1 / 12) / (14.5 / 30))


def test_alpha_of_nothing_to_disagree_about() -> None:
    assert krippendorff_alpha({1: {"a": 1}, 2: {"b": -1}}) is None
    assert krippendorff_alpha({1: {"a": 1, "b": 1}, 2: {"b": -1}}) is None
    assert "data/krippendorff_alpha" not in agreement_of([said(0, 1, "first")]).metrics()


def test_known_answers_are_scored_and_never_compared() -> None:
    good = {"g000009": ("g000009-1",), "g000010": ("g000010-0",)}
    gold = [said(9, 1, "second"), said(10, 1, "first"), said(9, 2, "first"), said(10, 2, "tie")]
    found = agreement_of([said(0, 1, "first")], gold, good)
    one, two = found.judges
    assert (one.gold_answers, one.gold_accuracy, one.groups) == (2, 1.0, 1)
    assert (two.gold_answers, two.gold_accuracy, two.groups) == (2, 0.0, 0)
    assert (two.agreement, found.alpha) == (None, None)
    assert found.metrics() == {"data/gold_accuracy": 0.5}


def test_the_latest_known_answer_of_a_judge_counts() -> None:
    gold = [said(9, 1, "first", at=1), said(9, 1, "second", at=2)]
    [one] = agreement_of([], gold, {"g000009": ("g000009-1",)}).judges
    assert (one.gold_answers, one.gold_accuracy) == (1, 1.0)


def test_marks_are_scored_pair_by_pair() -> None:
    answer = Judgement(
        id="ls:1", group_id="g", judge="user:1", verdict="mark", trajectory_ids=("g-0", "g-1", "g-2", "g-3"),
        levels=((0.0,), (-1.0,), (-1.0,), (0.0,)), updated_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    assert gold_score(answer, {"g-0", "g-3"}) == 1.0
    assert gold_score(answer, {"g-0", "g-1", "g-3"}) == pytest.approx(2 / 3)  # g-1 and g-2 are marked alike
    assert gold_score(answer, {"g-1", "g-2"}) == 0.0
    with pytest.raises(ValueError, match="no pair of a good and a bad image"):
        gold_score(answer, set(answer.trajectory_ids))
