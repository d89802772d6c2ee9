"""Programmed judgements, and simulated judges with a stated error rate."""

import math
from dataclasses import replace

import pytest

from d3po_core.preferences import judgements_to_pairs
from d3po_core.programmed.judges import SimulatedJudge, expected_accuracy, programmed_judgement, to_be_marked


def test_programmed_judgements_hold_the_values_and_become_pairs() -> None:
    judgement = programmed_judgement("g000003", ["g000003-0", "g000003-1"], {"jpeg_compressibility": [-1.9, -1.7]})
    assert judgement.levels == ((-1.9,), (-1.7,))
    assert judgement.judge == "programmed:jpeg_compressibility"
    assert judgement.verdict == "programmed"
    pairs, _ = judgements_to_pairs([judgement])
    assert [pair.preferred for pair in pairs] == ["g000003-1"]


def test_two_objectives_in_one_judgement() -> None:
    judgement = programmed_judgement("g", ["a", "b"], {"y": [1.0, 2.0], "x": [3.0, 4.0]})
    assert judgement.levels == ((3.0, 1.0), (4.0, 2.0))
    assert judgement.judge == "programmed:x+y"


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan]])
def test_missing_or_non_finite_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="x of g: expected 2 finite values"):
        programmed_judgement("g", ["a", "b"], {"x": values})


def judge(
    error_rate: float = 0.0, name: str = "user:1", seed: int = 1, epoch: int = 0, bias: float = 0.0
) -> SimulatedJudge:
    return SimulatedJudge(name=name, run_seed=seed, epoch=epoch, error_rate=error_rate, bias=bias)


def test_a_judge_without_errors_is_right_and_ties_equal_values() -> None:
    assert judge().compare("g", 2.0, 1.0) == "left"
    assert judge().compare("g", 1.0, 2.0) == "right"
    assert judge().compare("g", 1.0, 1.0) == "tie"
    assert judge(1.0).compare("g", 2.0, 1.0) == "right"


def test_errors_come_at_their_rate_and_do_not_depend_on_the_side() -> None:
    groups = [f"g{number:06d}" for number in range(4000)]
    wrong = [judge(0.3).compare(group, 2.0, 1.0) == "right" for group in groups]
    assert abs(sum(wrong) / 4000 - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 4000)
    assert wrong == [judge(0.3).compare(group, 1.0, 2.0) == "left" for group in groups], "an error is about the images"


def test_answers_depend_on_seed_epoch_group_and_judge_alone() -> None:
    groups = [f"g{number:06d}" for number in range(100)]

    def answers(one: SimulatedJudge) -> list[str]:
        return [one.compare(group, 2.0, 1.0) for group in groups]

    base = answers(judge(0.5))
    assert answers(judge(0.5)) == base
    assert [judge(0.5).compare(group, 2.0, 1.0) for group in reversed(groups)][::-1] == base
    for other in (judge(0.5, seed=2), judge(0.5, epoch=1), judge(0.5, name="user:2")):
        assert answers(other) != base


def test_marks_are_the_worst_share() -> None:
    values = {f"g-{image}": float(image) for image in range(7)}
    assert judge().mark("g", values, 0.45) == ("g-0", "g-1", "g-2")
    assert judge().mark("g", dict(reversed(values.items())), 0.45) == ("g-0", "g-1", "g-2")
    assert judge().mark("g", values, 0.01) == ("g-0",)
    assert judge().mark("g", dict.fromkeys(values, 1.0), 0.45) == ()
    assert judge(1.0).mark("g", values, 0.45) == ("g-3", "g-4", "g-5", "g-6")


def test_a_standard_that_stays_marks_fewer_as_images_get_better() -> None:
    values = {f"g-{image}": float(image) for image in range(7)}
    assert judge().mark_below("g", values, 3.0) == ("g-0", "g-1", "g-2")
    assert judge().mark_below("g", {name: value + 3 for name, value in values.items()}, 3.0) == ()
    assert judge(1.0).mark_below("g", values, 3.0) == ("g-3", "g-4", "g-5", "g-6")
    groups = [f"g{number}" for number in range(400)]
    rate = sum(len(judge(0.1).mark_below(group, values, 3.0)) for group in groups) / (7 * len(groups))
    assert rate == pytest.approx((3 * 0.9 + 4 * 0.1) / 7, abs=0.025)
    leaning = replace(judge(), bias=0.5)
    rate = sum(len(leaning.mark_below(group, values, 3.0)) for group in groups) / (7 * len(groups))
    assert rate == pytest.approx((3 + 4 * 0.5) / 7, abs=0.025)


