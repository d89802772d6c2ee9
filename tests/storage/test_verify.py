"""Seals, their chain, audits, healing, pruning and copies between runs."""

import itertools
import json

import pytest

from storage.documents import encode
from storage.errors import CommitConflictError, CorruptDataError, MissingDataError, StorageError
from storage.fork import copy_commit
from storage.heal import scan
from storage.layout import shard_name
from storage.manifest import build_seal, environment, verify_epoch
from storage.prune import abandoned, checkpoints, prune
from storage.run import Run
from storage.trajectories import StoredShard
from tests.storage.samples import commit_epoch, commit_shard, commit_text, tamper, tampered


def seal(epoch, **record):
    return epoch.create_seal(build_seal(epoch, environment(), **record))


@pytest.fixture
def sealed(run):
    for number in (0, 1):
        commit_epoch(run.epoch(number))
        seal(run.epoch(number))
    return run


def test_an_epoch_as_it_should_be_has_no_findings(sealed):
    assert list(verify_epoch(sealed.epoch(1))) == []
    assert scan(sealed.epoch(1)) == []


def test_a_seal_says_what_was_computed_and_what_it_lies_in(sealed):
    first, second = sealed.epoch(0).seal(), sealed.epoch(1).seal()
    assert first["content"]["parent"] is None
    assert second["content"]["parent"] == first["digest"]
    assert second["content"]["shards"]["trajectories"]["count"] == 8
    assert set(second["content"]["outputs"]) == {"prompts", "train-plan", "train"}
    assert set(second["record"]["commits"]) == {"prompts", "shard-000000", "shard-000001", "train-plan", "train"}
    assert second["record"]["environment"]["packages"]["zarr"]


def test_the_same_numbers_give_the_same_content(root, sealed):
    other = Run.create(root, "other", {})
    for number in (0, 1):
        commit_epoch(other.epoch(number))
        commit_text(other.epoch(number), "checkpoint-00ff00ff-000010")
        seal(other.epoch(number), people={"count": number})
    assert other.epoch(1).seal()["content"] == sealed.epoch(1).seal()["content"]
    text = json.dumps(other.epoch(1).seal()["content"])
    assert not any(commit.attempt in text for commit in other.epoch(1).latest_all().values())


def test_other_numbers_give_other_content(root, sealed):
    other = Run.create(root, "other", {})
    commit_epoch(other.epoch(0), shards=1)
    assert seal(other.epoch(0))["digest"] != sealed.epoch(0).seal()["digest"]


def test_a_seal_is_made_once(sealed):
    epoch = sealed.epoch(1)
    body = build_seal(epoch, {})
    assert epoch.create_seal(body) == epoch.seal()
    with pytest.raises(CommitConflictError, match="epoch 1 of run demo is sealed with content"):
        epoch.create_seal({**body, "digest": "0" * 64})


def test_nothing_is_sealed_that_is_broken_or_has_an_open_parent(run):
    commit_epoch(run.epoch(0))
    commit_epoch(run.epoch(1))
    with pytest.raises(StorageError, match="epoch 1 of run demo cannot be sealed: its parent, epoch 0, is not"):
        build_seal(run.epoch(1), {})
    shard = run.epoch(0).latest("shard-000001")
    key = f"epochs/0000/{shard.folder}/groups.parquet"
    tamper(run, key, "flip")
    (run.home / key).write_bytes(b"not in the cache either")
    with pytest.raises(CorruptDataError, match="shard-000001"):
        build_seal(run.epoch(0), {})


def test_a_tampered_file_is_the_first_finding(sealed):
    path = "traj.zarr/latents/c/0/0/0/0/0"
    for how, number in [("flip", 0), ("truncate", 1), ("empty", 0), ("delete", 1)]:
        shard = sealed.epoch(number).latest("shard-000001")
        with tampered(sealed, f"epochs/{number:04d}/{shard.folder}/{path}", how):
            (finding,) = verify_epoch(sealed.epoch(1))
            assert (finding.epoch, finding.name, finding.file) == (number, "shard-000001", f"{shard.folder}/{path}")
            assert finding.kind == ("missing" if how == "delete" else "corrupt")
            assert finding.broken
            assert shard.files[path]["sha256"] in finding.message
            assert finding.remedy == f"d3po heal {sealed.location} --epoch {number}"
            assert scan(sealed.epoch(number)) == ["shard-000001"]
            assert list(verify_epoch(sealed.epoch(1), parents=False)) == ([finding] if number == 1 else [])


