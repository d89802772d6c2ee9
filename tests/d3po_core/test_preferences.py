"""From judgements to pairs: METHOD 2."""

import random

import pytest

from d3po_core.preferences import judgements_to_pairs
from d3po_core.records import Judgement

LEVELS = {"left": ((1.0,), (0.0,)), "right": ((0.0,), (1.0,)), "tie": ((0.0,), (0.0,)), "both_bad": ((0.0,), (0.0,))}


def compare(answer: str, judge: int = 1, group: int = 0, at: str = "2026-01-01T00:00:00Z", name: str = "") -> Judgement:
    verdict = answer if answer in ("tie", "both_bad") else "prefer"
    return Judgement(
        id=name or f"ls:{group}-{judge}-{at}",
        group_id=f"g{group:06d}",
        judge=f"user:{judge}",
        verdict=verdict,
        trajectory_ids=(f"g{group:06d}-0", f"g{group:06d}-1"),
        levels=LEVELS[answer],
        updated_at=at,
    )


def mark(marked: set[int], k: int = 7, judge: int = 1) -> Judgement:
    return Judgement(
        id=f"ls:{judge}",
        group_id="g000000",
        judge=f"user:{judge}",
        verdict="mark",
        trajectory_ids=tuple(f"g000000-{image}" for image in range(k)),
        levels=tuple((-1.0,) if image in marked else (0.0,) for image in range(k)),
        updated_at="2026-01-01T00:00:00Z",
    )


def test_one_judge_left_right_tie_and_both_bad() -> None:
    pairs, statistics = judgements_to_pairs(
        [compare("left", group=0), compare("right", group=1), compare("tie", group=2), compare("both_bad", group=3)]
    )
    assert [(pair.preferred, pair.dispreferred, pair.target) for pair in pairs] == [
        ("g000000-0", "g000000-1", 1.0),
        ("g000001-1", "g000001-0", 1.0),
    ]
    assert statistics.tie_rate == 0.5, "both bad is a tie …"
    assert statistics.both_bad == 1, "… that is counted apart"
    assert (statistics.pairs, statistics.undecided, statistics.groups) == (2, 2, 4)
    assert statistics.agreement is None
    assert statistics.marked_rate is None
    assert "data/agreement" not in statistics.metrics()
    assert statistics.metrics()["data/tie_rate"] == 0.5


def test_of_the_same_moment_the_later_row_counts() -> None:
    """Imported rows without a time; by their text ``row:9`` would come after ``row:10``."""
    pairs, _ = judgements_to_pairs([compare("left", name="row:10"), compare("right", name="row:9")])
    assert [pair.preferred for pair in pairs] == ["g000000-0"]


@pytest.mark.parametrize(
    ("answers", "majority", "soft"),
    [
        (["left", "left", "right"], True, 2 / 3),
        (["left", "tie"], False, 0.75),  # half is not more than half
        (["left", "left", "tie"], True, 5 / 6),
        (["left", "tie", "tie"], False, 2 / 3),
        (["left", "right"], False, 0.5),  # an even split is a soft pair
        (["left", "right", "tie"], False, 0.5),
        (["tie", "both_bad"], False, None),  # only ties are none
        (["left", "left", "right", "tie"], False, 0.625),
    ],
)
def test_several_judges(answers: list[str], majority: bool, soft: float | None) -> None:
    judgements = [compare(answer, judge) for judge, answer in enumerate(answers)]
    hard_pairs, statistics = judgements_to_pairs(judgements)
    soft_pairs, _ = judgements_to_pairs(judgements, "soft")
    assert [pair.target for pair in hard_pairs] == ([1.0] if majority else [])
    assert statistics.undecided == (0 if majority else 1)
    assert [pair.target for pair in soft_pairs] == ([] if soft is None else [pytest.approx(soft)])
    for pair in (*hard_pairs, *soft_pairs):
        assert (pair.preferred, pair.dispreferred) == ("g000000-0", "g000000-1")
        assert pair.votes_preferred == answers.count("left")
        assert pair.votes_dispreferred == answers.count("right")
        assert pair.votes_tie == len(answers) - answers.count("left") - answers.count("right")


