"""Epochs as an operator lives them: submitted, suspended while people judge, resumed by themselves, sealed, audited.

One run goes through three epochs, each another kind of judging: pairs (resumed by the check that ``annotate`` makes),
groups of three marked by two people (resumed by the scheduled gate), and judgements that stay incomplete (``proceed``).
The fixtures are the story; the tests look at it.
"""

import gzip
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from flows.gate import check_suspended
from storage.run import Run
from storage.tables import GROUPS, JUDGEMENTS, PAIRS, PEOPLE, read_rows
from tests.support.project import Finished, Project, flip_byte, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

RUN = "runs/human"
CONFIG = "human.yaml"
WAIT = ["--timeout", "900"]


def submit(project: Project, *arguments: str) -> Finished:
    """What an operator types."""
    return project.prefect("deployment", "run", "epoch/epoch", "-p", f"config={CONFIG}", *arguments)


def wait_for(project: Project, what: str) -> Finished:
    return project.verb("status", RUN, "--wait-for", what, *WAIT).good()


def flow_processes(project: Project) -> list[psutil.Process]:
    """Flow runs of this project that have a process, the gate's among them."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(project.folder) and (
            "prefect.engine" in words or "tasks.training.trainer" in words
        ):
            found.append(process)
    return found


def is_bound(project: Project, number: int) -> bool:
    """Whether a flow run has written that it works on this epoch."""
    return any((project.epoch("human", number) / "bindings").glob("*.json"))


# ---- the story --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The first epoch while people judge."""

    submitted: Finished
    status: Finished
    second: Finished
    status_after_second: Finished
    here: Finished


@pytest.fixture(scope="module")
def waiting(project: Project) -> Waiting:
    project.configuration("human", labels={"source": "people", "instructions": "The calmer picture."})
    project.verb("init", CONFIG).good()
    submitted = submit(project).good()
    wait_for(project, "people")
    status = project.verb("status", RUN).good()
    second = submit(project, "--watch")
    return Waiting(
        submitted=submitted,
        status=status,
        second=second,
        status_after_second=project.verb("status", RUN).good(),
        here=project.d3po("run", CONFIG, "--here"),
    )


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """The first epoch, judged and sealed."""

    annotated: Finished
    waited: Finished
    exported: Path


@pytest.fixture(scope="module")
def sealed(project: Project, waiting: Waiting) -> Sealed:
    until(lambda: not flow_processes(project), 300, "that no process is left", every=0.1)
    annotated = project.verb("annotate", RUN, "--simulate", "--error-rate", "0.1").good()
    waited = wait_for(project, "seal")
    project.verb("export", RUN, "adapter-of-0").good()
    return Sealed(annotated=annotated, waited=waited, exported=project.folder / "adapter-of-0")


@pytest.fixture(scope="module")
def marked(project: Project, sealed: Sealed) -> None:
    """The second epoch: three images a group, two people mark the bad ones, and nobody but the gate looks."""
    overrides = ["--sampling.group_size", "3", "--labels.screen", "mark", "--labels.judgements_per_group", "2"]
    submit(project, "-p", f"overrides={json.dumps(overrides)}").good()
    until(lambda: is_bound(project, 1), 900, "the second epoch", every=0.1)
    wait_for(project, "people")
    project.d3po("services", "down").good()  # nothing of it may matter to an epoch that waits
    project.d3po("services", "up").good()
    with project.entered():
        from tasks.context import found_run, planned_context
        from tasks.labels.annotate import simulate_annotators

        context = planned_context(*found_run(RUN), 1)
        simulate_annotators(context, objectives=["jpeg_compressibility"], error_rate=0.1, judges=2)
    until(
        lambda: (project.epoch("human", 1) / "labels" / "people.parquet").exists(),
        900,
        "the gate: one that was killed with its worker keeps its place for 300 s",
        0.1,
    )
    wait_for(project, "seal")


@dataclass(frozen=True, kw_only=True)
class Proceeded:
    """The third epoch: two groups judged, one skipped, three never looked at."""

    recovered: Finished
    before: Finished
    proceeded: Finished
    log: Finished


