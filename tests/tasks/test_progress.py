"""When judgements are complete."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3po_core.records import Judgement
from tasks.label_studio.parse import Skip
from tasks.labels.progress import progress

GROUPS = ("g0", "g1", "g2")


def judged(group: str, judge: int, number: int = 1) -> Judgement:
    return Judgement(
        id=f"ls:{number}", group_id=group, judge=f"user:{judge}", verdict="tie", trajectory_ids=("a", "b"),
        levels=((0.0,), (0.0,)), updated_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def skipped(group: str, judge: int) -> Skip:
    return Skip(id="ls:9", group_id=group, judge=f"user:{judge}", updated_at="2026-01-01T00:00:00+00:00")


def test_nothing_yet():
    found = progress(GROUPS, [], [], judgements_per_group=2, max_skips=1)
    assert (found.settled, found.set_aside, found.open) == ((), (), GROUPS)
    assert (found.given, found.needed, found.complete, found.fraction) == (0, 6, False, 0.0)


def test_one_person_counts_once():
    found = progress(GROUPS, [judged("g0", 1), judged("g0", 1, 2)], [], judgements_per_group=2, max_skips=1)
    assert found.settled == ()
    assert found.given == 1
    assert found.per_judge == {"user:1": 1}
    assert found.left_for == {"user:1": 2}


def test_more_than_needed_counts_as_needed():
    found = progress(("g0",), [judged("g0", n) for n in range(3)], [], judgements_per_group=2, max_skips=1)
    assert (found.given, found.needed, found.complete, found.fraction) == (2, 2, True, 1.0)


def test_skips_of_distinct_people_set_a_group_aside():
    skips = [skipped("g0", 1), skipped("g0", 1), skipped("g1", 1), skipped("g1", 2)]
    found = progress(GROUPS, [judged("g2", 1)], skips, judgements_per_group=1, max_skips=2)
    assert (found.settled, found.set_aside, found.open) == (("g2",), ("g1",), ("g0",))
    assert (found.needed, found.given) == (2, 1)


def test_enough_judgements_win_over_skips():
    skips = [skipped("g0", 2), skipped("g0", 3)]
    found = progress(("g0",), [judged("g0", 1)], skips, judgements_per_group=1, max_skips=2)
    assert (found.settled, found.set_aside) == (("g0",), ())


def test_who_judged_after_skipping_has_judged():
    found = progress(("g0",), [judged("g0", 1)], [skipped("g0", 1)], judgements_per_group=2, max_skips=1)
    assert found.open == ("g0",)


def test_judgements_of_other_groups_do_not_count():
    found = progress(("g0",), [judged("elsewhere", 1)], [skipped("elsewhere", 1)], judgements_per_group=1, max_skips=1)
    assert (found.open, found.per_judge, found.given) == (("g0",), {}, 0)


def test_groups_may_need_different_numbers():
    need = {"g0": 1, "g1": 2}
    found = progress(need, [judged("g0", 1), judged("g1", 1)], [], judgements_per_group=need, max_skips=1)
    assert (found.settled, found.open, found.needed, found.given) == (("g0",), ("g1",), 3, 2)


@pytest.mark.parametrize(("need", "skips"), [(0, 1), (1, -1)])
def test_nonsense_is_refused(need: int, skips: int):
    with pytest.raises(ValueError):
        progress(GROUPS, [], [], judgements_per_group=need, max_skips=skips)


def test_many_groups_take_no_longer_each_than_few():
    groups = [f"g{number:06d}" for number in range(30_000)]
    judgements = [judged(group, 1) for group in groups[::2]]
    skips = [skipped(group, 1) for group in groups[1::4]]
    begun = time.process_time()
    found = progress(groups, judgements, skips, judgements_per_group=1, max_skips=1)
    assert time.process_time() - begun < 5
    assert (len(found.settled), len(found.set_aside), len(found.open)) == (15_000, 7_500, 7_500)


people = st.lists(st.tuples(st.sampled_from(GROUPS), st.integers(1, 4)), max_size=12)


@given(people, people, st.integers(1, 3), st.integers(0, 3))
def test_every_group_is_in_one_place_and_more_answers_never_reopen(given_, passed, need, max_skips):
    judgements, skips = [judged(*one) for one in given_], [skipped(*one) for one in passed]
    before = progress(GROUPS, judgements, skips, judgements_per_group=need, max_skips=max_skips)
    assert sorted((*before.settled, *before.set_aside, *before.open)) == list(GROUPS)
    assert before.groups == 3
    assert 0 <= before.given <= before.needed
    after = progress(GROUPS, [*judgements, judged("g0", 9)], skips, judgements_per_group=need, max_skips=max_skips)
    assert set(before.settled) <= set(after.settled)
    assert len(after.open) <= len(before.open)
