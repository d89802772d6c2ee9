"""A team that is told: by a real Prefect server's notification block, to a real web server, once per event."""

import json
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from storage.run import Run
from tests.support.project import Project, until
from tests.support.webhook import webhook_receiver
from tests.support.worker import await_last_word

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

Messages = list[dict[str, str]]


def make_block(project: Project, name: str, url: str) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    with project.entered():
        block = CustomWebhookNotificationBlock(
            name=name, url=url, method="POST", json_data={"subject": "{{subject}}", "body": "{{body}}"}, timeout=60
        )
        block.save(name, overwrite=True, _sync=True)


@pytest.fixture
def told(project: Project) -> Iterator[Messages]:
    """What the block ``custom-webhook/team`` was asked to say."""
    with webhook_receiver() as (url, messages):
        make_block(project, "team", url)
        yield messages


def configuration(project: Project, run: str, block: str = "team", **labels: str) -> str:
    orchestration = {"groups_per_shard": 2, "threads": 1, "shard_retries": 0, "notify": f"custom-webhook/{block}"}
    return project.configuration(run, labels=labels, orchestration=orchestration)


def events(project: Project, run: str) -> list[str]:
    """The events that the run's folder says were told."""
    return [note["event"].split()[0] for note in Run.open(str(project.runs), run).epoch(0).notes("notices")]


def flow_of(project: Project, run: str) -> str:
    return Run.open(str(project.runs), run).bindings(0)[0]["flow_run_id"]


def test_each_event_is_told_once(project: Project, told: Messages):
    """Also where the epoch comes to the same place again: it was woken too early, and its end is run once more."""
    config = configuration(project, "told", source="people")
    project.verb("init", config).good()
    project.prefect("deployment", "run", "epoch/epoch", "-p", f"config={config}").good()
    project.verb("status", "runs/told", "--wait-for", "people", "--timeout", "900").good()
    [wanted] = told
    assert wanted["subject"] == "told, epoch 0: judgements are wanted"
    assert "6 of 6 groups are open" in wanted["body"]
    assert "/projects/" in wanted["body"]

    _wake(project, flow_of(project, "told"))
    assert len(told) == 1

    project.verb("annotate", "runs/told", "--simulate", "--error-rate", "0").good()
    project.verb("status", "runs/told", "--wait-for", "seal", "--timeout", "900").good()
    until(lambda: len(told) >= 3, 240, "the news of the seal", every=0.2)
    assert [one["subject"].partition(": ")[2] for one in told[1:]] == ["the judgements are complete", "sealed"]
    assert "d3po report runs/told --epoch 0" in told[2]["body"]
    assert events(project, "told") == ["wanted", "complete", "sealed"]
    everything = json.dumps(told)
    assert "@" not in everything, "no address of anybody"
    assert "everything agrees" in project.verb("audit", "runs/told").good().out


def _wake(project: Project, flow_run: str) -> None:
    """Resume a flow run whose judgements are not there; wait until it is suspended again."""
    from flows.flow_runs import prefect_client

    with project.entered(), prefect_client() as client:
        suspended = client.read_flow_run(flow_run).state.timestamp
        client.resume_flow_run(flow_run)
        until(
            lambda: (state := client.read_flow_run(flow_run).state).name == "Suspended" and state.timestamp > suspended,
            300, "its second suspension", every=0.5,
        )  # fmt: skip


def test_a_failure_is_told_once_a_flow_run(project: Project, told: Messages):
    config = configuration(project, "failing", source="people")
    for _ in range(2):
        project.d3po("run", config, "--here", LABEL_STUDIO_URL="http://127.0.0.1:9").refused("127.0.0.1:9")
    assert len(told) == 2
    assert told[0]["subject"] == "failing, epoch 0: the flow run failed"
    first, second = (binding["flow_run_id"] for binding in Run.open(str(project.runs), "failing").bindings(0))
    assert f"next: prefect flow-run retry {first}" in told[0]["body"]
    assert f"next: prefect flow-run retry {second}" in told[1]["body"]
    assert events(project, "failing") == ["failed", "failed"]


def test_a_killed_process_is_told_by_its_worker(project: Project, told: Messages):
    config = configuration(project, "crashed")
    project.prefect("deployment", "run", "epoch/epoch", "-p", f"config={config}").good()
    until(
        lambda: list((project.epoch("crashed") / "bindings").glob("*.json")), 900, "the flow run's binding", every=0.02
    )
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(project.folder) and "prefect.engine" in (process.info["cmdline"] or []):
            with suppress(psutil.NoSuchProcess):  # the gate's, which ends by itself
                process.kill()
    until(lambda: told, 240, "the news of the crash", every=0.2)
    assert told[0]["subject"] == "crashed, epoch 0: the flow run crashed"
    await_last_word(project, flow_of(project, "crashed"))
    project.prefect("flow-run", "retry", flow_of(project, "crashed")).good()
    project.verb("status", "runs/crashed", "--wait-for", "seal", "--timeout", "900").good()
    until(lambda: len(told) >= 2, 240, "the news of the seal", every=0.2)
    assert events(project, "crashed") == ["failed", "sealed"]


def test_news_that_cannot_be_sent_fail_nothing(project: Project):
    make_block(project, "gone", "http://127.0.0.1:9/")
    done = project.d3po("run", configuration(project, "untold", block="gone"), "--here", LABEL_STUDIO_URL="").good()
    assert "the team was not told 'untold, epoch 0: sealed' by custom-webhook/gone" in done.text
    assert project.seal("untold")
    assert events(project, "untold") == []


def test_a_block_that_is_not_there_is_refused_before_anything_is_spent(project: Project):
    config = configuration(project, "nobody", block="nobody")
    project.verb("init", config).refused("orchestration.notify is custom-webhook/nobody", "prefect block ls")
    assert not (project.runs / "nobody").exists()
    named = project.verb("init", config, "--orchestration.notify", "a mail to ada")
    named.refused("orchestration.notify")