@pytest.fixture(scope="module")
def proceeded(project: Project, marked: None) -> Proceeded:
    submit(project).good()
    until(lambda: is_bound(project, 2), 900, "the third epoch", every=0.05)
    _kill_worker_and_flow(project)
    recovered = project.verb("recover", RUN).good()
    wait_for(project, "people")
    _judge_a_little(project)
    before = project.verb("status", RUN).good()
    said = project.verb("proceed", RUN, "--reason", "the annotators are on holiday").good()
    wait_for(project, "seal")
    flow_run_id = project_flow_run(project, 2)
    return Proceeded(
        recovered=recovered, before=before, proceeded=said, log=project.prefect("flow-run", "logs", flow_run_id).good(),
    )  # fmt: skip


def _kill_worker_and_flow(project: Project) -> None:
    """As when a machine loses its power, but for the servers: nobody is left to say that the flow run crashed."""
    workers = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(project.folder) and {"worker", "start"} <= set(process.info["cmdline"] or [])
    ]
    assert workers
    flows = flow_processes(project)
    assert flows
    for process in (*workers, *flows):
        with suppress(psutil.NoSuchProcess):  # the gate's, which ends by itself
            process.kill()
    # Gone, and not only without a command line: a dying process gives its locks back last.
    assert not psutil.wait_procs([*workers, *flows], timeout=120)[1]


def _judge_a_little(project: Project) -> None:
    """Two judgements, a group that two people skip, and what does not belong: unknown groups, no answer, a bogus one."""
    with project.entered():
        from tasks.context import found_run, planned_context
        from tasks.label_studio.screens import local_file_url, result_for, task_data
        from tasks.labels.connection import connect
        from tasks.labels.push import push_plan, pushed

        context = planned_context(*found_run(RUN), 2)
        plan, push, client = push_plan(context), pushed(context), connect()
        tasks = {group: push["ls_tasks"][plan.uid(group)][0] for group in plan.orders}
        client.annotate(tasks["g000000"], result_for(plan.screen, verdict="left"), seconds=2.5)
        client.annotate(tasks["g000001"], result_for(plan.screen, verdict="right"))
        client.skip(tasks["g000002"])
        client.skip(tasks["g000002"], client.create_user("somebody@example.invalid"))
        client.annotate(tasks["g000003"], [])
        bogus = [
            {"value": {"choices": ["nonsense"]}, "from_name": "preference", "to_name": "prompt", "type": "choices"}
        ]
        client.annotate(tasks["g000004"], bogus)
        stranger = task_data(plan.screen, plan.uid("g999999"), "whose is this?", [local_file_url("x.png")] * 2)
        client.import_chunk(push["project"], [stranger])
        [(foreign, _)] = client.tasks(push["project"])[stranger["uid"]]
        client.annotate(foreign, result_for(plan.screen, verdict="left"))


