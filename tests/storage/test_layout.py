from pathlib import Path

import pytest

from storage import layout


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("shard-000017", "shards/000017-ab12cd34"),
        ("prompts", "prompts-ab12cd34"),
        ("reference", "reference-ab12cd34"),
        ("push-plan", "labels/push-plan-ab12cd34"),
        ("push", "labels/push-ab12cd34"),
        ("pull", "labels/pull-ab12cd34"),
        ("train-plan", "training/ab12cd34"),
        ("checkpoint-00ff00ff-000010", "training/00ff00ff/checkpoint-000010-ab12cd34"),
    ],
)
def test_every_output_has_its_place(name, folder):
    assert layout.output_folder(name, "ab12cd34") == folder


def test_a_folder_can_be_asked_for():
    assert layout.output_folder("train", "ab12cd34", "training/00ff00ff/final") == "training/00ff00ff/final-ab12cd34"


@pytest.mark.parametrize("folder", ["../x", "commits/x", "/etc", "bindings", "a//b", ".staging/x", "report/x"])
def test_no_attempt_lies_among_the_records(folder):
    with pytest.raises(ValueError, match=r"Expected|kept"):
        layout.output_folder("train", "ab12cd34", folder + "/y")


@pytest.mark.parametrize(
    "key", ["plan.json", "EPOCH.json", "commits/a.1.json", "report/../plan.json", "labels/x", "report"]
)
def test_nothing_that_counts_is_written_aside(key):
    with pytest.raises(ValueError, match=r"Only|Expected"):
        layout.check_aside_key(key)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a b", "ä", "-x"])
def test_a_run_is_named_like_a_folder(name):
    with pytest.raises(ValueError, match="run's name"):
        layout.check_run_name(name)


def test_markers_are_told_from_other_files():
    assert layout.parse_commit_key(layout.commit_key(3, "shard-000017", 12)) == ("shard-000017", 12)
    assert layout.parse_commit_key("epochs/0003/commits/shard-000017.json") is None
    assert layout.parse_commit_key("epochs/0003/commits/a.0.json") is None


def test_a_path_tells_its_run_and_epoch():
    assert layout.locate(Path("/x/demo/epochs/0003/shards/000001-ab/traj.zarr")) == ("/x/demo", 3)
    assert layout.remedy_for(Path("/x/demo/epochs/0003/shards")) == "d3po heal /x/demo --epoch 3"
    assert layout.locate(Path("/x/demo")) is None
    assert "d3po audit" in layout.remedy_for(Path("/x/demo"))
