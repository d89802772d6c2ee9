import itertools
import shutil

import pytest

from storage.errors import CorruptDataError, MissingDataError, UnknownFormatError
from storage.run import Run
from tests.storage.samples import commit_shard, commit_text, tamper, tampered


def forget(run: Run) -> Run:
    """The run as another machine sees it: on S3 without anything in the cache."""
    if not run.backend.local_path("x"):
        shutil.rmtree(run.home, ignore_errors=True)
    return Run.open(run.root, run.name)


def test_nothing_counts_before_it_is_committed(epoch):
    attempt = epoch.begin("prompts")
    (attempt.path / "x").write_text("x")
    assert epoch.latest("prompts") is None
    assert epoch.latest_all() == {}


def test_what_is_committed_is_found_again(run, epoch):
    commit = commit_text(epoch, "prompts", details={"seconds": 1.5})
    found = forget(run).epoch(0).latest("prompts")
    assert found == commit
    assert (found.number, found.previous, found.details, found.content) == (
        1,
        None,
        {"seconds": 1.5},
        {"text": "hello"},
    )
    assert list(found.files) == ["deep/more.txt", "note.txt"]
    assert forget(run).epoch(0).fetch(found, "note.txt").read_text() == "hello"
    folder = forget(run).epoch(0).fetch(found)
    assert sorted(path.name for path in folder.rglob("*.txt")) == ["more.txt", "note.txt"]
    assert forget(run).epoch(0).fetch(found, "deep").joinpath("more.txt").read_text() == "hellohello"


def test_the_first_commit_stands(run, epoch):
    first = commit_text(epoch, "prompts", "first")
    second = commit_text(epoch, "prompts", "second")
    assert second == first
    assert epoch.fetch(first, "note.txt").read_text() == "first"
    assert [key for key in run.backend.keys("epochs") if first.attempt not in key] == [
        "epochs/0000/commits/prompts.1.json"
    ]


def test_a_superseding_commit_names_its_predecessor(epoch):
    first = commit_text(epoch, "prompts", "first")
    second = commit_text(epoch, "prompts", "second", supersede=True)
    assert (second.number, second.previous) == (2, first.digest)
    assert epoch.latest("prompts") == second
    assert epoch.history("prompts") == [first, second]
    assert epoch.fetch(second, "note.txt").read_text() == "second"


def test_ten_commits_count_in_numeric_order(epoch):
    for number in range(11):
        commit_text(epoch, "prompts", str(number), supersede=True)
    assert epoch.latest("prompts").number == 11
    assert len(epoch.history("prompts")) == 11


def test_a_commit_needs_no_files(run, epoch):
    commit = epoch.commit(epoch.begin("push"), {"project": 7})
    assert epoch.latest("push").details == {"project": 7}
    assert [path.name for path in run.home.rglob("*push*")] == [path.name for path in run.home.rglob("push.1.json")]
    with pytest.raises(MissingDataError, match="push in epoch 0 of run demo has no file"):
        epoch.fetch(commit)


def test_names_are_not_mixed_up(epoch):
    commit_text(epoch, "push-plan")
    assert epoch.latest("push") is None
    commit_text(epoch, "push")
    assert sorted(epoch.latest_all()) == ["push", "push-plan"]


def test_a_broken_file_is_named_with_its_digests_and_its_cure(run, epoch):
    commit = commit_shard(epoch, 0)
    files = ["traj.zarr/latents/c/0/0/0/0/0", "images/g000000-1.png", "groups.parquet"]
    for file, how in itertools.product(files, ["flip", "truncate", "empty", "delete"]):
        expected = commit.files[file]["sha256"]
        kind, found = (MissingDataError, "nothing") if how == "delete" else (CorruptDataError, "found [0-9a-f]{64}")
        message = rf"{file} \(shard-000000(.|\n)*{expected}(.|\n)*{found}(.|\n)*next: d3po heal \S*/demo --epoch 0"
        with tampered(run, f"{epoch.key}/{commit.folder}/{file}", how), pytest.raises(kind, match=message):
            forget(run).epoch(0).fetch(commit)
    forget(run).epoch(0).fetch(commit)


