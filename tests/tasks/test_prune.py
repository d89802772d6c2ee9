"""Space given back on request: listed first, removed with a tombstone, explained to whoever needs it later."""

from collections import Counter
from pathlib import Path

import pytest

from storage.errors import MissingDataError
from storage.fork import copy_commit
from storage.manifest import build_seal, environment
from storage.run import Run
from tasks.context import EpochContext
from tasks.exchange.fork import fork
from tasks.generation.shards import write_generated
from tasks.training import trainer
from tasks.training.attempt import training_attempt
from tasks.training.source import StoredTrajectories
from tasks.upkeep.heal import heal
from tests.support.project import Finished, Project

from .conftest import again

BECAUSE = ["--reason", "the disk is full"]


@pytest.fixture
def sealed(generated: EpochContext) -> EpochContext:
    """Generated, judged, its pairs made, and sealed; only the training itself is left out."""
    training_attempt(generated)
    generated.epoch.create_seal(build_seal(generated.epoch, environment()))
    return generated


def bytes_of(context: EpochContext) -> int:
    """What the run's epochs take; a file with several names counts once."""
    files = {
        file.stat().st_ino: file.stat().st_size
        for file in Path(context.run.location, "epochs").rglob("*")
        if file.is_file()
    }
    return sum(files.values())


def prune(project: Project, context: EpochContext, *options: str) -> Finished:
    return project.verb("prune", context.run.location, *options, *BECAUSE)


def test_latents_are_listed_then_removed_and_the_audit_says_pruned(at_home: Project, sealed: EpochContext):
    before = bytes_of(sealed)
    listed = prune(at_home, sealed, "--latents").good().out
    assert listed.count("latents") == 3
    assert "nothing was touched" in listed
    assert bytes_of(sealed) == before
    latents = sum(
        entry["bytes"]
        for name in sealed.plan["shards"]
        for file, entry in sealed.epoch.latest(name).files.items()
        if file.startswith("traj.zarr/")
    )
    removed = prune(at_home, sealed, "--latents", "--yes").good().out
    assert f"{latents / 1e6:.1f} MB removed" in removed
    tombstones = sum(file.stat().st_size for file in Path(sealed.run.location).rglob("commits/shard-*.2.json"))
    assert before - bytes_of(sealed) == latents - tombstones
    assert latents > 0.2 * before
    audited = at_home.verb("audit", sealed.run.location).good().out
    assert audited.count("were pruned on") == 3
    assert ": the disk is full" in audited
    assert "everything agrees" in audited
    assert "nothing of it is there" in prune(at_home, sealed, "--latents").good().out


def test_who_needs_what_was_pruned_learns_who_did_it_and_why(at_home: Project, sealed: EpochContext, tmp_path: Path):
    import getpass

    said = rf"pruned on 20.* by {getpass.getuser()}: the disk is full"
    prune(at_home, sealed, "--latents", "--yes").good()
    context = again(sealed)
    with pytest.raises(MissingDataError, match=rf"traj\.zarr .*{said}") as caught:
        StoredTrajectories(context).read(["g000000"])
    assert "d3po audit" in str(caught.value)
    target = Run.create(tmp_path, "fork", {}).epoch(0)
    with pytest.raises(MissingDataError, match=f"shard-000000 of epoch 0 of run unit cannot be copied: .*{said}"):
        copy_commit(context.epoch, "shard-000000", target)
    assert target.latest("shard-000000") is None
    with pytest.raises(MissingDataError, match=f"shard-000000 of epoch 0 of run unit cannot be copied: .*{said}"):
        fork(context.run.location, "forked")
    assert not Run.exists(context.run.root, "forked"), "refused before anything is made"
    assert len(list(heal(context))) == 3
    assert all("they are not made again" in line for line in heal(context))
    assert context.epoch.latest("shard-000000").number == 2, "healing leaves it pruned"


def test_an_open_epochs_latents_stay(at_home: Project, generated: EpochContext):
    assert "nothing of it is there" in prune(at_home, generated, "--latents", "--yes").good().out
    StoredTrajectories(again(generated)).read(["g000000"])


