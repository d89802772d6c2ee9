"""Runs side by side: what all their epochs gained together, from the first on."""

import json
from pathlib import Path

import pytest

from flows.comparison import compared, draw
from flows.report_command import describe
from tasks.config import Configuration
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.exchange.fork import fork
from tasks.reports.report import report

from .conftest import context_of, generate_and_judge, train_and_seal, with_fields


@pytest.fixture
def forked(two_epochs: EpochContext, tmp_path: Path) -> EpochContext:
    """The last epoch, trained again at another rate."""
    name = f"forked-{tmp_path.name}"  # beside a run that is made once for all tests
    made = fork(run_folder(two_epochs.configuration), name, overrides=["--training.learning_rate", "0.01"])
    report.fn(train_and_seal(made))
    return made


def evaluation(context: EpochContext, number: int) -> dict:
    return json.loads(context.run.epoch(number).read_aside("report/evaluation.json"))


def test_epochs_add_up(two_epochs: EpochContext):
    (one,) = compared([run_folder(two_epochs.configuration)])
    name = one.measured.objective
    start, end = evaluation(two_epochs, 0)["before"][name], evaluation(two_epochs, 1)["after"][name]
    assert one.row[1] == "0–1"
    assert one.judgements == 24
    assert (one.measured.before, one.measured.after) == pytest.approx((sum(start) / 3, sum(end) / 3))
    assert one.measured.difference == pytest.approx((sum(end) - sum(start)) / 3)


def test_a_fork_and_its_parent_are_compared_from_where_it_left(two_epochs: EpochContext, forked: EpochContext):
    folders = [run_folder(two_epochs.configuration), run_folder(forked.configuration)]
    parent, branch = compared([*folders, folders[0]])
    assert [one.row[1] for one in (parent, branch)] == ["1", "1"]
    assert parent.measured.before == branch.measured.before
    assert parent.measured.after != branch.measured.after
    assert "learning_rate 0.01" in branch.trained_with
    assert "run seed" not in branch.trained_with, "it is the same"
    (svg,) = draw([parent, branch]).values()
    assert svg.count(b"epochs 1") == 2


def test_an_objective_that_meant_something_else_is_not_subtracted(two_epochs: EpochContext):
    """Epoch 0 was measured by another function of that name."""
    first, written = two_epochs.run.epoch(0), evaluation(two_epochs, 0)
    other = {name: {"kind": "python", "target": "elsewhere:score"} for name in written["objectives"]}
    first.write_aside("report/evaluation.json", json.dumps(written | {"objectives": other}).encode())
    try:
        assert [one.row[1] for one in compared([run_folder(two_epochs.configuration)])] == ["1"]
    finally:
        first.write_aside("report/evaluation.json", json.dumps(written).encode())


def test_runs_without_a_common_start_are_not_compared(forked: EpochContext, tmp_path: Path):
    """One has the second epoch alone, the other the first."""
    values = forked.configuration.model_dump(mode="json") | {"run": "short"}
    values["storage"]["root"] = str(tmp_path / "runs")
    short = train_and_seal(generate_and_judge(context_of(Configuration.model_validate(values), 0)))
    report.fn(short)
    with pytest.raises(UserError, match=r"no epoch in common .*: 1, .*short: 0\n") as raised:
        compared([run_folder(forked.configuration), run_folder(short.configuration)])
    assert "d3po evaluate" in raised.value.remedy


def test_other_prompts_are_not_compared(two_epochs: EpochContext, forked: EpochContext, tmp_path: Path):
    (tmp_path / "others.txt").write_text("a green tree\n")
    other = with_fields(forked, evaluation={"prompts": str(tmp_path / "others.txt")})
    assert any("1 held-out prompts" in line for line in describe(other, anew=True))
    folders = [run_folder(two_epochs.configuration), run_folder(forked.configuration)]
    with pytest.raises(UserError, match="was measured on other held-out prompts") as raised:
        compared(folders)
    assert "d3po evaluate" in raised.value.remedy


def test_what_was_not_measured_is_said_with_the_way_to_it(two_epochs: EpochContext, forked: EpochContext):
    list(describe(with_fields(forked, evaluation={"objectives": []}), anew=True))
    with pytest.raises(UserError, match="was not measured on held-out prompts") as raised:
        compared([run_folder(forked.configuration)])
    assert "--evaluation.objectives NAME" in raised.value.remedy
