"""Fields that may change from one epoch to the next leave every epoch readable, whatever the run was made with."""

import pytest

from flows.status import run_status
from tasks.context import EpochContext, found_run, planned_context, run_folder
from tasks.errors import UserError
from tasks.exchange.fork import fork
from tasks.reports.history import history_of
from tasks.reports.report import report
from tasks.upkeep.audit import audit

from .conftest import Begin, generate_and_judge, judged_by_people, train_and_seal


def all_is_read(last: EpochContext) -> None:
    folder = run_folder(last.configuration)
    configuration, run = found_run(folder)
    assert [one.number for one in run_status(configuration, run)] == [0, 1]
    assert sum("judgements by" in line for line in audit(folder)) == 2
    assert [one.number for one in history_of(last)] == [0, 1]
    report.fn(last)


PRDP = {"sampling": {"shared_initial_noise": False}, "objective": {"kind": "prdp"}}


def test_images_of_one_start_and_then_of_many(begin: Begin):
    train_and_seal(generate_and_judge(begin()))
    last = train_and_seal(generate_and_judge(begin(number=1, **PRDP)))
    all_is_read(last)
    configuration, run = found_run(run_folder(last.configuration))
    assert not planned_context(configuration, run, 1).configuration.sampling.shared_initial_noise

    with pytest.raises(UserError, match="is defined for images of one x_T") as refused:
        fork(run_folder(configuration), "forked")
    assert "choose objective and training fields that fit" in refused.value.remedy
    assert fork(run_folder(configuration), "forked", overrides=["--objective.kind", "prdp"]).number == 1


def test_values_and_then_peoples_preferences(begin: Begin):
    train_and_seal(generate_and_judge(begin(**PRDP)))
    all_is_read(train_and_seal(judged_by_people(begin(number=1, labels={"source": "people"}))))
