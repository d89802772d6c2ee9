"""The loop: what a step does, what it measures, what stops it."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from d3po_core.checkpoint import CheckpointState
from d3po_core.config import LoraConfig, ObjectiveConfig, TrainingConfig
from d3po_core.errors import ModelError, StartCheckError, TrainingError
from d3po_core.optimizer_state import moments_of
from d3po_core.order import plan_steps
from d3po_core.policy import Policy
from d3po_core.preferences import judgements_to_pairs
from d3po_core.programmed.judges import programmed_judgement
from d3po_core.reference import reference_log_probs
from d3po_core.training import TrainingResult, train

OBJECTIVE = ObjectiveConfig(beta=5.0)


def run(
    policy: Policy, source: Any, pairs: Any = None, objective: ObjectiveConfig = OBJECTIVE, **options: Any
) -> TrainingResult:
    extra = {key: options.pop(key) for key in list(options) if key not in TrainingConfig.model_fields}
    training = TrainingConfig(**{"learning_rate": 3e-3, "groups_per_step": 3, "inner_epochs": 2, **options})
    return train(policy, source, pairs or tiny.first_wins(6), objective, training, run_seed=1, epoch=0, **extra)


def test_metrics_of_every_step_by_the_fields_names(policy: Policy, source: Any) -> None:
    steps: list[tuple[int, dict[str, float]]] = []
    result = run(
        policy,
        source,
        on_metrics=lambda *step: steps.append(step),
        data_metrics={"data/tie_rate": 0.25, "data/agreement": 0.8},
    )
    assert [number for number, _ in steps] == [1, 2, 3, 4]
    assert result.steps == 4
    first = steps[0][1]
    expected = {f"train/{name}" for name in ("loss", "implicit_acc", "margin", "grad_norm", "lr", "both_fall")}
    for side in ("preferred", "dispreferred"):
        expected |= {f"train/logratio_{side}", f"train/clip_frac_{side}"}
    assert expected | {"data/tie_rate", "data/agreement"} <= first.keys()
    assert first["train/loss"] == pytest.approx(0.693147, abs=5e-7), "log 2 at the start"
    assert first["train/margin"] == first["train/logratio_preferred"] == 0.0
    assert first["train/terms"] == 3 * 4
    assert first["data/tie_rate"] == 0.25
    assert result.metrics == steps[-1][1]


def test_training_prefers_what_was_preferred(policy: Policy, source: Any) -> None:
    last = run(policy, source, groups_per_step=6, inner_epochs=12).metrics
    assert last["train/loss"] < 0.6
    assert last["train/implicit_acc"] > 0.65
    assert last["train/margin"] > 0.2
    assert last["train/logratio_preferred"] > last["train/logratio_dispreferred"]


def test_one_step_is_adamw_on_the_clipped_gradient(folder: Path, policy: Policy, source: Any) -> None:
    options = {"learning_rate": 1e-2, "max_grad_norm": 1e-3, "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9}
    norms: list[float] = []
    run(
        policy,
        source,
        groups_per_step=6,
        inner_epochs=1,
        on_metrics=lambda _, m: norms.append(m["train/grad_norm"]),
        **options,
    )
    other = tiny.load(folder)
    embeds = torch.stack([source.embeds[prompt] for prompt in source.trajectories.prompts])
    terms = []
    for step in range(4):
        latents = source.trajectories.latents
        log_prob = other.log_prob(latents[:, step], step, latents[:, step + 1], embeds)
        r = log_prob - source.trajectories.log_prob[:, step]
        terms.append(-torch.nn.functional.logsigmoid(5.0 * (r[0::2] - r[1::2])))
    torch.stack(terms).mean().backward()
    parameters = list(other.lora_parameters().values())
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1e-3)
    assert norms == [pytest.approx(float(norm), rel=1e-4)]
    assert norms[0] > 1e-3
    torch.optim.AdamW(parameters, lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1).step()
    expected = other.lora_state()
    # Adam's first step is about ±lr wherever the gradient is not noise; compare where it is not.
    for name, value in policy.lora_state().items():
        agree = (value - expected[name]).abs() < 1e-5
        assert float(agree.double().mean()) > 0.99, name


def test_only_the_adapter_changes(folder: Path, policy: Policy, source: Any) -> None:
    run(policy, source)
    bare = dict(tiny.load(folder, lora=None).unet.named_parameters())
    for name, parameter in policy.unet.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, bare[name.replace(".base_layer", "")]), name
    assert not any(module.training for module in policy.unet.modules())


def test_the_first_step_is_one_pass_and_no_reference_forward(policy: Policy, source: Any) -> None:
    rows: list[int] = []
    policy.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0]) // 2))
    run(policy, source, groups_per_step=6, inner_epochs=1, micro_batch=1)
    assert sum(rows) == 12 * 4 - 6, "12 images, 4 transitions, once each; two images share a first state"


def test_a_subset_of_transitions_costs_in_proportion(policy: Policy, source: Any) -> None:
    rows: list[int] = []
    policy.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0]) // 2))
    half = TrainingConfig(groups_per_step=6, transitions_per_trajectory=2)
    (step,) = plan_steps(tiny.terms(tiny.first_wins(6)), policy.schedule.trainable, half, run_seed=1, epoch=0)
    run(policy, source, **half.model_dump(include={"groups_per_step", "transitions_per_trajectory"}), inner_epochs=1)
    assert sum(rows) == 12 * 2 - sum(0 in transitions for transitions in step.transitions)


def test_ties_are_left_out_of_the_mean(folder: Path, source: Any) -> None:
    """METHOD 5.6: groups with equal values change nothing, not even the loss's mean."""

    def trained(groups: range) -> TrainingResult:
        judgements = [
            programmed_judgement(
                f"g{group:06d}", [f"g{group:06d}-0", f"g{group:06d}-1"], {"value": [1.0, 0.0 if group < 3 else 1.0]}
            )
            for group in groups
        ]
        pairs, _ = judgements_to_pairs(judgements)
        return run(tiny.load(folder), source, pairs)

    without, with_ties = trained(range(3)), trained(range(6))
    assert with_ties.metrics == without.metrics
    assert all(torch.equal(value, without.state.lora[name]) for name, value in with_ties.state.lora.items())