def said_by_gates(project: Project) -> str:
    """What the scheduled gates wrote of the first epoch into their logs."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, LogFilter, LogFilterFlowRunId

    from flows.flow_runs import prefect_client

    with project.entered(), prefect_client() as client:
        gates = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["gate"])))
        logs = (
            client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[gate.id])), limit=200) for gate in gates
        )
        return "\n".join(log.message for each in logs for log in each if log.message.startswith("human-epoch-0-"))


def project_flow_run(project: Project, number: int) -> str:
    return epoch_of(project, number).run.bindings(number)[0]["flow_run_id"]


def epoch_of(project: Project, number: int):
    return Run.open(str(project.runs), "human").epoch(number)


def table(project: Project, number: int, commit: str, file: str, schema) -> list[dict]:
    epoch = epoch_of(project, number)
    return read_rows(epoch.fetch(epoch.latest(commit), file), schema)


# ---- while people judge -----------------------------------------------------------------------------------------------


def test_while_a_large_epoch_cannot_be_complete_its_answers_are_only_counted(
    project: Project, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tasks.labels.first_look.CAREFUL_UP_TO", 0)
    at = datetime(2026, 1, 1, 9, 31, tzinfo=UTC)
    monkeypatch.setattr("flows.gate.datetime", type("Clock", (), {"now": staticmethod(lambda zone: at)}))
    said: list[str] = []
    with project.entered():
        assert check_suspended(said.append)[1] == []
    (line,) = (line for line in said if line.startswith("human-epoch-0-"))
    assert line.endswith(": 0 answers, at least 6 needed")


def test_it_waits_for_people_and_says_what_is_missing(project: Project, waiting: Waiting):
    assert "Created flow run" in waiting.submitted.out
    assert "0 of 6 judgements" in waiting.status.out
    assert "6 open" in waiting.status.out
    assert "Suspended" in waiting.status.out
    assert "/projects/" in waiting.status.out
    assert "next: people judge at http" in waiting.status.out


def test_nothing_is_held_while_people_judge(project: Project, waiting: Waiting):
    until(lambda: not flow_processes(project), 300, "that no process is left", every=0.1)
    with Run.open(str(project.runs), "human").lock("epoch-0000"):
        pass


def test_a_second_flow_run_ends_at_once_and_names_the_first(project: Project, waiting: Waiting):
    assert waiting.second.code == 1
    first, second, _ = Run.open(str(project.runs), "human").bindings(0)
    assert first["flow_run_id"] in waiting.submitted.out
    assert second["flow_run_id"] in waiting.second.out
    said = " ".join(waiting.status_after_second.out.split())
    assert f"already waits for people in flow run human-epoch-0-{first['flow_run_id'][:4]}" in said
    assert f"({first['flow_run_id']})" in said
    assert "Cancelled" in said
    waiting.here.refused(f"already waits for people in flow run human-epoch-0-{first['flow_run_id'][:4]}")
    assert len(list((project.epoch("human") / "commits").glob("push.*.json"))) == 1


# ---- judged and sealed ------------------------------------------------------------------------------------------------


def test_annotate_resumes_what_it_completed(project: Project, sealed: Sealed):
    assert "6 annotations by 1 simulated judges (jpeg_compressibility, error rate 0.1)" in sealed.annotated.out
    # The gate that is scheduled may have looked at the same moment, and left nothing to resume.
    until(
        lambda: any("6 of 6 judgements, 0 groups open" in said for said in (sealed.annotated.out, said_by_gates(project))),
        120, "that somebody sees them complete", every=1.0,
    )  # fmt: skip
    assert "next: d3po report runs/human" in sealed.waited.out


def test_plain_diffusers_loads_the_adapter(project: Project, sealed: Sealed):
    from diffusers import StableDiffusionPipeline

    def image(adapter: str | None):
        pipe = StableDiffusionPipeline.from_pretrained(project.folder / "model")
        if adapter is not None:
            pipe.load_lora_weights(adapter)
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            "a red square", num_inference_steps=4, guidance_scale=3.0, output_type="np",
            generator=torch.Generator().manual_seed(1),
        ).images[0]  # fmt: skip

    in_run = project.epoch("human") / "adapter"
    tensors = load_file(sealed.exported / "pytorch_lora_weights.safetensors")
    assert any(float(tensor.abs().max()) > 0 for name, tensor in tensors.items() if "lora_B" in name or ".up." in name)
    assert (image(str(sealed.exported)) == image(str(in_run))).all()
    assert (image(str(sealed.exported)) != image(None)).any()
    assert "base model" in (sealed.exported / "README.md").read_text()


def test_the_pairs_are_what_was_judged(project: Project, sealed: Sealed):
    judgements = table(project, 0, "pull", "judgements.parquet", JUDGEMENTS)
    pairs = {pair["group_id"]: pair for pair in table(project, 0, "train-plan", "pairs.parquet", PAIRS)}
    assert [row["group_id"] for row in sorted(judgements, key=lambda row: row["group_id"])] == [
        f"g{index:06d}" for index in range(6)
    ]
    plan = json.loads(next(project.epoch("human").glob("labels/push-plan-*/push-plan.json")).read_text())
    for row in judgements:
        assert set(row["trajectory_ids"]) == set(plan["orders"][row["group_id"]])
        if row["verdict"] == "tie":
            assert row["group_id"] not in pairs
            continue
        levels = dict(zip(row["trajectory_ids"], (level[0] for level in row["levels"]), strict=True))
        pair = pairs[row["group_id"]]
        assert levels[pair["preferred"]] > levels[pair["dispreferred"]]
        assert (pair["votes_preferred"], pair["votes_dispreferred"]) == (1, 0)


def test_images_are_shown_in_shuffled_order(project: Project, sealed: Sealed):
    plan = json.loads(next(project.epoch("human").glob("labels/push-plan-*/push-plan.json")).read_text())
    assert {tuple(id[-1] for id in order) for order in plan["orders"].values()} == {("0", "1"), ("1", "0")}


def test_names_stay_outside_every_digest(project: Project, sealed: Sealed):
    folder = project.epoch("human")
    [person] = read_rows(folder / "labels" / "people.parquet", PEOPLE)
    assert "@" in person["email"]
    committed = [path for path in folder.rglob("*") if path.is_file() and path != folder / "labels" / "people.parquet"]
    assert not [str(path) for path in committed if person["email"].encode() in _plain(path)]
    assert any(path.name == "export.json.gz" for path in committed)
    (folder / "labels" / "people.parquet").unlink()
    project.verb("audit", RUN).good()


def _plain(path: Path) -> bytes:
    """A file's bytes as somebody reads it."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pandas().to_json().encode()
    return path.read_bytes()