def test_seven_images_with_three_marked_are_twelve_pairs() -> None:
    pairs, statistics = judgements_to_pairs([mark({1, 4, 6})])
    assert len(pairs) == 12
    assert {pair.dispreferred for pair in pairs} == {"g000000-1", "g000000-4", "g000000-6"}
    assert statistics.marked_rate == pytest.approx(3 / 7)
    assert statistics.tie_rate == pytest.approx(9 / 21)


@pytest.mark.parametrize("marked", [set(), set(range(7))])
def test_all_or_none_marked_gives_no_pairs(marked: set[int]) -> None:
    pairs, statistics = judgements_to_pairs([mark(marked)], "soft")
    assert pairs == ()
    assert statistics.tie_rate == 1.0
    assert statistics.marked_rate == len(marked) / 7


def test_two_people_who_mark_vote_on_every_pair() -> None:
    pairs, statistics = judgements_to_pairs([mark({0}, k=3, judge=1), mark({0, 1}, k=3, judge=2)])
    # 1≻0: prefer, tie -> no majority. 2≻0: both. 2≻1: tie, prefer -> none.
    assert [(pair.preferred, pair.dispreferred) for pair in pairs] == [("g000000-2", "g000000-0")]
    assert statistics.agreement == pytest.approx(1 / 3)
    soft, _ = judgements_to_pairs([mark({0}, k=3, judge=1), mark({0, 1}, k=3, judge=2)], "soft")
    assert [pair.target for pair in soft] == [0.75, 1.0, 0.75]


def test_one_persons_latest_judgement_counts_and_contradictions_are_reported() -> None:
    judgements = [
        compare("left", at="2026-01-01T10:00:00Z", name="ls:1"),
        compare("right", at="2026-01-01T12:00:00+01:00", name="ls:2"),  # 11:00 UTC: the latest
        compare("right", at="2026-01-01T10:30:00Z", name="ls:3"),
    ]
    pairs, statistics = judgements_to_pairs(judgements)
    assert [pair.preferred for pair in pairs] == ["g000000-1"]
    assert pairs[0].votes_preferred == 1, "three judgements of one person are one vote"
    assert (statistics.judgements, statistics.superseded) == (1, 2)
    assert [(found.earlier, found.counted) for found in statistics.contradictions] == [("ls:1", "ls:2")]


def test_presentation_order_and_order_of_arrival_do_not_matter() -> None:
    """Labels are joined by id, not by position (METHOD 5.5)."""
    judgements = [compare(answer, judge, group) for group in range(4) for judge, answer in enumerate(LEVELS)]
    swapped = [
        Judgement(
            id=one.id,
            group_id=one.group_id,
            judge=one.judge,
            verdict=one.verdict,
            trajectory_ids=one.trajectory_ids[::-1],
            levels=one.levels[::-1],
            updated_at=one.updated_at,
        )
        for one in judgements
    ]
    random.Random(0).shuffle(swapped)
    assert judgements_to_pairs(judgements, "soft") == judgements_to_pairs(swapped, "soft")


def test_several_objectives_must_all_agree() -> None:
    def both(a: tuple[float, float], b: tuple[float, float]) -> int:
        judgement = Judgement(
            id="p",
            group_id="g",
            judge="programmed:x+y",
            verdict="programmed",
            trajectory_ids=("a", "b"),
            levels=(a, b),
            updated_at="2026-01-01T00:00:00Z",
        )
        pairs, _ = judgements_to_pairs([judgement])
        return {(): 0, ("a",): 1, ("b",): -1}[tuple(pair.preferred for pair in pairs)]

    assert both((1, 1), (0, 0)) == 1
    assert both((1, 0), (0, 0)) == 1
    assert both((0, 0), (0, 1)) == -1
    assert both((1, 0), (0, 1)) == 0
    assert both((1, 1), (1, 1)) == 0


def test_levels_that_do_not_fit_the_images_are_an_error() -> None:
    broken = Judgement(
        id="ls:9",
        group_id="g",
        judge="user:1",
        verdict="prefer",
        trajectory_ids=("a", "b"),
        levels=((1.0,),),
        updated_at="2026-01-01T00:00:00Z",
    )
    with pytest.raises(ValueError, match="ls:9 has 1 levels for 2 images"):
        judgements_to_pairs([broken])


def test_no_judgements_at_all() -> None:
    pairs, statistics = judgements_to_pairs([])
    assert pairs == ()
    assert statistics.tie_rate is None
