"""kill -9 in every stage, rerun, and the sealed epoch is, bit for bit, the one of an undisturbed run.

Every process is a real ``d3po run`` against a real Prefect server (and Label Studio), stood still at one place of its
work and then killed with all of its process group. The runs compared differ in their names, ids, times and accidents.
"""

import json
import os
import signal

import psutil
import pytest

from tests.support.project import COMMAND_SECONDS, Project, hang_environment, hanging, until
from tests.support.worker import await_last_word

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
"""A minute each on two calm cores; every wait has its own, shorter deadline."""

SHARDS = {"shard-000000", "shard-000001", "shard-000002"}
AWAY_SECONDS = 60.0
"""In which a training process notices that it is alone: at once on calm cores, and long before what it hangs in ends."""

STAGES: list[tuple[str, set[str], set[str]]] = [
    # where it stands still            what is committed then   and what is not
    ("after plan.json", set(), {"prompts"}),
    ("before commits/shard-000000.1.json", {"prompts"}, {"shard-000000"}),
    ("after commits/shard-000001.1.json", {"shard-000000", "shard-000001"}, {"shard-000002"}),
    ("before commits/pull.1.json", SHARDS, {"pull"}),
    ("after commits/train-plan.1.json", {"pull", "train-plan"}, {"train"}),
    ("after commits/checkpoint-*-000004.1.json", {"train-plan"}, {"train"}),
    ("before commits/train.1.json", {"train-plan"}, {"train"}),
    ("before EPOCH.json", {"train"}, set()),
]


def test_programmed_run_killed_in_each_stage(project: Project, undisturbed: dict):
    config = project.configuration("killed")
    for where, there, missing in STAGES:
        with hanging(project, where, ["run", config, "--here"]) as (process, stands):
            committed = project.committed("killed")
            assert there <= committed, where
            assert not missing & committed, where
            # The training is a process of its own; everything before and after it is the flow's.
            assert (stands != process.pid) == ("checkpoint" in where or where.endswith("train.1.json")), where
            if where == "before commits/shard-000000.1.json":
                _a_second_flow_run_is_refused(project, config, process.pid)
        assert not (project.epoch("killed") / "EPOCH.json").exists(), where
    recovered = project.verb("recover", "runs/killed").good().out
    assert recovered.count("was Running, is marked crashed") == len(STAGES)
    assert "next: d3po run CONFIG goes on with epoch 0" in recovered
    done = project.d3po("run", config, "--here").good()
    seal = project.seal("killed")
    assert seal["content"] == undisturbed["content"], done.text[-3000:]
    assert seal["digest"] == undisturbed["digest"]
    assert seal["record"]["run_id"] != undisturbed["record"]["run_id"]
    assert project.verb("audit", "runs/killed").good().out.strip().endswith("everything agrees")


def _a_second_flow_run_is_refused(project: Project, config: str, holder: int) -> None:
    """Two flow runs of one epoch at the same time: exactly one works, and the other names it."""
    project.d3po("run", config, "--here").refused(f"process {holder}", "epoch-0000")


def test_training_ends_with_the_flow_that_started_it(project: Project, undisturbed: dict):
    config = project.configuration("orphan")
    where = "after commits/checkpoint-*-000002.1.json"
    with hanging(project, where, ["run", config, "--here"]) as (process, trainer):
        assert trainer != process.pid
        family = [psutil.Process(trainer), *psutil.Process(process.pid).children(recursive=True)]
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not any(map(_works, family)), AWAY_SECONDS, f"that {trainer} ends by itself")
    assert "train" not in project.committed("orphan")


def _works(process: psutil.Process) -> bool:
    """Whether it is there and is no zombie, which only waits to be collected."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_killed_training_is_said_and_taken_up_again(project: Project, undisturbed: dict):
    """Only the training process dies: the flow says so, and the next one resumes from the last checkpoint."""
    config = project.configuration("orphan")
    where = "before commits/checkpoint-*-000006.1.json"
    with hanging(project, where, ["run", config, "--here"]) as (process, trainer):
        os.kill(trainer, signal.SIGKILL)
        project.finish(process).refused("training", "killed by signal 9", "last checkpoint")
    done = project.d3po("run", config, "--here").good()
    assert "resuming from checkpoint" in done.text
    assert project.seal("orphan")["content"] == undisturbed["content"]


def test_peoples_run_killed_during_push_and_pull(project: Project, undisturbed: dict):
    """People who err in nothing say what the programme says: the same judgements, so the same epoch."""
    config = project.configuration("people", labels={"source": "people"})
    run = ["run", config, "--here"]
    with hanging(project, "after commits/push-plan.1.json", run):
        orders = (next(project.epoch("people").glob("labels/push-plan-*")) / "push-plan.json").read_text()
    with hanging(project, "before commits/push.1.json", run):
        assert "push" not in project.committed("people")
    waiting = project.d3po(*run)
    assert (waiting.code, "Traceback" in waiting.text) == (75, False), waiting.text[-3000:]
    assert "6 of 6 groups are open" in waiting.text
    assert (next(project.epoch("people").glob("labels/push-plan-*")) / "push-plan.json").read_text() == orders
    _nothing_was_imported_twice(project)
    project.verb("annotate", "runs/people", "--simulate", "--error-rate", "0").good()
    with hanging(project, "before commits/pull.1.json", run):
        assert "pull" not in project.committed("people")
    project.d3po(*run).good()
    assert project.seal("people")["content"] == undisturbed["content"]


def _nothing_was_imported_twice(project: Project) -> None:
    push = json.loads(next(project.epoch("people").glob("labels/push-*/push.json")).read_text())
    assert sorted(map(len, push["ls_tasks"].values())) == [1] * 6
    with project.entered():
        from tasks.labels.connection import connect

        assert connect().count(push["project"]) == 6


def test_flow_killed_after_the_seal_starts_no_other_epoch(project: Project, undisturbed: dict):
    """The worker marks it Crashed; ``prefect flow-run retry`` goes on with its own epoch, which is sealed already."""
    config = project.configuration("sealed")
    with hang_environment("after EPOCH.json") as (environment, reached):
        submitted = project.prefect(
            "deployment",
            "run",
            "epoch/epoch",
            "-p",
            f"config={config}",
            "--job-variable",
            f"env={json.dumps(environment)}",
        ).good()
        flow_run_id = submitted.out.partition("UUID: ")[2].split()[0]
        pid = int(until(lambda: reached.exists() and reached.read_text(), COMMAND_SECONDS, "the seal"))
        os.kill(pid, signal.SIGKILL)
    until(lambda: _state(project, flow_run_id) == "CRASHED", 240, "that the worker notices", every=0.5)
    await_last_word(project, flow_run_id)
    report = project.epoch("sealed") / "report" / "report.html"
    assert not report.exists()
    project.prefect("flow-run", "retry", flow_run_id).good()
    until(lambda: _state(project, flow_run_id) == "COMPLETED", COMMAND_SECONDS, "the retry", every=0.5)
    assert report.exists()
    assert [path.name for path in (project.runs / "sealed" / "epochs").iterdir()] == ["0000"]
    assert project.seal("sealed")["content"] == undisturbed["content"]


def _state(project: Project, flow_run_id: str) -> str:
    from flows.flow_runs import prefect_client

    with project.entered(), prefect_client() as client:
        return client.read_flow_run(flow_run_id).state_type.value