def test_report_and_artifacts(project: Project, sealed: Sealed):
    described = project.verb("report", RUN, "--epoch", "0").good().out
    assert project.seal("human")["digest"] in described
    assert "Label Studio: http" in described
    for name in ("contact-sheet.png", "training-curves.png", "report.html"):
        assert (project.epoch("human") / "report" / name).stat().st_size > 1000
    from flows.flow_runs import prefect_client

    with project.entered(), prefect_client() as client:
        artifacts = client.read_artifacts()
    keys = {artifact.key for artifact in artifacts}
    page = project.runs / "human" / "report" / "report.html"
    assert str(page.relative_to(project.folder)) in described
    assert any(page.as_uri() in str(artifact.data) for artifact in artifacts if artifact.key == "human-contact-sheet")
    assert "1 epoch of d3po" in page.read_text()
    wanted = {"plan", "contact-sheet", "annotation-progress", "judgements", "judges", "training-curves", "adapter"}
    assert {f"human-{name}" for name in wanted} <= keys
    bound = {one["flow_run_id"] for one in Run.open(str(project.runs), "human").bindings(0)}
    shown = {str(artifact.flow_run_id) for artifact in artifacts if artifact.key == "human-annotation-progress"}
    assert shown <= bound, "the people's progress is shown by the epoch's flow run, whoever looks"


# ---- audit ------------------------------------------------------------------------------------------------------------


def test_audit_follows_run_and_adapter(project: Project, sealed: Sealed):
    for what in (RUN, "adapter-of-0"):
        said = project.verb("audit", what).good().out
        assert "6 judgements by 1 judges, over 12 trajectories with their seeds" in said
        assert "g000000" in said
        assert said.strip().endswith("everything agrees")


@pytest.fixture
def damaged(project: Project, sealed: Sealed) -> Iterator:
    """Flips a bit of a file, and puts it back afterwards."""
    before: dict[Path, bytes] = {}

    def damage(pattern: str, at: int | None = None) -> Path:
        path = next(path for path in sorted(project.folder.glob(pattern)) if path.is_file())
        before[path] = flip_byte(path, at)
        return path

    yield damage
    for path, data in before.items():
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("pattern", "commit"),
    [
        ("runs/human/epochs/0000/shards/000001-*/traj.zarr/latents/c/**/*", "shard-000001"),
        ("runs/human/epochs/0000/shards/000000-*/images/*.png", "shard-000000"),
        ("runs/human/epochs/0000/labels/pull-*/judgements.parquet", "pull"),
        ("runs/human/epochs/0000/labels/push-plan-*/push-plan.json", "push-plan"),
        ("runs/human/epochs/0000/training/*/final-*/*.safetensors", "train"),
        ("runs/human/epochs/0000/EPOCH.json", "EPOCH.json"),
    ],
)
def test_audit_names_the_file_with_one_flipped_bit(
    project: Project, sealed: Sealed, damaged, pattern: str, commit: str
):
    path = damaged(pattern)
    for what in (RUN, "adapter-of-0"):
        project.verb("audit", what).refused(path.name, commit)


@pytest.mark.parametrize("at", [100, 4000, -1], ids=["metadata", "names", "tensors"])
def test_audit_notices_another_adapter(project: Project, sealed: Sealed, damaged, at: int):
    damaged("adapter-of-0/pytorch_lora_weights.safetensors", at)
    project.verb("audit", "adapter-of-0").refused("pytorch_lora_weights.safetensors", "do not use this adapter")
    project.verb("audit", RUN).good()


def test_audit_of_what_is_no_run(project: Project, sealed: Sealed):
    project.verb("audit", "runs/nothing").refused("runs/nothing")


# ---- the second epoch -------------------------------------------------------------------------------------------------


def test_an_epoch_continues_its_parent(project: Project, marked: None):
    first, second = epoch_of(project, 0), epoch_of(project, 1)
    assert second.plan()["adapter_in"] == {"epoch": 0, "train": first.latest("train").digest}
    assert second.seal()["content"]["parent"] == first.seal()["digest"]
    assert second.seal()["record"]["parent"]["epoch"] == 0
    prompts = [[group["prompt"] for group in epoch.plan()["groups"]] for epoch in (first, second)]
    assert len({*prompts[0], *prompts[1]}) == 8, "the eight prompts are all used before one comes again"


