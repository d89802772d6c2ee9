"""What is lost and taken up again: on S3 (same content as on a disk, no lock), and a project that somebody deleted."""

import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.conftest import BUCKET, s3_server
from tests.support.project import Project, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = f"s3://{BUCKET}/team"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server with a bucket, and what reaches it."""
    with s3_server() as endpoint:
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "D3PO_CACHE": str(tmp_path_factory.mktemp("s3-cache")),
        }


def stored(s3: dict[str, str], key: str) -> bytes:
    """An object, past our own code."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3["AWS_ENDPOINT_URL"], aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")  # fmt: skip
    return client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def test_an_epoch_on_s3_is_the_same_as_on_a_disk(project: Project, undisturbed: dict, s3: dict[str, str]):
    """Programmed and by people, on S3 and on a disk: one content. The people's images are mirrored for Label Studio."""
    config = project.configuration("on-s3", storage={"root": ROOT}, labels={"source": "people"})
    waiting = project.d3po("run", config, "--here", **s3)
    assert waiting.code == 75, waiting.text[-3000:]
    _images_are_served(project, f"{ROOT}/on-s3", **s3)
    assert Path(project.runs, "on-s3").is_dir(), "below the document root"
    project.verb("annotate", f"{ROOT}/on-s3", "--simulate", "--error-rate", "0", **s3).good()
    project.d3po("run", config, "--here", **s3).good()
    seal = json.loads(stored(s3, "team/on-s3/epochs/0000/EPOCH.json"))
    assert seal["content"] == undisturbed["content"]
    assert stored(s3, "team/on-s3/epochs/0000/adapter/pytorch_lora_weights.safetensors")

    shutil.rmtree(s3["D3PO_CACHE"])
    assert "everything agrees" in project.verb("audit", f"{ROOT}/on-s3", **s3).good().out
    assert "done" in project.verb("status", f"{ROOT}/on-s3", **s3).good().out


def test_what_comes_after_an_epoch_is_on_s3_too(project: Project, s3: dict[str, str]):
    """A fork, an evaluation, a blind comparison, an export, and latents that may go: all of it by an address."""
    (project.folder / "held-out.txt").write_text("a red square\na blue circle\nan old tree\n")
    fields = {"storage": {"root": ROOT}, "evaluation": {"prompts": "held-out.txt", "images_per_prompt": 2}}
    config, run = project.configuration("after", **fields), f"{ROOT}/after"
    project.d3po("run", config, "--here", **s3).good()
    project.verb("fork", run, "forked", "--training.learning_rate", "1e-4", **s3).good()
    project.d3po("run", f"{ROOT}/forked", "--here", **s3).good()
    compared = project.verb("compare", run, f"{ROOT}/forked", **s3).good().out
    assert "0.0001" in compared
    folder = f"{ROOT}/evaluations/compared"
    adapters = ["--adapter", f"A={run}:0", "--adapter", f"B={ROOT}/forked:0"]
    assert folder in project.verb("evaluate", config, *adapters, "--name", "compared", **s3).good().out
    assert b"<html" in stored(s3, "team/evaluations/compared/evaluation.html")
    assert "people judge at http" in project.verb("ab", "start", folder, "A", "B", **s3).good().out
    _first_is_better(project, folder, **s3)
    assert "100.0%" in project.verb("ab", "results", folder, **s3).good().out
    project.verb("export", run, "out-of-s3", **s3).good()
    assert "everything agrees" in project.verb("audit", "out-of-s3", **s3).good().out
    said = project.verb("prune", run, "--latents", "--reason", "space", "--yes", **s3).good().out
    assert "removed" in said
    assert not _keys(s3, "team/after/epochs/0000/shards/", "latents")
    assert _keys(s3, "team/after/epochs/0000/shards/", ".png"), "pictures stay"
    shutil.rmtree(s3["D3PO_CACHE"])
    assert "everything agrees" in project.verb("audit", run, **s3).good().out


def _first_is_better(project: Project, folder: str, **environment: str) -> None:
    """A person prefers the first candidate's image each time, having seen both."""
    with project.entered(**environment):
        from tasks.evaluation.blind import blind_of
        from tasks.evaluation.finished import open_evaluation
        from tasks.label_studio.screens import result_for
        from tasks.labels.connection import connect

        blind, client = blind_of(open_evaluation(folder), 0), connect()
        _each_is_served([data for [(_, data)] in client.tasks(blind.project).values()], 3)
        for id, order in blind.plan.orders.items():
            verdict = "left" if blind.owners[order[0]] == blind.candidates[0] else "right"
            client.annotate(blind.ls_tasks[blind.plan.uid(id)][0], result_for(blind.plan.screen, verdict=verdict))


