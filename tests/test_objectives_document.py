"""docs/objectives.md: its configurations are valid, its worker scripts speak the protocol, its function is taken."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from d3po_core.programmed.command import CommandWorker
from d3po_core.programmed.loading import load_objective
from tasks.config_reading import parse_configuration
from tests.support.project import REPOSITORY

TEXT = (REPOSITORY / "docs" / "objectives.md").read_text(encoding="utf-8")
SMALL = {"run": "r", "model": {"path": "m"}, "prompts": {"file": "p.txt"}}
IMAGES = np.zeros((3, 4, 4, 3), np.uint8)
IMAGES[1], IMAGES[2, ..., 0] = 8, 9
PROMPTS = ["b", "aa", "b"]
STUBS = {
    "ImageReward": """
from PIL import Image
print("load checkpoint from somewhere")
class Model:
    def score(self, prompt, image_path):
        return Image.open(image_path).getpixel((0, 0))[0] + len(prompt)
def load(name):
    assert name == "ImageReward-v1.0"
    return Model()
""",
    "hpsv2": """
from PIL import Image
def score(img_path, prompt, hps_version):
    assert hps_version == "v2.1"
    print("Loading model ...")
    return [Image.open(path).getpixel((0, 0))[0] + len(prompt) for path in img_path]
""",
}
"""In place of the packages, whose weights cannot be had in a test: the calls of their published sources."""


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("block", blocks("yaml"))
def test_its_configurations_are_valid(block: str):
    parse_configuration({**SMALL, **yaml.safe_load(block)}, "docs/objectives.md")


@pytest.mark.parametrize("package", STUBS)
def test_its_workers_speak_the_protocol(package: str, tmp_path: Path):
    [script] = [block for block in blocks("python") if f"import {package}\n" in block]
    (tmp_path / "worker.py").write_text(script)
    (tmp_path / f"{package}.py").write_text(STUBS[package])
    worker = CommandWorker([sys.executable, str(tmp_path / "worker.py")], 60)
    assert worker(IMAGES, PROMPTS) == [1, 10, 10]
    assert worker(IMAGES[1:], PROMPTS[1:]) == [10, 10]
    worker.close()


def test_its_function_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    [script] = [block for block in blocks("python") if "def redness" in block]
    [section] = [yaml.safe_load(block)["programmed"]["red"] for block in blocks("yaml") if "my_objectives" in block]
    (tmp_path / "my_objectives.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = parse_configuration({**SMALL, "programmed": {"red": section}}, "docs/objectives.md").programmed["red"]
    assert load_objective("red", config)(IMAGES, PROMPTS).tolist() == [0.0, 0.0, 9.0]