def test_abandoned_and_superseded_files_go_and_nothing_else(at_home: Project, generated: EpochContext):
    stray = Path(generated.run.location, "epochs/0000/shards/000009-00000000/groups.parquet")
    stray.parent.mkdir()
    stray.write_bytes(b"never marked" * 1000)
    old = generated.epoch.latest("shard-000000")
    write_generated(generated, "shard-000000", supersede=True)
    assert "0.0 MB can go" in prune(at_home, generated, "--abandoned").good().out
    prune(at_home, generated, "--abandoned", "--yes").good()
    assert not stray.exists()
    folder = Path(generated.run.location, "epochs/0000", old.folder)
    assert folder.is_dir(), "a superseded attempt is not abandoned"
    prune(at_home, generated, "--superseded", "--yes", "--epoch", "0").good()
    assert not folder.exists()
    StoredTrajectories(again(generated)).read(["g000000", "g000005"])


def checkpoints_of(context: EpochContext) -> dict[str, int]:
    """How many there are on disk, by training attempt."""
    folders = Path(context.run.location, context.epoch_key).glob("training/*/checkpoint-*")
    return dict(Counter(folder.parent.name for folder in folders))


def train(context: EpochContext, retrain: bool = False) -> str:
    """Train, or train again, by the trainer's own function; the attempt."""
    (context.run.home / context.epoch_key / "commits" / "train.1.json").unlink(missing_ok=True)
    attempt = training_attempt(context, retrain).attempt
    trainer.run(context, attempt)
    return attempt


def test_checkpoints_go_that_no_training_resumes_from(
    at_home: Project, generated: EpochContext, capsys: pytest.CaptureFixture
):
    first, second = train(generated), train(again(generated), retrain=True)
    there = checkpoints_of(generated)
    assert min(there[first], there[second]) >= 3
    listed = prune(at_home, generated, "--checkpoints").good().out
    assert f"{there[first]} checkpoints of training {first}" in listed
    assert second not in listed, "the epoch is open: its training may be resumed"
    assert checkpoints_of(generated) == there
    assert f"{there[first]} checkpoints of training {first}" in prune(at_home, generated, "--superseded").good().out
    prune(at_home, generated, "--checkpoints", "--yes").good()
    assert checkpoints_of(generated) == {second: there[second]}
    capsys.readouterr()
    assert train(again(generated)) == second
    assert f"resuming from checkpoint checkpoint-{second}" in capsys.readouterr().out
    context = again(generated)
    context.epoch.create_seal(build_seal(context.epoch, environment()))
    assert second not in prune(at_home, context, "--superseded").good().out, "it was not replaced"
    assert f"checkpoints of training {second}" in prune(at_home, context, "--checkpoints", "--yes").good().out
    assert checkpoints_of(context) == {}
    assert "nothing of it is there" in prune(at_home, context, "--checkpoints", "--yes").good().out
    assert "everything agrees" in at_home.verb("audit", context.run.location).good().out
    assert list(heal(again(context))) == []
    forked = fork(context.run.location, "forked")
    assert forked.epoch.latest("pull") is not None
    tombstone = again(context).epoch.latest(f"checkpoint-{second}-000002")
    assert (tombstone.number, dict(tombstone.files)) == (2, {})
    assert tombstone.details["prune_reason"] == "the disk is full"


def test_it_is_refused_while_somebody_works_on_the_epoch(at_home: Project, generated: EpochContext):
    with generated.run.lock("epoch-0000"):
        prune(at_home, generated, "--abandoned", "--yes").refused("epoch-0000 of run unit")


def test_what_is_meant_has_to_be_said(at_home: Project, sealed: EpochContext):
    prune(at_home, sealed).refused("nothing was named to be pruned", "--latents, --checkpoints, --abandoned or --super")
    prune(at_home, sealed, "--latents", "--epoch", "7").refused("has no epoch 7")
