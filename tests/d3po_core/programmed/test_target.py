"""A function of one's own, by module:function, from the working folder or installed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from d3po_core.errors import ObjectiveError
from d3po_core.programmed.config import PythonConfig
from d3po_core.programmed.loading import load_objective
from d3po_core.programmed.target import import_target

IMAGES = np.stack([np.full((4, 4, 3), level, np.uint8) for level in (3, 9)])


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def written(name: str, text: str) -> str:
    Path(f"{name}.py").write_text(text)
    return name


def test_a_function_of_the_working_folder():
    module = written("of_my_own", "def redness(images, prompts):\n    return images[..., 0].mean(axis=(1, 2))\n")
    config = PythonConfig(kind="python", target=f"{module}:redness", unit="levels of red", batch_size=1)
    objective = load_objective("redness", config)
    assert objective(IMAGES, ["", ""]).tolist() == [3.0, 9.0]
    assert (objective.name, objective.unit) == ("redness", "levels of red")


def test_a_file_of_ones_own_does_not_take_the_place_of_a_library():
    written("json", "def dumps(images, prompts): ...\n")
    import json

    assert import_target("json:dumps") is json.dumps


@pytest.mark.parametrize(
    ("text", "target", "said"),
    [
        ("", "not_there:f", "the module not_there does not import .*ModuleNotFoundError"),
        ("import not_installed_here\n", "broken_import:f", "No module named 'not_installed_here'"),
        ("def f(:\n", "broken_syntax:f", "SyntaxError"),
        ("def g(images, prompts): ...\n", "without_it:f", "has no function f; it has g"),
        ("f = 3\n", "no_function:f", "has no function f; it has none"),
    ],
)
def test_what_cannot_be_imported_is_explained(text: str, target: str, said: str):
    if text:
        written(target.partition(":")[0], text)
    with pytest.raises(ObjectiveError, match=said):
        import_target(target)


def test_an_error_in_it_is_explained():
    module = written("failing", "def f(images, prompts):\n    raise KeyError('weights')\n")
    with pytest.raises(ObjectiveError, match="the objective mine failed for images 0 … 1: KeyError: 'weights'"):
        load_objective("mine", PythonConfig(kind="python", target=f"{module}:f"))(IMAGES, ["", ""])


@pytest.mark.parametrize("target", ["module", "module:", ":f", "a b:f", "module.f", "module:f:g", "/path/m.py:f"])
def test_targets_that_are_none(target: str):
    with pytest.raises(ValueError, match="expected module:function"):
        PythonConfig(kind="python", target=target)