def test_a_file_that_breaks_after_it_was_verified_is_noticed(disk_run):
    epoch = disk_run.epoch(0)
    commit = commit_text(epoch, "prompts")
    path = epoch.fetch(commit, "note.txt")
    path.write_text("hellO")
    with pytest.raises(CorruptDataError):
        epoch.fetch(commit, "note.txt")
    path.unlink()
    with pytest.raises(MissingDataError):
        epoch.fetch(commit)


def test_a_broken_cache_is_filled_again(s3_environment):
    epoch = Run.create("s3://runs/cache", s3_environment["D3PO_CACHE"].replace("/", "x")[-40:].lstrip("-_."), {}).epoch(
        0
    )
    commit = commit_text(epoch, "prompts")
    path = epoch.fetch(commit, "note.txt")
    for broken in (b"", b"other"):
        path.write_bytes(broken)
        assert epoch.fetch(commit, "note.txt").read_text() == "hello"
    path.unlink()
    assert epoch.fetch(commit, "note.txt").read_text() == "hello"


@pytest.mark.parametrize("how", ["flip", "truncate", "empty"])
def test_a_broken_marker_is_noticed(run, epoch, how):
    commit_text(epoch, "prompts")
    tamper(run, "epochs/0000/commits/prompts.1.json", how)
    fresh = run.epoch(0)
    with pytest.raises((CorruptDataError, UnknownFormatError), match="Marker 1 of prompts in epoch 0 of run demo"):
        fresh.latest("prompts")
    with pytest.raises((CorruptDataError, UnknownFormatError)):
        fresh.latest_all()
    with pytest.raises((CorruptDataError, UnknownFormatError)):
        commit_text(fresh, "prompts")
    healed = commit_text(fresh, "prompts", "again", supersede=True)
    assert healed.number == 2
    assert fresh.latest("prompts") == healed


def test_a_marker_under_another_name_is_refused(run, epoch):
    commit_text(epoch, "prompts")
    run.backend.put("epochs/0000/commits/reference.1.json", run.backend.get("epochs/0000/commits/prompts.1.json"))
    with pytest.raises(CorruptDataError, match=r"Marker 1 of reference .* is that of prompts, number 1"):
        epoch.latest("reference")


def test_a_lost_predecessor_is_noticed(run, epoch):
    for text in ("one", "two", "three"):
        commit_text(epoch, "prompts", text, supersede=True)
    tamper(run, "epochs/0000/commits/prompts.2.json", "delete")
    with pytest.raises(MissingDataError, match="Marker 2 of prompts"):
        run.epoch(0).history("prompts")
    assert run.epoch(0).latest("prompts").content == {"text": "three"}


def test_an_exchanged_predecessor_is_noticed(run, epoch):
    commit_text(epoch, "prompts", "one")
    commit_text(epoch, "prompts", "two", supersede=True)
    other = commit_text(run.epoch(1), "prompts", "other")
    run.backend.put("epochs/0000/commits/prompts.1.json", run.backend.get("epochs/0001/commits/prompts.1.json"))
    with pytest.raises(CorruptDataError, match=f"not the one that marker 2 superseded(.|\n)*{other.digest}"):
        run.epoch(0).history("prompts")


def test_links_are_refused(epoch, tmp_path):
    attempt = epoch.begin("prompts")
    (tmp_path / "elsewhere").write_text("x")
    (attempt.path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="link is neither"):
        epoch.commit(attempt)


def test_details_that_are_not_json_leave_nothing_behind(run, epoch):
    attempt = epoch.begin("prompts")
    (attempt.path / "x").write_text("x")
    with pytest.raises(ValueError, match="JSON compliant"):
        epoch.commit(attempt, {"agreement": float("nan")})
    assert run.backend.keys("epochs") == []
