"""A pipeline is complete, of a known layout, and has one digest."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from d3po_core.config import ModelConfig
from d3po_core.errors import ModelError
from d3po_core.model_files import PARTS, locate, model_digest
from d3po_core.policy import Policy


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_missing_part_is_named_before_weights_are_read(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    for other in copy.glob("*/*.safetensors"):
        other.write_bytes(b"not weights")
    with pytest.raises(ModelError, match=f"the part '{part}' is missing.*d3po init"):
        Policy.load(ModelConfig(path=str(copy), device="cpu"), tiny.sampling())


def test_missing_weights_are_named_with_what_was_expected(copy: Path) -> None:
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"'vae' is incomplete: expected diffusion_pytorch_model.safetensors"):
        locate(str(copy))


def test_unreadable_weights_name_the_part(copy: Path) -> None:
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"the part 'unet'.*could not be loaded"):
        Policy.load(ModelConfig(path=str(copy), device="cpu"), tiny.sampling())


def test_other_layouts_are_refused(copy: Path) -> None:
    config = copy / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "addition_embed_type": "text_time"}))
    with pytest.raises(ModelError, match=r"Stable Diffusion 1.x/2.x layout"):
        locate(str(copy))


def test_a_folder_has_no_revision(copy: Path) -> None:
    with pytest.raises(ModelError, match="has no revisions"):
        locate(str(copy), "main")


def test_the_safety_checker_is_not_needed_and_not_read(copy: Path) -> None:
    (copy / "safety_checker").mkdir()
    (copy / "safety_checker" / "model.safetensors").write_bytes(b"not weights")
    assert Policy.load(ModelConfig(path=str(copy), device="cpu"), tiny.sampling()).latent_shape == (4, 8, 8)


def test_digest_changes_with_any_file_that_is_read_and_no_other(copy: Path) -> None:
    before = model_digest(str(copy))
    assert len(before) == 64
    (copy / "README.md").write_text("a card")
    assert model_digest(str(copy)) == before
    scheduler = copy / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + " ")
    assert model_digest(str(copy)) != before


def test_a_hub_id_is_found_in_the_hubs_cache_and_an_unknown_one_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    """The real hub client, offline, over a cache laid out as it lays it out."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    script = (
        "from d3po_core.model_files import hub_commit, locate, model_digest\n"
        "print(locate('somebody/tiny').name, locate('somebody/tiny', '" + commit + "').name)\n"
        "print(hub_commit('somebody/tiny'), model_digest('somebody/tiny'))\n"
        "locate('somebody/unknown')\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [commit, commit, commit, model_digest(str(folder))], done.stderr
    assert "no such folder here, and the hub did not give it" in done.stderr
    assert "Correct model.path" in done.stderr
