import stat
from pathlib import Path

import pytest

from storage.backend import open_backend
from storage.errors import CommitConflictError, MissingDataError, StorageError
from storage.run import Run


@pytest.fixture
def backend(root):
    return open_backend(root)


def test_put_replaces_and_get_reads(backend):
    backend.put("a/b.json", b"1")
    backend.put("a/b.json", b"22")
    assert backend.get("a/b.json") == b"22"
    assert backend.size("a/b.json") == 2


def test_create_is_exclusive_and_idempotent(backend):
    backend.create("a/b.json", b"1")
    backend.create("a/b.json", b"1")
    with pytest.raises(CommitConflictError, match=r"a/b\.json exists already"):
        backend.create("a/b.json", b"2")
    assert backend.get("a/b.json") == b"1"


def test_a_missing_file_is_named(backend):
    with pytest.raises(MissingDataError, match="a/nothing"):
        backend.get("a/nothing")
    with pytest.raises(MissingDataError, match="a/nothing"):
        backend.size("a/nothing")


def test_lists_are_sorted_and_deep(backend):
    for key in ("z", "a/2", "a/1", "a/b/c", "ab/1"):
        backend.put(key, b"x")
    assert backend.keys("a") == ["a/1", "a/2", "a/b/c"]
    assert backend.keys("nothing") == []
    assert backend.children("a") == ["1", "2", "b"]
    assert backend.children("") == ["a", "ab", "z"]


def test_a_folder_moves_in_whole(backend, tmp_path):
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    (folder / "one").write_bytes(b"1")
    (folder / "deep" / "two").write_bytes(b"2")
    backend.move_in(folder, "x/y")
    assert backend.keys("x") == ["x/y/deep/two", "x/y/one"]
    assert backend.get("x/y/deep/two") == b"2"


def test_files_and_folders_are_removed(backend):
    for key in ("a/x/1", "a/x/2", "a/y"):
        backend.put(key, b"x")
    backend.remove("a/x")
    assert backend.keys("a") == ["a/y"]
    backend.remove("a/y")
    backend.remove("a/y")
    assert backend.keys("a") == []


@pytest.mark.parametrize("key", ["../x", "/x", "a/../../x", "", "a//b"])
def test_no_key_leaves_the_folder(backend, key):
    with pytest.raises(ValueError, match="relative path"):
        backend.put(key, b"x")


def test_what_is_in_the_making_is_not_listed(disk_run):
    disk_run.epoch(0).begin("prompts").path.joinpath("half").write_text("x")
    assert disk_run.backend.keys("") == ["run.json"]
    assert disk_run.backend.children("") == ["run.json"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=r"Could not write .*runs(.|\n)*next: "):
        open_backend(str(tmp_path / "runs" / "demo")).put("a", b"x")


def test_files_are_readable_by_others_as_the_umask_says(disk_run):
    mode = Path(disk_run.location, "run.json").stat().st_mode
    assert stat.S_IMODE(mode) & 0o444 == 0o444


def test_a_bucket_that_is_not_there_is_named(s3_environment):
    with pytest.raises(StorageError, match="bucket of s3://no-such-bucket/x/a does not exist"):
        open_backend("s3://no-such-bucket/x").put("a", b"1")


def test_a_server_without_conditional_writes_is_refused(s3_environment, careless_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", careless_endpoint)
    with pytest.raises(StorageError, match=r"ignores If-None-Match(.|\n)*d3po init"):
        Run.create("s3://runs/careless", "demo", {})
    assert open_backend("s3://runs/careless").keys("") == []


def test_a_server_that_does_not_answer_is_named(s3_environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"did not answer for s3://runs/x/a(.|\n)*AWS_ENDPOINT_URL"):
        open_backend("s3://runs/x").get("a")


def test_other_addresses_are_refused():
    with pytest.raises(StorageError, match=r"gs://x"):
        open_backend("gs://x")
    with pytest.raises(StorageError, match=r"s3://bucket/prefix"):
        open_backend("s3://")
