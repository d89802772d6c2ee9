"""Several epochs as one flow run: by a programme, stopped early, killed in between, and with people."""

import pytest

from storage.run import Run
from tests.support.project import Project, hanging, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

WAIT = ["--timeout", "900"]


def epochs_of(project: Project, run: str) -> list[int]:
    return list(Run.open(str(project.runs), run).epochs())


def sealed(project: Project, run: str) -> list[int]:
    opened = Run.open(str(project.runs), run)
    return [number for number in opened.epochs() if opened.epoch(number).seal() is not None]


def test_it_goes_on_to_as_many_epochs_as_are_asked_for(project: Project) -> None:
    """Killed in the second, and typed again: the same two as undisturbed; typed once more: nothing to do."""
    config = project.configuration("many", experiment={"epochs": 2})
    with hanging(project, "before epochs/0001/commits/train.1.json", ["experiment", config, "--here"]):
        assert sealed(project, "many") == [0]
    project.d3po("experiment", config, "--here").good()
    assert sealed(project, "many") == [0, 1]
    contents = [project.seal("many", number) for number in (0, 1)]
    assert contents[1]["content"]["parent"] == contents[0]["digest"]
    again = project.d3po("experiment", config, "--here").good()
    assert "many has 2 sealed epochs" in again.text
    assert sealed(project, "many") == [0, 1]
    project.configuration("calm", experiment={"epochs": 2})
    project.d3po("experiment", "calm.yaml", "--here").good()
    assert project.seal("calm", 1)["content"] == contents[1]["content"]
    project.d3po("experiment", config, "--here", "--experiment.epochs", "3").good()
    assert sealed(project, "many") == [0, 1, 2]


def test_a_target_that_is_reached_ends_it(project: Project) -> None:
    fields = {"epochs": 3, "target_objective": "jpeg_compressibility", "target": -1000.0}
    config = project.configuration(
        "early", experiment=fields, evaluation={"prompts": "prompts.txt", "objectives": ["jpeg_compressibility"]}
    )
    done = project.d3po("experiment", config, "--here").good()
    assert "early has 1 sealed epochs; jpeg_compressibility reached -" in done.text
    assert sealed(project, "early") == [0]
    project.d3po("report", "runs/early", "--evaluation.objectives", '["jpeg_incompressibility"]').good()
    done = project.d3po("experiment", config, "--here").good()
    assert "early has 1 sealed epochs; jpeg_compressibility reached -" in done.text, (
        "measured again: it is neither lost nor gone past"
    )
    assert sealed(project, "early") == [0]
    farther = ["--experiment.target", "1000", "--experiment.epochs", "2"]
    done = project.d3po("experiment", config, "--here", *farther).good()
    assert "reached -" not in done.text
    assert sealed(project, "early") == [0, 1], "as far as its epochs go"


def test_people_judge_each_epoch_and_one_flow_run_goes_through_all(project: Project) -> None:
    config = project.configuration("peoples", labels={"source": "people"}, experiment={"epochs": 2})
    project.verb("init", config).good()
    project.verb("experiment", config).good()
    for number in (0, 1):
        # Or the status would be the one of the epoch before, which the gate may not have resumed yet.
        until(lambda wanted=number: wanted in epochs_of(project, "peoples"), 900, f"epoch {number}", every=0.2)
        project.verb("status", "runs/peoples", "--wait-for", "people", *WAIT).good()
        second = project.d3po("run", config, "--here")
        assert f"epoch {number} already waits for people" in second.text
        project.verb("annotate", "runs/peoples", "--simulate", "--epoch", str(number)).good()
    project.verb("status", "runs/peoples", "--wait-for", "seal", *WAIT).good()
    assert sealed(project, "peoples") == [0, 1]
    run = Run.open(str(project.runs), "peoples")
    bound = [{one["flow_run_id"] for one in run.bindings(number)} for number in (0, 1)]
    assert bound[0] & bound[1], "the experiment's flow run is bound to both"