def test_the_optimizer_goes_on(project: Project, marked: None):
    from d3po_core.checkpoint import CheckpointState

    first, second = (
        CheckpointState.load(epoch.fetch(epoch.latest("train")))
        for epoch in (epoch_of(project, 0), epoch_of(project, 1))
    )
    own_steps = second.steps_total
    assert own_steps > 0
    assert second.optimizer_steps == first.optimizer_steps + own_steps
    assert any(not torch.equal(first.lora[name], second.lora[name]) for name in first.lora)


def test_groups_of_three_are_marked_by_two_people(project: Project, marked: None):
    judgements = table(project, 1, "pull", "judgements.parquet", JUDGEMENTS)
    assert len(judgements) == 12
    by_group: dict[str, set[str]] = {}
    for row in judgements:
        by_group.setdefault(row["group_id"], set()).add(row["judge"])
        assert len(row["trajectory_ids"]) == 3
    assert [len(judges) for judges in by_group.values()] == [2] * 6
    rows = [
        row
        for name in ("shard-000000", "shard-000001", "shard-000002")
        for row in table(project, 1, name, "groups.parquet", GROUPS)
    ]
    assert len(rows) == 18
    assert all(
        pair["votes_preferred"] + pair["votes_tie"] + pair["votes_dispreferred"] == 2
        for pair in table(project, 1, "train-plan", "pairs.parquet", PAIRS)
    )


def test_the_scheduled_gate_resumed_it(project: Project, marked: None):
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    from flows.flow_runs import prefect_client

    with project.entered(), prefect_client() as client:
        gates = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["gate"])))
        assert any(run.auto_scheduled and run.state_type.value == "COMPLETED" for run in gates)
        epoch_run = client.read_flow_run(project_flow_run(project, 1))
    assert epoch_run.state_type.value == "COMPLETED"


# ---- the third epoch --------------------------------------------------------------------------------------------------


def test_what_died_with_its_worker_is_taken_up_again(proceeded: Proceeded):
    said = " ".join(proceeded.recovered.out.split())
    assert "was Running, is marked crashed" in said or "was Pending, is marked crashed" in said
    assert "is scheduled again and goes on with epoch 2" in said


def test_proceed_goes_on_with_what_there_is(project: Project, proceeded: Proceeded):
    assert "2 of 5 judgements, 2 groups settled, 1 set aside, 3 open" in " ".join(proceeded.before.out.split())
    assert "goes on with 2 judgements; 3 groups stay open" in proceeded.proceeded.out
    [note] = epoch_of(project, 2).notes("proceed")
    assert (note["reason"], note["settled"], note["open"], note["given"]) == ("the annotators are on holiday", 2, 3, 2)
    assert note["by"]
    assert note["time"]
    assert {pair["group_id"] for pair in table(project, 2, "train-plan", "pairs.parquet", PAIRS)} == {
        "g000000",
        "g000001",
    }


def test_what_is_no_judgement_is_set_aside_and_reported(project: Project, proceeded: Proceeded):
    pull = epoch_of(project, 2).latest("pull")
    assert {name: pull.details[name] for name in ("judgements", "skips", "set_aside", "groups_settled", "groups_open")} == {
        "judgements": 2, "skips": 2, "set_aside": 3, "groups_settled": 2, "groups_open": 3,
    }  # fmt: skip
    body = json.loads(epoch_of(project, 2).fetch(pull, "set-aside.json").read_text())
    assert body["groups_skipped"] == ["g000002"]
    assert body["groups_open"] == ["g000003", "g000004", "g000005"]
    reasons = " ".join(item["reason"] for item in body["annotations"])
    assert len(body["annotations"]) == 3
    assert "g999999" in reasons or "unknown" in reasons or "no group" in reasons
    assert "annotations were set aside" in " ".join(proceeded.log.out.split())


def test_seconds_and_sides_arrive_as_they_were_given(project: Project, proceeded: Proceeded):
    plan = json.loads(next(project.epoch("human", 2).glob("labels/push-plan-*/push-plan.json")).read_text())
    rows = {row["group_id"]: row for row in table(project, 2, "pull", "judgements.parquet", JUDGEMENTS)}
    assert rows["g000000"]["seconds"] == pytest.approx(2.5)
    pairs = {pair["group_id"]: pair for pair in table(project, 2, "train-plan", "pairs.parquet", PAIRS)}
    assert pairs["g000000"]["preferred"] == plan["orders"]["g000000"][0]
    assert pairs["g000001"]["preferred"] == plan["orders"]["g000001"][1]


