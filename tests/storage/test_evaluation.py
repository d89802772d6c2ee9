"""An evaluation's folder on a disk and on S3: settings once, parts that are whole or not there."""

import pytest

from storage.backend import open_backend
from storage.errors import CorruptDataError, UnknownFormatError
from storage.evaluation import Evaluation, Part
from storage.layout import evaluation_location
from storage.tables import EVALUATION, rows_from_bytes, rows_to_bytes


@pytest.fixture
def evaluation(root: str) -> Evaluation:
    return Evaluation(root, "demo")


def make(evaluation: Evaluation, name: str = "images", content: bytes = b"pixels") -> Part:
    making = evaluation.begin(name)
    evaluation.add(making, "a.png", content)
    evaluation.add(making, "b.png", content[::-1])
    return evaluation.finish(making, {"digest": "d"})


def test_settings_are_settled_once(root: str, evaluation: Evaluation):
    assert evaluation.settings() is None
    settled = evaluation.settle({"seed": 1})
    assert settled["seed"] == 1
    assert len(settled["id"]) == 12
    assert Evaluation(root, "demo").settle({"seed": 2}) == settled
    assert Evaluation(root, "other").settle({"seed": 1})["id"] != settled["id"]


def test_a_part_is_there_when_it_is_finished(root: str, evaluation: Evaluation):
    making = evaluation.begin("images")
    evaluation.add(making, "a.png", b"pixels")
    assert evaluation.part("images") is None
    finished = evaluation.finish(making, {"digest": "d"})
    assert Evaluation(root, "demo").part("images") == finished
    assert evaluation.read_part(finished, "a.png") == b"pixels"


@pytest.mark.parametrize("how", ["changed", "missing", "marker"])
def test_a_part_that_is_not_whole_is_not_there(root: str, evaluation: Evaluation, how: str):
    part = make(evaluation)
    backend = open_backend(evaluation_location(root, "demo"))
    if how == "changed":
        backend.put(f"{part.folder}/b.png", b"others")
        with pytest.raises(CorruptDataError, match=r"b\.png was changed(.|\n)*d3po evaluate"):
            evaluation.read_part(part, "b.png")
    elif how == "missing":
        backend.remove(f"{part.folder}/b.png")
    else:
        backend.put("parts/images.json", b"{}")
    assert evaluation.part("images") is None


def test_made_again_it_takes_the_place_of_the_other(root: str, evaluation: Evaluation):
    first, second = make(evaluation), make(evaluation, content=b"others")
    assert first.folder != second.folder
    assert evaluation.part("images") == second
    assert not [key for key in open_backend(evaluation_location(root, "demo")).keys("parts") if first.folder in key]


def test_a_blind_plan_is_written_once(evaluation: Evaluation):
    assert evaluation.blind_plan(0) is None
    assert evaluation.create_blind_plan(0, {"owners": {"x": "A"}}) == {"owners": {"x": "A"}}
    assert evaluation.create_blind_plan(0, {"owners": {"x": "B"}}) == {"owners": {"x": "A"}}
    assert evaluation.blind_plan(1) is None


def test_settings_of_another_version_are_refused(root: str, evaluation: Evaluation):
    open_backend(evaluation_location(root, "demo")).put("settings.json", b'{"format": "d3po-evaluation-settings/9"}')
    with pytest.raises(UnknownFormatError, match="d3po-evaluation-settings/9"):
        evaluation.settings()


@pytest.mark.parametrize("path", ["../x", "/x", "a//b"])
def test_nothing_is_written_outside(evaluation: Evaluation, path: str):
    with pytest.raises(ValueError, match="relative path"):
        evaluation.write(path, b"")
    with pytest.raises(ValueError, match="relative path"):
        evaluation.add(evaluation.begin("images"), path, b"")


def test_values_keep_their_ids():
    rows = [
        {"candidate": "A", "eta": 1.0, "group_id": "e0", "trajectory_id": id, "measure": "m", "value": value}
        for id, value in (("e0-0", 1.5), (None, -2.0))
    ]
    assert rows_from_bytes(rows_to_bytes(rows, EVALUATION), EVALUATION) == rows