def test_a_non_finite_gradient_stops_the_run_and_leaves_the_adapter(policy: Policy, source: Any) -> None:
    checkpoints: list[CheckpointState] = []
    policy.unet.conv_out.register_forward_hook(_poison_after(policy, steps=1))
    with pytest.raises(
        TrainingError, match=r"gradient of optimizer step 2 is not finite.*groups g0000.*d3po run CONFIG --retrain"
    ):
        run(policy, source, micro_batch=64, on_checkpoint=checkpoints.append, checkpoint_every=1)
    assert len(checkpoints) == 1
    assert all(torch.equal(value, checkpoints[0].lora[name]) for name, value in policy.lora_state().items())
    assert all(bool(value.isfinite().all()) for value in policy.lora_state().values())


def _poison_after(policy: Policy, steps: int) -> Any:
    """Make the gradient at the network's output NaN from the given optimizer step on."""
    calls = []

    def hook(module: Any, args: Any, output: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) > steps and output.requires_grad:
            output.register_hook(lambda gradient: gradient * torch.nan)

    return hook


def test_non_finite_log_probs_name_the_trajectories_and_leave_the_adapter(policy: Policy, sampled: Any) -> None:
    trajectories, embeds = sampled
    latents = trajectories.latents.clone()
    latents[7, 4, 0, 0, 0] = torch.inf
    before = policy.lora_state()
    with pytest.raises(TrainingError, match=r"g000003-1 \(step 3\)"):
        run(policy, tiny.MemorySource(replace(trajectories, latents=latents), embeds))
    assert all(torch.equal(value, before[name]) for name, value in policy.lora_state().items())


