"""Checkpoints: the same bytes, and a resumed training is bit for bit the uninterrupted one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from d3po_core.checkpoint import CheckpointState
from d3po_core.config import ObjectiveConfig, TrainingConfig
from d3po_core.training import TrainingResult, train

TRAINING = TrainingConfig(learning_rate=3e-3, groups_per_step=3, inner_epochs=3, checkpoint_every=1)


def run(
    policy: Any, source: Any, training: TrainingConfig = TRAINING, epoch: int = 0, **options: Any
) -> TrainingResult:
    objective = ObjectiveConfig(beta=5.0)
    return train(policy, source, tiny.first_wins(6), objective, training, run_seed=1, epoch=epoch, **options)


def same(a: CheckpointState, b: CheckpointState) -> bool:
    kinds = ("lora", "exp_avg", "exp_avg_sq")
    tensors = all(
        getattr(a, kind).keys() == getattr(b, kind).keys()
        and all(torch.equal(value, getattr(b, kind)[name]) for name, value in getattr(a, kind).items())
        for kind in kinds
    )
    empty = {key: {} for key in kinds}
    return tensors and replace(a, **empty) == replace(b, **empty)


@pytest.fixture(scope="module")
def whole(folder: Path, sampled: Any) -> tuple[TrainingResult, list[CheckpointState]]:
    """The uninterrupted training of six steps, with a checkpoint after each but the last."""
    checkpoints: list[CheckpointState] = []
    return run(tiny.load(folder), tiny.MemorySource(*sampled), on_checkpoint=checkpoints.append), checkpoints


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_interrupted_at_any_step_and_resumed_from_disk_it_is_bit_identical(
    folder: Path, source: Any, whole: Any, tmp_path: Path, step: int
) -> None:
    result, checkpoints = whole

    class KilledError(Exception):
        pass

    def keep(state: CheckpointState) -> None:
        if state.step == step:
            state.save(tmp_path / "checkpoint")
            raise KilledError

    with pytest.raises(KilledError):
        run(tiny.load(folder), source, on_checkpoint=keep)
    found = CheckpointState.load(tmp_path / "checkpoint")
    assert same(found, checkpoints[step - 1])
    numbers: list[int] = []
    resumed = run(tiny.load(folder), source, resume=found, on_metrics=lambda number, _: numbers.append(number))
    assert numbers == list(range(step + 1, 7))
    assert same(resumed.state, result.state)
    assert resumed.metrics == result.metrics


def test_positions_and_cadence(folder: Path, source: Any, whole: Any) -> None:
    result, checkpoints = whole
    assert [state.step for state in checkpoints] == [1, 2, 3, 4, 5], "none after the last: that is the result"
    assert [state.inner_epoch for state in checkpoints] == [0, 0, 1, 1, 2]
    assert (result.state.step, result.state.steps_total, result.state.optimizer_steps) == (6, 6, 6)
    every_fourth: list[CheckpointState] = []
    rare = TRAINING.model_copy(update={"checkpoint_every": 4})
    again = run(tiny.load(folder), source, rare, on_checkpoint=every_fourth.append)
    assert [state.step for state in every_fourth] == [4]
    assert same(again.state, result.state), "how often it is saved is free, and changes nothing"
    resumed = run(tiny.load(folder), source, rare, resume=checkpoints[0])
    assert same(resumed.state, result.state)


def test_the_same_state_is_the_same_bytes(whole: Any, tmp_path: Path) -> None:
    result, _ = whole
    for name in "ab":
        result.state.save(tmp_path / name)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == ["state.json", "state.safetensors"], "no pickles"
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again = CheckpointState.load(tmp_path / "a")
    assert same(again, result.state)
    again.save(tmp_path / "c")
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()
    assert {value.dtype for value in again.lora.values()} == {torch.float32}


def test_a_finished_training_resumes_to_itself(folder: Path, source: Any, whole: Any) -> None:
    result, _ = whole
    again = run(tiny.load(folder), source, resume=result.state)
    assert same(again.state, result.state)
    assert again.metrics == {}


def test_another_configuration_is_shown_as_a_difference(folder: Path, source: Any, whole: Any) -> None:
    _, checkpoints = whole
    other = TRAINING.model_copy(update={"learning_rate": 1e-3, "micro_batch": 5})
    with pytest.raises(
        ValueError,
        match=r"training\.learning_rate: 0\.003 in the checkpoint, 0\.001 now; training\.micro_batch: 64 .*5 now",
    ):
        run(tiny.load(folder), source, other, resume=checkpoints[2])


def test_the_next_epoch_starts_from_the_moments(folder: Path, whole: Any) -> None:
    """Optimizer state carries over: the count goes on, and the first step differs from a fresh optimizer's."""
    parent = whole[0].state
    results = []
    for initial in (parent, None):
        policy = tiny.load(folder)
        policy.load_lora_state(dict(parent.lora))
        source = tiny.MemorySource(tiny.sample(policy, 6, epoch=1), tiny.embeddings(policy))
        results.append(run(policy, source, epoch=1, initial_state=initial))
    carried, fresh = results
    assert carried.state.optimizer_steps == 12
    assert carried.state.step == 6
    assert fresh.state.optimizer_steps == 6
    assert not same(carried.state, fresh.state)


def test_missing_files_and_unknown_formats_are_refused(whole: Any, tmp_path: Path) -> None:
    whole[0].state.save(tmp_path / "c")
    scalars = json.loads((tmp_path / "c" / "state.json").read_text())
    assert scalars["format"] == "d3po-checkpoint/1"
    (tmp_path / "c" / "state.json").write_text(json.dumps({**scalars, "format": "d3po-checkpoint/9"}))
    with pytest.raises(ValueError, match="not of the format d3po-checkpoint/1"):
        CheckpointState.load(tmp_path / "c")
    (tmp_path / "c" / "state.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no state\.safetensors.*d3po heal"):
        CheckpointState.load(tmp_path / "c")
