"""A large epoch's answers are counted by the server; only the careful look, which exports them, says it is complete."""

from datetime import UTC, datetime

import pytest

from storage.epoch import Epoch
from tasks.context import EpochContext
from tasks.label_studio.screens import result_for
from tasks.labels import first_look
from tasks.labels.connection import connect
from tasks.labels.first_look import Answers, too_few_answers
from tasks.labels.pull import labels_complete, labels_progress
from tasks.labels.push import push, push_plan, pushed
from tasks.labels.voided import void
from tests.support.fault_proxy import FaultProxy

from .conftest import with_fields

AT = datetime(2026, 1, 1, 9, 31, tzinfo=UTC)


@pytest.fixture
def large(shown: EpochContext, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> EpochContext:
    """Pushed, and taken for a large one."""
    push.fn(shown)
    monkeypatch.setattr(first_look, "CAREFUL_UP_TO", 5)
    return shown


def answer(context: EpochContext, place: int) -> None:
    """As the key's own user, who may answer one comparison twice."""
    plan, tasks = push_plan(context), pushed(context)["ls_tasks"]
    connect().annotate(tasks[plan.uid(list(plan.orders)[place])][0], result_for(plan.screen, "left"))


def test_fewer_answers_than_groups_need_are_only_counted(large: EpochContext, proxy: FaultProxy):
    plan, tasks = push_plan(large), pushed(large)["ls_tasks"]
    for place in range(4):
        assert too_few_answers(large, AT) == Answers(given=place, needed=6)
        answer(large, place)
    connect().skip(tasks[plan.uid(list(plan.orders)[4])][0])
    assert too_few_answers(large, AT) == Answers(given=5, needed=6)
    assert proxy.count("POST", "/exports") == 0


def test_as_many_as_they_need_may_still_be_of_another_group(large: EpochContext):
    for place in (0, 1, 2, 3, 4, 4):
        answer(large, place)
    assert too_few_answers(large, AT) is None
    assert not labels_complete(large, labels_progress(large))


def test_small_epochs_and_those_that_go_on_anyway_are_looked_at_carefully(
    large: EpochContext, monkeypatch: pytest.MonkeyPatch
):
    assert too_few_answers(large, AT) is not None
    assert too_few_answers(large, AT.replace(minute=40)) is None, "every ten minutes"
    with monkeypatch.context() as going_on:
        going_on.setattr(Epoch, "notes", lambda self, kind: [{"by": "ops"}] if kind == "proceed" else [])
        assert too_few_answers(large, AT) is None
    monkeypatch.setattr(first_look, "CAREFUL_UP_TO", 6)
    assert too_few_answers(large, AT) is None


def test_what_need_not_be_answered_is_not_waited_for(large: EpochContext):
    asked_twice = with_fields(large, labels={"judgements_per_group": 3})
    assert too_few_answers(asked_twice, AT) == Answers(given=0, needed=12), "two skips set a group aside"
    void(large, list(large.groups())[:2], reason="lost", by="ops")
    assert too_few_answers(large, AT) == Answers(given=0, needed=4)