def test_both_log_ratios_falling_is_warned_of_once(
    policy: Policy, source: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="d3po_core.training")
    steps: list[dict[str, float]] = []
    run(policy, source, learning_rate=3e-2, inner_epochs=3, on_metrics=lambda _, metrics: steps.append(metrics))
    falls = [metrics["train/both_fall"] for metrics in steps]
    assert falls[0] == 0.0
    assert sum(falls) > 1
    for metrics in steps:
        both = metrics["train/logratio_preferred"] < -1e-5 and metrics["train/logratio_dispreferred"] < -1e-5
        assert metrics["train/both_fall"] == float(both)
    assert len([record for record in caplog.records if "both fall" in record.message]) == 1


class TestPretrainedReference:
    OBJECTIVE = ObjectiveConfig(beta=5.0, reference="pretrained", ratio_clip="published")

    @pytest.fixture
    def later(self, folder: Path) -> tuple[Policy, tiny.MemorySource]:
        """A policy whose adapter has learned, and what it sampled."""
        policy = tiny.load(folder)
        torch.manual_seed(1)
        state = {name: value + 0.1 * torch.randn_like(value) for name, value in policy.lora_state().items()}
        policy.load_lora_state(state)
        return policy, tiny.MemorySource(tiny.sample(policy, 6), tiny.embeddings(policy))

    def test_log_probs_are_the_bare_models(self, folder: Path, later: tuple[Policy, tiny.MemorySource]) -> None:
        policy, source = later
        found = reference_log_probs(policy, source, ["g000002", "g000000"])
        assert sorted(found) == ["g000000-0", "g000000-1", "g000002-0", "g000002-1"]
        bare, every = tiny.load(folder, lora=None), source.trajectories
        for name, values in found.items():
            row = every.ids.index(name)
            embeds = source.embeds[every.prompts[row]].expand(4, -1, -1)
            with torch.no_grad():
                expected = bare.log_prob(every.latents[row, :-1], torch.arange(4), every.latents[row, 1:], embeds)
            assert torch.allclose(values, expected, atol=1e-6)
        assert not torch.allclose(found["g000000-0"], every.log_prob[0], atol=1e-3)

    def test_the_start_is_away_from_log_2_and_the_clip_is_alive(self, later: tuple[Policy, tiny.MemorySource]) -> None:
        policy, source = later
        given = reference_log_probs(policy, source, [f"g{group:06d}" for group in range(6)])
        steps: list[dict[str, float]] = []
        run(
            policy, source, objective=self.OBJECTIVE, reference_log_probs=given, on_metrics=lambda _, m: steps.append(m)
        )
        assert abs(steps[0]["train/logratio_preferred"]) > 0.0953
        assert steps[0]["train/clip_frac_preferred"] == steps[0]["train/change_preferred"] == 0.0
        assert steps[0]["train/loss"] != pytest.approx(0.693147, abs=1e-4)
        assert steps[0]["train/grad_norm"] > 0

    def test_missing_log_probs_are_named(self, later: tuple[Policy, tiny.MemorySource]) -> None:
        with pytest.raises(ValueError, match=r"reference is pretrained.*g00000\d-0"):
            run(*later, objective=self.OBJECTIVE)


def test_untrainable_or_unfitting_input_is_refused(folder: Path, policy: Policy, source: Any) -> None:
    with pytest.raises(ModelError, match=r"eta is 0\.0.*nothing to train on"):
        run(tiny.load(folder, eta=0.0), source)
    with pytest.raises(ValueError, match="no adapter to train"):
        run(tiny.load(folder, lora=None), source)
    with pytest.raises(ValueError, match=r"4 denoising steps, expected 8 \(T\)"):
        run(tiny.load(folder, num_inference_steps=8), source)
    with pytest.raises(ValueError, match=r"float32, this policy's latents torch\.bfloat16"):
        run(tiny.load(folder, latent_dtype="bfloat16"), source)
    with pytest.raises(ValueError, match="Labels of g000001 name trajectories that the group does not have: g000001-7"):
        run(policy, source, [tiny.pair(0), tiny.pair(1, 7)])
    with pytest.raises(ValueError, match="gave no trajectories for the groups g000009"):
        run(policy, source, [tiny.pair(9)])
    with pytest.raises(ValueError, match="given twice"):
        run(policy, source, [tiny.pair(0), tiny.pair(0, 1, 0)])


