"""Programmed judgements, and simulated judges with a stated error rate."""

import math

import pytest

from d3po_core.preferences import judgements_to_pairs
from d3po_core.programmed.judges import SimulatedJudge, programmed_judgement


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


def judge(error_rate: float = 0.0, name: str = "user:1", seed: int = 1, epoch: int = 0) -> SimulatedJudge:
    return SimulatedJudge(name=name, run_seed=seed, epoch=epoch, error_rate=error_rate)


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


def test_wrong_rates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"error_rate is 1.5"):
        judge(1.5)
    with pytest.raises(ValueError, match="share is 1"):
        judge().mark("g", {"a": 1.0}, 1.0)