def test_the_whole_chain_is_audited(project: Project, proceeded: Proceeded):
    said = project.verb("audit", RUN).good().out
    assert [f"epoch {number}:" in said for number in range(3)] == [True] * 3
    status = project.verb("status", RUN).good().out
    assert status.count("done") == 18
    parent = project.epoch("human", 1) / "EPOCH.json"
    kept = parent.read_bytes()
    shutil.copy(project.epoch("human", 0) / "EPOCH.json", parent)
    try:
        project.verb("audit", RUN).refused("epoch 1")
    finally:
        parent.write_bytes(kept)


def test_heal_and_forget_nothing(project: Project, proceeded: Proceeded):
    """A shard of a sealed epoch is lost: it is named, made again with the same content, and the audit says healed."""
    before = project.seal("human", 2)["digest"]
    [folder] = project.epoch("human", 2).glob("shards/000001-*")
    shutil.rmtree(folder)
    named = project.verb("audit", RUN).refused("shard-000001", "missing", "d3po heal").text
    remedy = named.rpartition("d3po heal")[2].splitlines()[0].split()
    healed = project.verb("heal", *remedy).good()
    assert "shard-000001: made again" in healed.out
    assert "same content" in healed.out
    said = project.verb("audit", RUN).good().out
    assert "everything agrees" in said
    assert project.seal("human", 2)["digest"] == before
    assert "nothing is damaged" in project.verb("heal", RUN, "--epoch", "2").good().out


def test_a_sealed_shard_without_its_marker_is_made_again_by_the_seal(project: Project, proceeded: Proceeded):
    """One marker is broken, another deleted; the seal tells that what comes out is what was judged."""
    commits = project.epoch("human", 0) / "commits"
    flip_byte(commits / "shard-000000.1.json")
    project.verb("audit", RUN).refused("shard-000000", "d3po heal")
    assert "shard-000000: made again" in (said := project.verb("heal", RUN, "--epoch", "0").good().out)
    assert "same content" in said
    (commits / "shard-000002.1.json").unlink()
    project.verb("audit", RUN).refused("shard-000002", "it is in the seal")
    assert "same content" in project.verb("heal", RUN, "--epoch", "0").good().out
    assert "everything agrees" in project.verb("audit", RUN).good().out


def test_judgements_after_the_pull_are_reported_and_not_trained_on(project: Project, proceeded: Proceeded):
    with project.entered():
        from tasks.context import found_run, planned_context
        from tasks.label_studio.screens import result_for
        from tasks.labels.connection import connect
        from tasks.labels.push import push_plan, pushed

        context = planned_context(*found_run(RUN), 2)
        plan, push = push_plan(context), pushed(context)
        connect().annotate(push["ls_tasks"][plan.uid("g000005")][0], result_for(plan.screen, verdict="left"))
    assert "1 judgements came, or were changed, after the pull" in project.verb("status", RUN).good().out
    assert len(table(project, 2, "pull", "judgements.parquet", JUDGEMENTS)) == 2


def test_people_see_the_public_address(project: Project, proceeded: Proceeded):
    """The worker reaches Label Studio by another name than people's browsers do."""
    with project.entered(LABEL_STUDIO_PUBLIC_URL="https://label.example.org/"):
        import os

        from tasks.labels.connection import public_url

        own = os.environ["LABEL_STUDIO_URL"].rstrip("/")
        assert public_url(f"{own}/projects/7") == "https://label.example.org/projects/7"
        assert public_url("http://elsewhere/projects/7") == "http://elsewhere/projects/7"


def test_a_moved_run_is_audited_from_an_adapter_that_was_exported_before(project: Project, proceeded: Proceeded):
    moved = project.folder / "archive" / "human"
    shutil.copytree(project.runs / "human", moved)
    hidden = (project.runs / "human").rename(project.runs / "human-hidden")
    try:
        project.verb("audit", "adapter-of-0").refused("runs/human")
        said = project.verb("audit", "adapter-of-0", "--moved-to", "archive/human").good().out
        assert "everything agrees" in said
    finally:
        hidden.rename(project.runs / "human")