def test_of_several_objectives_better_is_better_in_all() -> None:
    assert judge().compare("g", (2.0, 1.0), (1.0, 1.0)) == "left"
    assert judge().compare("g", (2.0, 1.0), (1.0, 3.0)) == "tie"
    assert judge(1.0).compare("g", (2.0, 1.0), (1.0, 3.0)) == "tie", "there is nothing to be wrong about"
    values = {"a": (0.0, 0.0), "b": (1.0, 0.0), "c": (0.0, 1.0), "d": (1.0, 1.0)}
    assert judge().mark("g", values, 0.25) == ("a",)
    assert judge().mark("g", {"a": (0.0, 1.0), "b": (1.0, 0.0)}, 0.5) == (), "neither is better"


def test_a_bias_is_a_tendency_to_the_left_at_its_rate() -> None:
    groups = [f"g{number:06d}" for number in range(4000)]

    def left(error_rate: float, bias: float, *values: float) -> float:
        one = judge(error_rate, bias=bias)
        return sum(one.compare(group, *values) == "left" for group in groups) / 4000

    within = pytest.approx
    assert left(0.2, 0.3, 1.0, 2.0) == within(0.3 + 0.7 * 0.2, abs=0.04)
    assert left(0.2, 0.3, 2.0, 1.0) == within(0.3 + 0.7 * 0.8, abs=0.04)
    assert left(0.2, 0.3, 1.0, 1.0) == within(0.3, abs=0.04), "ties too"
    assert left(0.2, 1.0, 1.0, 2.0) == 1.0


def test_the_stated_accuracy_is_kept() -> None:
    groups = [f"g{number:06d}" for number in range(4000)]
    one = judge(0.2, bias=0.3)
    right = [
        one.compare(g, *((1.0, 2.0) if i % 2 else (2.0, 1.0))) == ("right" if i % 2 else "left")
        for i, g in enumerate(groups)
    ]
    assert expected_accuracy(0.2, 0.3) == pytest.approx(0.71)
    assert sum(right) / 4000 == pytest.approx(0.71, abs=0.04)


@pytest.mark.parametrize("images", [2, 7, 8])
@pytest.mark.parametrize(("error_rate", "bias"), [(0.0, 0.1), (0.2, 0.25), (0.1, 0.6)])
def test_the_stated_accuracy_is_kept_of_marks(images: int, error_rate: float, bias: float) -> None:
    values = {f"g-{image}": float(image) for image in range(images)}
    bad = set(list(values)[: images // 2])
    one = judge(error_rate, bias=bias)
    marked = [one.mark(f"g{group:06d}", values) for group in range(4000 // images)]
    right = [(name in marks) == (name in bad) for marks in marked for name in values]
    expected = expected_accuracy(error_rate, bias, to_be_marked(images, 0.5) / images)
    assert sum(right) / len(right) == pytest.approx(expected, abs=0.03)


def test_without_a_bias_answers_are_what_they_were() -> None:
    """Drawn before there were biases; a run that is judged again must come out the same."""
    found = "".join(judge(0.3).compare(f"g{number:06d}", 2.0, 1.0)[0] for number in range(32))
    assert found == "llrllrrlllrlllllllllllrrlllllllr"


def test_a_biased_mark_marks_more() -> None:
    values = {f"g-{image}": float(image) for image in range(8)}

    def rate(bias: float) -> float:
        marks = [name for group in range(500) for name in judge(bias=bias).mark(f"g{group}", values)]
        assert set(list(values)[:4]) <= set(marks)
        return len(marks) / 4000

    assert [rate(bias) for bias in (0.0, 0.25, 1.0)] == pytest.approx([0.5, 0.625, 1.0], abs=0.03)


def test_wrong_rates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"error_rate is 1.5"):
        judge(1.5)
    with pytest.raises(ValueError, match=r"bias is -0.1"):
        judge(bias=-0.1)
    with pytest.raises(ValueError, match="share is 1"):
        judge().mark("g", {"a": 1.0}, 1.0)