def test_tampered_records_are_found(run):
    run.bind("flow-1", 0)
    epoch = run.epoch(0)
    epoch.create_plan({})
    commit_text(epoch, "train")
    seal(epoch)
    records = {"plan.json": "plan", "commits/train.1.json": "train", "bindings/000001.json": "bindings"}
    for (file, name), how in itertools.product(records.items(), ["flip", "truncate", "empty", "delete"]):
        with tampered(run, f"epochs/0000/{file}", how):
            finding = next(verify_epoch(epoch))
            assert finding.name == name
            assert finding.broken
            assert finding.remedy.startswith(("restore", "d3po heal", "use the version"))
    assert list(verify_epoch(epoch)) == []


def test_a_plan_that_was_exchanged_is_found(sealed):
    sealed.backend.put("epochs/0001/plan.json", encode({"groups": ["others"]}, "d3po-plan/1"))
    (finding,) = verify_epoch(sealed.epoch(1))
    assert (finding.kind, finding.name) == ("changed", "plan")


def test_a_tampered_parent_seal_breaks_the_chain(sealed):
    for how in ("flip", "truncate", "empty", "delete"):
        with tampered(sealed, "epochs/0000/EPOCH.json", how):
            findings = list(verify_epoch(sealed.epoch(1)))
            assert findings[0].name == "parent"
            assert findings[0].file == "epochs/0000/EPOCH.json"


def test_a_parent_that_was_sealed_anew_breaks_the_chain(sealed):
    body = sealed.epoch(0).seal()
    body["record"]["sealed_at"] = "yesterday"
    sealed.backend.put("epochs/0000/EPOCH.json", encode(body, "d3po-seal/1"))
    (finding,) = verify_epoch(sealed.epoch(1))
    assert (finding.kind, finding.name) == ("changed", "parent")


def test_a_deleted_predecessor_is_found(run):
    epoch = run.epoch(0)
    epoch.create_plan({})
    for text in ("one", "two", "three"):
        commit_text(epoch, "prompts", text, supersede=True)
    tamper(run, "epochs/0000/commits/prompts.1.json", "delete")
    (finding,) = verify_epoch(epoch)
    assert (finding.kind, finding.file) == ("missing", "commits/prompts.1.json")


def test_a_marker_committed_anew_after_the_seal_is_found_where_content_differs(sealed):
    commit_text(sealed.epoch(1), "prompts", "other content", supersede=True)
    (finding,) = verify_epoch(sealed.epoch(1))
    assert (finding.kind, finding.name) == ("changed", "content")


@pytest.mark.parametrize(("what", "how"), [("file", "flip"), ("marker", "empty"), ("marker", "delete")])
def test_healing_makes_a_sealed_epoch_whole_again(sealed, how, what):
    epoch = sealed.epoch(1)
    shard = epoch.latest("shard-000001")
    file = f"{shard.folder}/groups.parquet" if what == "file" else "commits/shard-000001.1.json"
    tamper(sealed, f"epochs/0001/{file}", how)
    fresh = sealed.epoch(1)
    assert scan(fresh) == ["shard-000001"]
    healed = commit_shard(fresh, 1, supersede=True)
    assert (healed.number, healed.content) == (2, shard.content)
    assert scan(fresh) == []
    assert [finding.kind for finding in verify_epoch(fresh)] == (["healed"] if what == "marker" else [])
    assert not any(finding.broken for finding in verify_epoch(fresh))


def test_pruned_data_are_told_from_broken(sealed):
    epoch = sealed.epoch(0)
    first = prune(epoch, "shard-000000", "traj.zarr", "space", "ada")
    assert prune(epoch, "shard-000000", "traj.zarr", "again", "ada") == first
    assert not [key for key in sealed.backend.keys("epochs/0000/shards") if "000000-" in key and "traj.zarr" in key]
    assert [(finding.kind, finding.broken) for finding in verify_epoch(sealed.epoch(1))] == [("pruned", False)]
    assert scan(epoch) == []
    with pytest.raises(MissingDataError, match=r"traj\.zarr .* was pruned on .* by ada: space"):
        epoch.fetch(first, "traj.zarr")
    assert epoch.fetch(first, "groups.parquet").is_file()
    assert abandoned(epoch) == []
    with pytest.raises(MissingDataError, match="has no nothing"):
        prune(epoch, "shard-000000", "nothing", "space", "ada")


