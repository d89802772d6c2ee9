"""METHOD 5.1: two CPU processes (gloo, torchrun) give the adapter that one gives; a rank that fails stops the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from d3po_core.checkpoint import CheckpointState
from d3po_core.objectives.specs import OBJECTIVES

SCRIPT = Path(__file__).parent / "two_ranks.py"
ROOT = Path(__file__).parents[2]


def launch(count: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={count}",
        "--redirects=0",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(SCRIPT), *map(str, arguments)], env=env, capture_output=True, text=True, timeout=600
    )


def called(folder: Path) -> list[str]:
    return (folder / "called.txt").read_text().splitlines()


@pytest.mark.slow
def test_two_processes_give_the_same_adapter_as_one(folder: Path, tmp_path: Path) -> None:
    """Of each objective. Five groups a step over two ranks, then one: an uneven share, and a rank without any."""
    one, two = tmp_path / "one", tmp_path / "two"
    for output, count in ((one, 1), (two, 2)):
        done = launch(count, folder, output)
        assert done.returncode == 0, done.stderr[-3000:]
    for kind in OBJECTIVES:
        _check_same(one / kind, two / kind)


def _check_same(one: Path, two: Path) -> None:
    single = CheckpointState.load(one / "rank-0")
    first, second = (CheckpointState.load(two / f"rank-{rank}") for rank in (0, 1))
    moved = 0.0
    for name, value in single.lora.items():
        assert torch.equal(first.lora[name], second.lora[name]), "the ranks hold one adapter"
        assert torch.allclose(first.lora[name], value, atol=1e-5), (one.name, name)
        if "lora_B" in name:
            moved = max(moved, float(value.abs().max()))
    assert moved > 1e-3, "there was something to differ in"
    assert first.objective_state == second.objective_state
    assert called(two / "rank-1") == [], "only rank 0 calls back"
    assert [line.split()[0] for line in called(two / "rank-0")] == [line.split()[0] for line in called(one / "rank-0")]
    for ours, theirs in zip(called(two / "rank-0"), called(one / "rank-0"), strict=True):
        if ours.startswith("metrics"):
            assert float(ours.split()[2]) == pytest.approx(float(theirs.split()[2]), rel=1e-4, abs=1e-6), "global means"


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_instead_of_hanging_it(folder: Path, tmp_path: Path) -> None:
    done = launch(2, folder, tmp_path, "die")
    assert done.returncode != 0
    assert "Signal 9" in done.stderr, done.stderr[-3000:]
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fail", "Process 1 of 2 failed, so all stop: OSError: the disk is gone"),
        ("differ", "The processes were given different adapters"),
    ],
)
def test_a_rank_that_fails_makes_the_others_fail(folder: Path, tmp_path: Path, mode: str, message: str) -> None:
    done = launch(2, folder, tmp_path, mode)
    assert done.returncode != 0
    assert message in done.stderr, done.stderr[-3000:]
    assert not list(tmp_path.iterdir()), "nothing is written"