def _keys(s3: dict[str, str], prefix: str, part: str) -> list[str]:
    """Objects below a prefix, past our own code."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3["AWS_ENDPOINT_URL"], aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")  # fmt: skip
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [one["Key"] for one in listed if part in one["Key"]]


def _images_are_served(project: Project, run: str, **environment: str) -> None:
    """Each of the six comparisons' first images, as people's browsers ask for it."""
    with project.entered(**environment):
        from tasks.context import found_run, planned_context
        from tasks.labels.connection import connect
        from tasks.labels.push import pushed

        context = planned_context(*found_run(run), 0)
        rows = connect().tasks(pushed(context)["project"])
        _each_is_served([data for [(_, data)] in rows.values()], 6)


def _each_is_served(tasks: list[dict[str, str]], count: int) -> None:
    assert len(tasks) == count
    url, key = os.environ["LABEL_STUDIO_URL"], os.environ["LABEL_STUDIO_API_KEY"]
    for data in tasks:
        path = data["html_0"].partition('src="')[2].partition('"')[0]
        request = urllib.request.Request(url + path, headers={"Authorization": f"Token {key}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.read().startswith(b"\x89PNG")


def test_where_no_lock_tells_the_operator_must_say_that_a_process_is_dead(
    project: Project, undisturbed: dict, s3: dict[str, str]
):
    config = project.configuration("killed-on-s3", storage={"root": ROOT})
    process = project.start("run", config, "--here", **s3)
    try:
        until(lambda: _exists(s3, "team/killed-on-s3/epochs/0000/commits/prompts.1.json"), 900, "a commit", every=0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    run = f"{ROOT}/killed-on-s3"
    project.verb("recover", run, **s3).refused("on S3 no lock tells", "--surely-dead")
    recovered = " ".join(project.verb("recover", run, "--surely-dead", **s3).good().out.split())
    assert "is marked crashed" in recovered
    assert "next: d3po run CONFIG goes on with epoch 0" in recovered
    project.d3po("run", config, "--here", **s3).good()
    assert json.loads(stored(s3, "team/killed-on-s3/epochs/0000/EPOCH.json"))["content"] == undisturbed["content"]


def _exists(s3: dict[str, str], key: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        return bool(stored(s3, key))
    except ClientError:
        return False


def test_a_deleted_project_is_made_again_and_judged_anew(project: Project):
    """People's answers are gone with it, the pictures and their order are not."""
    config = project.configuration("deleted", labels={"source": "people"})
    assert project.d3po("run", config, "--here").code == 75
    shutil.rmtree(next(project.epoch("deleted").glob("shards/000001-*")))
    assert "shard-000001: made again" in project.verb("heal", "runs/deleted").good().out
    _images_are_served(project, "runs/deleted")
    project.verb("annotate", "runs/deleted", "--simulate").good()
    lost = _project_of(project, "deleted", delete=True)
    assert "d3po repush" in project.verb("status", "runs/deleted").good().out
    project.d3po("run", config, "--here").refused("repush")
    assert "people judge at http" in project.verb("repush", "runs/deleted").good().out
    assert _project_of(project, "deleted") != lost
    assert "0 of 6 judgements" in project.verb("status", "runs/deleted").good().out
    project.verb("annotate", "runs/deleted", "--simulate", "--error-rate", "0").good()
    project.d3po("run", config, "--here").good()
    project.verb("audit", "runs/deleted").good()


def _project_of(project: Project, run: str, *, delete: bool = False) -> int:
    with project.entered():
        from tasks.context import found_run, planned_context
        from tasks.labels.push import pushed

        number = pushed(planned_context(*found_run(f"runs/{run}"), 0))["project"]
        if delete:
            url, key = os.environ["LABEL_STUDIO_URL"], os.environ["LABEL_STUDIO_API_KEY"]
            headers = {"Authorization": f"Token {key}"}
            urllib.request.urlopen(
                urllib.request.Request(f"{url}/api/projects/{number}", headers=headers, method="DELETE"), timeout=60
            ).close()
        return number
