import re
from pathlib import Path

import pytest

from storage.errors import CommitConflictError, CorruptDataError, MissingDataError, UnknownFormatError
from storage.run import Run
from tests.storage.samples import tamper


def test_a_run_is_made_once_and_found_again(root):
    made = Run.create(root, "demo", {"configuration": {"a": 1}})
    found = Run.open(root, "demo")
    assert found.info == made.info
    assert found.info["configuration"] == {"a": 1}
    assert re.fullmatch("[0-9a-f]{12}", found.run_id)
    with pytest.raises(CommitConflictError, match=r"a run 'demo' at (.|\n)*next: d3po status \S*/demo"):
        Run.create(root, "demo", {"configuration": {"a": 1}})
    assert Run.open(root, "demo").info == made.info


def test_a_run_that_is_not_there_names_the_next_command(root):
    assert not Run.exists(root, "demo")
    with pytest.raises(MissingDataError, match=r"no run 'demo'(.|\n)*next: d3po init"):
        Run.open(root, "demo")
    Run.create(root, "demo", {})
    assert Run.exists(root, "demo")


@pytest.mark.parametrize("how", ["flip", "truncate", "empty"])
def test_a_broken_description_is_noticed(root, run, how):
    tamper(run, "run.json", how)
    with pytest.raises((CorruptDataError, UnknownFormatError), match=r"demo/run\.json"):
        Run.open(root, "demo")


def test_epochs_are_those_that_were_begun(run):
    assert run.epochs() == []
    run.bind("flow-1", 0)
    run.epoch(2).create_plan({"groups": []})
    assert run.epochs() == [0, 2]


def test_an_empty_folder_is_no_epoch(disk_run):
    Path(disk_run.location, "epochs", "0003", "bindings").mkdir(parents=True)
    assert disk_run.epochs() == []


def test_a_flow_run_is_bound_once_and_for_ever(run):
    assert run.binding("flow-1") is None
    run.bind("flow-1", 0)
    run.bind("flow-1", 0)
    run.bind("flow-2", 0)
    run.bind("flow-3", 1)
    assert [run.binding(f"flow-{number}") for number in (1, 2, 3, 4)] == [0, 0, 1, None]
    assert [binding["flow_run_id"] for binding in run.bindings(0)] == ["flow-1", "flow-2"]
    with pytest.raises(CommitConflictError, match="flow-1 of run demo is bound to epoch 0; expected 1"):
        run.bind("flow-1", 1)
    run.bind("flow-1", 1, moves_on=True)
    assert run.binding("flow-1") == 1
    with pytest.raises(CommitConflictError, match="flow-1 of run demo is bound to epoch 1; expected 0"):
        run.bind("flow-1", 0, moves_on=True)


def test_notes_keep_their_order(epoch):
    for number in range(12):
        epoch.note("voids", {"group": f"g{number:06d}"})
    assert [note["group"] for note in epoch.notes("voids")] == [f"g{number:06d}" for number in range(12)]
    assert epoch.notes("proceed") == []
    with pytest.raises(ValueError, match="Expected one of"):
        epoch.note("other", {})


def test_the_first_plan_is_the_plan(epoch):
    assert epoch.plan() is None
    first = epoch.create_plan({"groups": ["g000000"]})
    assert epoch.create_plan({"groups": ["other"]}) == first == epoch.plan()


def test_files_aside_can_be_replaced_and_erased(epoch):
    key = "labels/people.parquet"
    assert epoch.read_aside(key) is None
    epoch.write_aside(key, b"1")
    epoch.write_aside(key, b"2")
    assert epoch.read_aside(key) == b"2"
    epoch.erase_aside(key)
    assert epoch.read_aside(key) is None


def test_scratch_is_on_this_machine_and_hidden(run):
    assert run.scratch().is_dir()
    assert run.scratch() == run.scratch()
    assert ".staging" in run.scratch().parts