def test_another_scheduler_file_is_refused(folder: Path, tmp_path: Path, source: Any) -> None:
    other = tiny.build(tmp_path / "model", {**tiny.SD15_SCHEDULER, "steps_offset": 0})
    with pytest.raises(ValueError, match="timesteps"):
        run(tiny.load(other), source)
    deterministic = tiny.build(tmp_path / "one", {**tiny.SD15_SCHEDULER, "set_alpha_to_one": True})
    with pytest.raises(ValueError, match="trainable steps"):
        run(tiny.load(deterministic), source)


def test_a_last_step_without_density_does_not_spread_nan(tmp_path: Path) -> None:
    """METHOD 5.3: σ = 0 at the last step gives the published code NaN, which spreads into the adapter."""
    policy = tiny.load(tiny.build(tmp_path / "model", {**tiny.SD15_SCHEDULER, "steps_offset": 0}))
    source = tiny.MemorySource(tiny.sample(policy, 2), tiny.embeddings(policy))
    result = run(policy, source, tiny.first_wins(2))
    assert result.metrics["train/terms"] == 2 * 3
    assert all(bool(value.isfinite().all()) for value in result.state.lora.values())


def test_v_prediction_trains(tmp_path: Path) -> None:
    """SD 2.1's parameterisation, through sampling, start check and training."""
    policy = tiny.load(tiny.build(tmp_path / "model", {**tiny.SD15_SCHEDULER, "prediction_type": "v_prediction"}))
    source = tiny.MemorySource(tiny.sample(policy, 2), tiny.embeddings(policy))
    assert run(policy, source, tiny.first_wins(2), inner_epochs=6).metrics["train/loss"] < 0.69


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_trains_a_float32_adapter(folder: Path, dtype: str) -> None:
    policy = tiny.load(folder, dtype=dtype, latent_dtype=dtype)
    source = tiny.MemorySource(tiny.sample(policy, 2), tiny.embeddings(policy))
    result = run(policy, source, tiny.first_wins(2), inner_epochs=8)
    assert result.metrics["train/loss"] < 0.69
    assert {value.dtype for value in result.state.lora.values()} == {torch.float32}


def test_sum_and_mean_are_the_same_training_in_other_units(folder: Path, source: Any) -> None:
    by_mean = run(tiny.load(folder), source, objective=ObjectiveConfig(beta=5.0))
    by_sum = run(tiny.load(folder), source, objective=ObjectiveConfig(beta=5.0 / 256, reduction="sum"))
    assert by_sum.metrics["train/loss"] == pytest.approx(by_mean.metrics["train/loss"], abs=1e-4)
    ratio = by_sum.metrics["train/logratio_preferred"] / by_mean.metrics["train/logratio_preferred"]
    assert ratio == pytest.approx(256, rel=1e-2)


def test_a_moved_adapter_of_another_rank_is_refused(folder: Path, policy: Policy, source: Any) -> None:
    """The parent's optimizer state belongs to its own adapter."""
    parent = run(policy, source).state
    other = tiny.load(folder, LoraConfig(rank=2, alpha=3.0, target_modules=("to_q",)))
    with pytest.raises(ValueError, match="not this adapter's"):
        run(other, source, initial_state=parent)
    with pytest.raises(StartCheckError):
        run(policy, source, initial_state=parent)


def test_carried_optimizer_state_lies_with_its_parameters(policy: Policy, source: Any) -> None:
    """The fused kernel refuses a step counter on another device than the parameter's, which only a GPU would show."""
    parent = run(policy, source).state
    for name, parameter in policy.lora_parameters().items():
        elsewhere = torch.empty_like(parameter, device="meta")
        assert {value.device.type for value in moments_of(parent, name, elsewhere).values()} == {"meta"}
