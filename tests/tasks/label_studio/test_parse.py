"""Whatever a record contains, each annotation ends in exactly one place and nothing raises."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.label_studio.parse import KnownAnswer, PushPlan, parse_export
from tasks.label_studio.screens import compare_screen, mark_screen, result_for

ORDERS = {"g000000": ("g000000-1", "g000000-0"), "g000001": ("g000001-0", "g000001-1")}
COMPARE = PushPlan(run_id="r", epoch=0, screen=compare_screen(), orders=ORDERS)
MARK = PushPlan(run_id="r", epoch=0, screen=mark_screen(2), orders=ORDERS)
KNOWN = KnownAnswer(prompt="known", order=("g000009-0", "g000009-1"), good=("g000009-1",))
WITH_GOLD = PushPlan(run_id="r", epoch=0, screen=compare_screen(), orders=ORDERS, gold={"g000009": KNOWN})

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
rows = anything | st.fixed_dictionaries(
    {
        "from_name": st.sampled_from(["preference", "comment", "mark_0", "mark_1", "reviewed", "x"]) | anything,
        "to_name": st.sampled_from(["prompt", "img_0", "img_1"]) | anything,
        "type": st.sampled_from(["choices", "textarea"]) | anything,
        "value": anything
        | st.fixed_dictionaries(
            {
                "choices": st.lists(st.sampled_from(["left", "tie", "deformed", "all_reviewed", "x"]), max_size=2)
                | anything
            }
        ),
    }
)
annotations = anything | st.fixed_dictionaries(
    {
        "id": st.integers(1, 99) | anything,
        "completed_by": st.integers(1, 3) | anything,
        "result": st.lists(rows, max_size=3) | anything,
        "was_cancelled": st.booleans() | anything,
        "updated_at": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+02:00", "yesterday"]) | anything,
        "lead_time": st.floats() | anything,
    }
)
records = anything | st.fixed_dictionaries(
    {
        "id": st.integers(1, 5) | anything,
        "data": anything
        | st.fixed_dictionaries({"uid": st.sampled_from(["r/0/g000000", "r/0/g000009", "r/0/g9", "x"]) | anything}),
        "annotations": st.lists(annotations, max_size=3) | anything,
        "drafts": st.lists(st.integers(), max_size=2) | anything,
    }
)


@settings(max_examples=400, deadline=None)
@given(st.lists(records, max_size=4), st.sampled_from([COMPARE, MARK, WITH_GOLD]))
def test_every_annotation_ends_in_one_place(found: list, plan: PushPlan):
    parsed = parse_export(found, plan, {"r/0/g000000": [1], "r/0/g000001": [2]})
    there = sum(
        len(record["annotations"]) if isinstance(record.get("annotations"), list) else 0
        for record in found
        if isinstance(record, dict)
    ) + sum(1 for record in found if not isinstance(record, dict))
    assert len(parsed.judgements) + len(parsed.gold) + len(parsed.skips) + len(parsed.set_aside) == there
    for judgement in parsed.judgements:
        assert judgement.group_id in ORDERS
        assert len(judgement.levels) == len(judgement.trajectory_ids) == 2
        assert judgement.judge.removeprefix("user:").lstrip("-").isdigit()
    assert {judgement.group_id for judgement in parsed.gold} <= set(plan.gold)


def record(annotation: dict, **changes) -> dict:
    whole = {
        "id": 7, "completed_by": 5, "was_cancelled": False, "lead_time": 2.0, "updated_at": "2026-01-02T03:04:05.6Z",
        **annotation,
    }  # fmt: skip
    return {"id": 1, "data": {"uid": "r/0/g000000"}, "annotations": [whole], "drafts": [], **changes}


def test_a_person_is_a_number_in_both_spellings():
    left = result_for(COMPARE.screen, "left")
    for person in (5, {"id": 5, "email": "someone@example.invalid", "first_name": "Some"}):
        parsed = parse_export([record({"result": left, "completed_by": person})], COMPARE)
        assert parsed.judgements[0].judge == "user:5"
        assert "someone" not in str(parsed)


def test_nobody_s_annotation_names_nobody():
    person = {"email": "someone@example.invalid"}
    parsed = parse_export([record({"result": result_for(COMPARE.screen, "left"), "completed_by": person})], COMPARE)
    assert "someone" not in str(parsed)
    assert parsed.set_aside[0].group == "g000000"


def test_times_sort_as_they_follow_each_other():
    times = ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5Z", "2026-01-02T05:04:06+02:00"]
    left = result_for(COMPARE.screen, "left")
    parsed = parse_export(
        [record({"result": left, "updated_at": time, "id": n}) for n, time in enumerate(times)], COMPARE
    )
    written = [one.updated_at for one in parsed.judgements]
    assert written == sorted(written)
    assert written[2] == "2026-01-02T03:04:06.000000+00:00"


@pytest.mark.parametrize(("seconds", "kept"), [(2, 2.0), (float("nan"), None), (-1.0, None), ("3", None), (True, None)])
def test_implausible_durations_are_dropped(seconds: object, kept: float | None):
    parsed = parse_export([record({"result": result_for(COMPARE.screen, "tie"), "lead_time": seconds})], COMPARE)
    assert parsed.judgements[0].seconds == kept


def test_a_known_answer_is_no_judgement_of_the_epoch():
    left = record({"result": result_for(COMPARE.screen, "left")}, data={"uid": "r/0/g000009"})
    parsed = parse_export([left], WITH_GOLD)
    assert (parsed.judgements, parsed.set_aside, parsed.missing) == ([], [], ["g000000", "g000001"])
    [one] = parsed.gold
    assert (one.group_id, one.trajectory_ids, one.levels) == ("g000009", KNOWN.order, ((1.0,), (0.0,)))
    assert parse_export([left], COMPARE).set_aside[0].reason.startswith("orphan")


@pytest.mark.parametrize("plan", [MARK, WITH_GOLD])
def test_plan_survives_its_file(plan: PushPlan):
    written = json.loads(json.dumps(plan.to_json()))
    assert PushPlan.from_json(written) == plan
    assert written["screen"]["digest"] == plan.screen.digest
    with pytest.raises(ValueError, match="d3po-push-plan/1"):
        PushPlan.from_json({**written, "format": "d3po-push-plan/2"})


def test_people_are_all_who_left_something():
    left = result_for(COMPARE.screen, "left")
    annotations = [
        {"result": left, "completed_by": 5},
        {"result": [], "completed_by": {"id": 6}, "was_cancelled": True},
        {"result": "no answer", "completed_by": 7},
        {"result": left, "completed_by": None},
    ]
    elsewhere = record({"result": left, "completed_by": 8}, data={"uid": "another"})
    assert parse_export([*map(record, annotations), elsewhere], COMPARE).people == {5, 6, 7, 8}