def test_an_open_epoch_is_not_pruned(run):
    commit_epoch(run.epoch(0))
    with pytest.raises(StorageError, match="not sealed; its data are still needed"):
        prune(run.epoch(0), "shard-000000", "traj.zarr", "space", "ada")


def test_checkpoints_that_no_training_resumes_from_may_go(run):
    epoch = run.epoch(0)
    commit_epoch(epoch)
    own = epoch.latest("train-plan").attempt
    kept, gone, broken = f"checkpoint-{own}-000010", "checkpoint-00ff00ff-000010", "checkpoint-00ff00ff-000020"
    for name in (kept, gone, broken):
        commit_text(epoch, name)
    tamper(run, f"epochs/0000/commits/{broken}.1.json", "flip")
    epoch = Run.open(run.root, run.name).epoch(0)
    assert [commit.name for commit in checkpoints(epoch)] == [gone]
    with pytest.raises(StorageError, match="not sealed; its data are still needed"):
        prune(epoch, kept, None, "space", "ada")
    first = prune(epoch, gone, None, "space", "ada")
    assert (first.number, dict(first.files)) == (2, {})
    assert prune(epoch, gone, None, "again", "ada") == first
    assert not [key for key in run.backend.keys("epochs/0000/training/00ff00ff") if "000010" in key]
    with pytest.raises(MissingDataError, match=r"was pruned on .* by ada: space"):
        epoch.fetch(first)
    assert checkpoints(epoch) == []
    seal(epoch)
    assert checkpoints(epoch, replaced=True) == []
    assert [commit.name for commit in checkpoints(epoch)] == [kept]
    prune(epoch, kept, None, "space", "ada")
    assert list(verify_epoch(epoch)) == []


def test_only_what_no_commit_counts_on_is_abandoned(sealed):
    epoch = sealed.epoch(0)
    epoch.write_aside("labels/people.parquet", b"x")
    epoch.write_aside("adapter/README.md", b"x")
    first = epoch.latest("shard-000000")
    commit_shard(epoch, 0, supersede=True)
    sealed.backend.put("epochs/0000/shards/000009-00000000/groups.parquet", b"never marked")
    assert abandoned(epoch) == ["epochs/0000/shards/000009-00000000/groups.parquet"]
    sealed.backend.remove("epochs/0000/shards/000009-00000000/groups.parquet")
    assert abandoned(epoch) == []
    superseded = abandoned(epoch, superseded=True)
    assert set(superseded) == {f"epochs/0000/{first.folder}/{file}" for file in first.files}
    for key in superseded:
        sealed.backend.remove(key)
    assert list(verify_epoch(sealed.epoch(1))) == []
    assert epoch.read_aside("labels/people.parquet") == b"x"


def test_commits_are_copied_whole_into_another_run(root, sealed):
    source, target = sealed.epoch(0), Run.create(root, "fork", {}).epoch(0)
    copy = copy_commit(source, shard_name(0), target)
    original = source.latest(shard_name(0))
    assert copy.content == original.content
    assert copy.files == original.files
    assert copy.details["copied_from"]["digest"] == original.digest
    for key in sealed.backend.keys("epochs/0000/shards"):
        sealed.backend.remove(key)
    assert StoredShard(target.fetch(copy)).read().ids[0] == "g000000-0"
    with pytest.raises(MissingDataError, match="has no commit reference"):
        copy_commit(source, "reference", target)


def test_a_rewritten_run_file_is_noticed(root):
    """Valid in itself, with a checksum of its own: only the seal knows that the seed was another."""
    run = Run.create(root, "seeded", {"seed": 1})
    commit_epoch(run.epoch(0))
    seal(run.epoch(0))
    run.backend.put("run.json", encode({**run.info, "seed": 2}, "d3po-run/1"))
    [finding] = verify_epoch(Run.open(root, "seeded").epoch(0))
    assert (finding.kind, finding.name, finding.broken) == ("changed", "run", True)
