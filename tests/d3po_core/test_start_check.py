"""METHOD 5.2: before the first update the recomputed log-probs are the stored ones, or nothing is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from d3po_core.config import ObjectiveConfig, TrainingConfig
from d3po_core.errors import StartCheckError, TrainingError
from d3po_core.objectives.base import get_objective
from d3po_core.start_check import TOLERANCES, StartCheck, check_tolerance
from d3po_core.training import TrainingResult, train


def start(policy: Any, source: Any, pairs: Any = None, **training: Any) -> TrainingResult:
    config = TrainingConfig(learning_rate=1e-3, **training)
    return train(policy, source, pairs or tiny.first_wins(6), ObjectiveConfig(), config, run_seed=1, epoch=0)


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_another_micro_batch_than_the_samplers_passes(policy: Any, source: Any, micro_batch: int) -> None:
    assert start(policy, source, micro_batch=micro_batch).steps > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_passes_by_its_own_tolerance(folder: Path, dtype: str) -> None:
    policy = tiny.load(folder, dtype=dtype, latent_dtype=dtype)
    source = tiny.MemorySource(tiny.sample(policy, 2), tiny.embeddings(policy))
    assert start(policy, source, tiny.first_wins(2), micro_batch=3).steps > 0


def test_another_adapter_is_found_with_by_how_much_and_where(policy: Any, source: Any) -> None:
    state = policy.lora_state()
    policy.load_lora_state({name: value + 0.05 for name, value in state.items()})
    moved = policy.lora_state()
    with pytest.raises(
        StartCheckError,
        match=r"32 of 32 recomputed.*within 1\.0e-05 nats.*found \d\.\d+e-\d+ at trajectory g00000\d-\d, denoising step \d.*"
        r"d3po audit.*d3po run CONFIG --retrain",
    ):
        start(policy, source)
    assert all(torch.equal(value, moved[name]) for name, value in policy.lora_state().items()), "nothing was trained"


def test_another_dtype_or_guidance_is_found(folder: Path, source: Any) -> None:
    for changes in ({"guidance_scale": 4.0}, {"eta": 0.9}):
        with pytest.raises(StartCheckError):
            start(tiny.load(folder, **changes), source)


def test_a_single_changed_value_is_found(policy: Any, sampled: Any) -> None:
    trajectories, embeds = sampled
    changed = trajectories.log_prob.clone()
    changed[5, 2] += 5e-5
    source = tiny.MemorySource(replace(trajectories, log_prob=changed), embeds)
    with pytest.raises(
        StartCheckError, match=r"1 of 48.*found [45]\.\d+e-05 at trajectory g000002-1, denoising step 2"
    ):
        start(policy, source, groups_per_step=6)


def test_train_mode_would_be_found(policy: Any, source: Any) -> None:
    """The tiny network has no dropout of its own: one is put in, as a training loop's train() would switch it on."""
    policy.unet.conv_out.register_forward_pre_hook(
        lambda module, args: (torch.nn.functional.dropout(args[0], 0.1, training=True),)
    )
    with pytest.raises(StartCheckError):
        start(policy, source)


def test_even_splits_alone_are_checked_too(policy: Any, source: Any) -> None:
    """No coefficient is other than zero at the start; the check is due all the same."""
    even = [tiny.pair(group, target=0.5) for group in range(6)]
    start(policy, source, even)
    policy.load_lora_state({name: value + 0.05 for name, value in policy.lora_state().items()})
    with pytest.raises(StartCheckError):
        start(policy, source, even)


def test_the_worst_is_remembered_and_nan_is_the_worst() -> None:
    check = StartCheck(torch.float32)
    stored = torch.zeros(3, dtype=torch.float64)
    check.compare(torch.tensor([0.0, 1e-3, 2e-6], dtype=torch.float64), stored, [("a", 0), ("b", 1), ("c", 2)])
    assert (check.worst, check.where, check.beyond) == (1e-3, ("b", 1), 1)
    check.compare(torch.tensor([torch.nan], dtype=torch.float64), stored[:1], [("d", 3)])
    assert check.where == ("d", 3)
    with pytest.raises(StartCheckError, match="2 of 4"):
        check.finish()


def test_a_tolerance_wider_than_the_clip_is_refused_with_the_reason() -> None:
    """bfloat16 and DDPO's 1e-4; float16 and float32 can tell it; a sum scales both alike."""
    for reduction, beta in (("mean", 0.1), ("sum", 1e-5)):
        narrow = ObjectiveConfig(ratio_clip="published", ratio_clip_range=1e-4, reduction=reduction, beta=beta)
        objective = get_objective(narrow, 16384)
        with pytest.raises(TrainingError, match=r"clips log-ratios at ±.*bfloat16.*it would clip rounding.*float32"):
            check_tolerance(objective, torch.bfloat16)
        check_tolerance(objective, torch.float16)
        check_tolerance(objective, torch.float32)
    for dtype in TOLERANCES:
        check_tolerance(get_objective(ObjectiveConfig(ratio_clip="published"), 16384), dtype)
        check_tolerance(get_objective(ObjectiveConfig(), 16384), dtype)
