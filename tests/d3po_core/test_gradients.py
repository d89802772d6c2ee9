"""The group form, two passes and micro-batches give the gradient of Equation 14 over the pairs (METHOD 2)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from d3po_core.config import ObjectiveConfig, TrainingConfig
from d3po_core.errors import TrainingError
from d3po_core.evaluations import micro_batches
from d3po_core.gradients import accumulate_gradient
from d3po_core.group_data import GroupData
from d3po_core.labels import Labels
from d3po_core.memory import peak_bytes
from d3po_core.objectives.base import Objective, get_objective
from d3po_core.objectives.specs import OBJECTIVES, ObjectiveSpec
from d3po_core.order import plan_steps
from d3po_core.policy import Policy
from d3po_core.records import Pair, Reward
from d3po_core.start_check import StartCheck
from d3po_core.step_data import read_groups

K = 4
PAIRS = [*(tiny.pair(0, winner, loser) for winner in (0, 3) for loser in (1, 2)), tiny.pair(1, 2, 0, 0.75)]
Gradient = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def exact(folder: Path) -> tuple[Policy, tiny.MemorySource]:
    """A float64 network that sampled two groups of four, and whose adapter has moved since."""
    policy = tiny.load(folder, group_size=K)
    policy.unet.double()
    source = tiny.MemorySource(tiny.sample(policy, 2), tiny.embeddings(policy))
    torch.manual_seed(1)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in policy.lora_state().items()}
    policy.load_lora_state(state)
    return policy, source


def data(
    exact: tuple[Policy, tiny.MemorySource],
    pairs: list[Pair] = PAIRS,
    spec: ObjectiveSpec = OBJECTIVES["d3po"],
    rewards: Sequence[Reward] = (),
) -> tuple[list[GroupData], int]:
    policy, source = exact
    labels = Labels(replace(spec, initial_noise="any"), pairs, rewards)
    (step,) = plan_steps(
        labels.terms(), policy.schedule.trainable, TrainingConfig(), run_seed=1, epoch=0, couples=spec.couples
    )
    own = range(len(step.group_ids))
    groups = read_groups(
        policy, source, labels, step, list(own), reference="epoch_start", reference_log_probs=None, run_seed=1, epoch=0
    )
    return groups, step.count


def gradient(
    exact: tuple[Policy, tiny.MemorySource],
    micro_batch: int,
    pairs: list[Pair] = PAIRS,
    **config: object,
) -> tuple[Gradient, dict[str, float], int]:
    """The adapter's gradient, the metrics and the network calls' rows."""
    policy, _ = exact
    objective = get_objective(ObjectiveConfig(**{"beta": 2.0, **config}), policy.dimensions)
    groups, count = data(exact, pairs, objective.spec)
    return gradient_of(policy, objective, groups, count, micro_batch)


def gradient_of(
    policy: Policy, objective: Objective, groups: list[GroupData], count: int, micro_batch: int
) -> tuple[Gradient, dict[str, float], int]:
    policy.unet.zero_grad(set_to_none=True)
    rows = []
    hook = policy.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0]) // 2))
    metrics = accumulate_gradient(policy, objective, groups, count=count, micro_batch=micro_batch)
    hook.remove()
    found = {name: parameter.grad.clone() for name, parameter in policy.lora_parameters().items()}
    return found, {name: float(value) for name, value in metrics.items()}, sum(rows)


def close(a: Gradient, b: Gradient, tolerance: float) -> bool:
    scale = max(float(value.abs().max()) for value in b.values())
    return all(float((a[name] - b[name]).abs().max()) <= tolerance * scale for name in b)


def pair_by_pair(exact: tuple[Policy, tiny.MemorySource]) -> tuple[Gradient, float]:
    """Equation 14 as it is written: each pair and transition its own two forwards, plain autograd, one mean."""
    policy, source = exact
    every, rows = source.trajectories, {name: row for row, name in enumerate(source.trajectories.ids)}
    policy.unet.zero_grad(set_to_none=True)
    losses = []
    for one in PAIRS:
        for step in range(4):
            ratios = []
            for name in (one.preferred, one.dispreferred):
                row = rows[name]
                embeds = source.embeds[every.prompts[row]][None]
                x, action = every.latents[row, step][None], every.latents[row, step + 1][None]
                ratios.append(policy.log_prob(x, step, action, embeds)[0] - every.log_prob[row, step])
            z = 2.0 * (ratios[0] - ratios[1])
            losses.append(-one.target * logsigmoid(z) - (1 - one.target) * logsigmoid(-z))
    loss = torch.stack(losses).mean()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.lora_parameters().items()}, float(loss.detach())


def test_group_form_is_the_pair_by_pair_gradient(exact: tuple[Policy, tiny.MemorySource]) -> None:
    expected, loss = pair_by_pair(exact)
    found, metrics, _ = gradient(exact, micro_batch=64)
    assert close(found, expected, 1e-6)
    assert metrics["train/loss"] == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 5, 7, 24, 64])
def test_every_micro_batch_is_one_gradient_by_one_pass_or_two(
    exact: tuple[Policy, tiny.MemorySource], micro_batch: int
) -> None:
    whole, whole_metrics, _ = gradient(exact, micro_batch=64)
    found, metrics, rows = gradient(exact, micro_batch)
    assert close(found, whole, 1e-9)
    assert metrics == pytest.approx(whole_metrics, rel=1e-9)
    states = [1, *3 * [4], 1, *3 * [2]]  # at four transitions; group 0 has four images in a pair, group 1 two
    twice = [count for count in states if count > micro_batch]
    assert rows == sum(states) + sum(twice), "each state once, twice where a transition's do not fit"


@pytest.mark.parametrize(
    ("micro_batch", "expected_rows"), [(5, 2 * (13 + 7)), (7, 2 * 13 + 7), (12, 2 * 13 + 7), (13, 13 + 7), (64, 13 + 7)]
)
def test_an_objective_that_couples_trajectories_takes_one_pass_where_a_group_fits_and_else_two(
    exact: tuple[Policy, tiny.MemorySource], micro_batch: int, expected_rows: int
) -> None:
    """Trajectory DPO, −log σ(β Σ_t (r_w − r_l)), against plain autograd over everything at once."""
    policy, _source = exact

    found, metrics, rows = gradient(exact, micro_batch, kind="trajectory_dpo", beta=0.5)
    assert rows == expected_rows
    policy.unet.zero_grad(set_to_none=True)
    groups, count = data(exact, spec=OBJECTIVES["trajectory_dpo"])
    assert count == len(PAIRS)
    loss = torch.zeros((), dtype=torch.float64)
    for group in groups:
        r = []
        for image in range(len(group.ids)):
            x, actions = group.latents[image, :-1], group.latents[image, 1:]
            log_prob = policy.log_prob(x, torch.arange(4), actions, group.embeds.expand(4, -1, -1))
            r.append(log_prob - group.reference[image])
        total, p = torch.stack(r).sum(dim=1), group.pairs
        z = 0.5 * (total[p.preferred] - total[p.dispreferred])
        loss = loss + (-p.target * logsigmoid(z) - (1 - p.target) * logsigmoid(-z)).sum() / count
    assert metrics["train/loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    loss.backward()
    expected = {name: parameter.grad for name, parameter in policy.lora_parameters().items()}
    assert close(found, expected, 1e-9)


def test_known_log_ratios_need_no_first_pass_and_give_the_closed_form(exact: tuple[Policy, tiny.MemorySource]) -> None:
    """Before the first update every coefficient is ∓β/2 over the count; images in no pair are not computed."""
    policy, _source = exact
    state = policy.lora_state()
    fresh = dict(tiny.load(policy.folder).lora_state().items())
    policy.load_lora_state(fresh)
    try:
        by_two, _, _ = gradient(exact, 64)
        groups, count = data(exact)
        policy.unet.zero_grad(set_to_none=True)
        check, rows = StartCheck(torch.float64), []
        hook = policy.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0]) // 2))
        objective = get_objective(ObjectiveConfig(beta=2.0), policy.dimensions)
        metrics = accumulate_gradient(policy, objective, groups, count=count, micro_batch=5, start_check=check)
        hook.remove()
        check.finish()
    finally:
        policy.load_lora_state(state)
    found = {name: parameter.grad for name, parameter in policy.lora_parameters().items()}
    assert close(found, by_two, 1e-6)
    assert float(metrics["train/loss"]) == pytest.approx(0.693147, abs=5e-7)
    assert (sum(rows), check.compared) == (20, 24)


def test_images_whose_coefficient_is_zero_are_not_computed(exact: tuple[Policy, tiny.MemorySource]) -> None:
    """The first pass tells which elements are clipped; those have no second. One pass can only tell afterwards."""
    clip = {"ratio_clip": "published", "ratio_clip_range": 0.1}
    by_two, metrics, rows = gradient(exact, 1, **clip)
    assert 0 < metrics["train/clip_frac_preferred"] < 1
    assert 20 < rows < 2 + 2 * 18
    by_one, _, rows = gradient(exact, 64, **clip)
    assert rows == 20
    assert close(by_two, by_one, 1e-9)


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_images_whose_advantage_is_zero_are_not_evaluated(
    exact: tuple[Policy, tiny.MemorySource], monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    """That is known before any pass."""
    policy, source = exact
    values = {"g000000-0": 1.0, "g000000-1": 0.0}
    rewards = [
        Reward(trajectory_id=name, group_id=group, prompt=prompt, value=values.get(name, 0.5))
        for name, group, prompt in zip(
            source.trajectories.ids, source.trajectories.group_ids, source.trajectories.prompts, strict=True
        )
    ]
    objective = get_objective(ObjectiveConfig(kind="ddpo", ratio_clip_range=0.3), policy.dimensions)
    objective.begin(rewards, epoch=0)
    groups, count = data(exact, [], objective.spec, rewards)

    found, metrics, rows = gradient_of(policy, objective, groups, count, micro_batch)
    assert rows == 1 + 3 * 2, "two images of eight, whose first state is one"
    with monkeypatch.context() as patched:
        patched.setattr(type(objective), "idle", lambda self, group: frozenset())
        every, every_metrics, rows = gradient_of(policy, objective, groups, count, micro_batch)
    assert rows == 2 * (1 + 3 * 4)
    assert close(found, every, 1e-9)
    assert metrics["train/loss"] == pytest.approx(every_metrics["train/loss"], rel=1e-9)


@pytest.mark.parametrize(("shared", "evaluations"), [(True, 7 * 3 - 6), (False, 7 * 3)])
def test_seven_images_with_three_marked_take_seven_evaluations_a_transition_not_24(
    folder: Path, shared: bool, evaluations: int
) -> None:
    """7T where the images started apart, 7T − 6 where they share x_T."""
    policy = tiny.load(folder, group_size=7, num_inference_steps=3, shared_initial_noise=shared)
    source = tiny.MemorySource(tiny.sample(policy, 1), tiny.embeddings(policy))
    pairs = [tiny.pair(0, w, l) for w in (0, 1, 2, 3) for l in (4, 5, 6)]  # noqa: E741
    _, _, rows = gradient((policy, source), 7, pairs=pairs)
    assert rows == evaluations
    assert 2 * len(pairs) == 24
    assert len(list(combinations(range(7), 2))) == 21


def test_checkpointing_gives_the_same_gradient(exact: tuple[Policy, tiny.MemorySource]) -> None:
    policy, _ = exact
    expected, _, _ = gradient(exact, 7)
    policy.use_gradient_checkpointing(True)
    calls: list[str] = []
    block, once = policy.unet.up_blocks[-1].resnets[-1], policy.unet.conv_out
    hooks = [block.register_forward_pre_hook(lambda *_: calls.append("block"))]
    hooks += [once.register_forward_pre_hook(lambda *_: calls.append("outside"))]
    try:
        found, _, _ = gradient(exact, 7)
    finally:
        for hook in hooks:
            hook.remove()
        policy.use_gradient_checkpointing(False)
    assert close(found, expected, 1e-9)
    assert calls.count("block") == 2 * calls.count("outside") > 0, "each micro-batch computes its blocks again"


@given(weights=st.lists(st.integers(1, 7), min_size=1, max_size=60), size=st.integers(7, 64))
def test_micro_batches_are_few_full_and_of_nearly_one_size(weights: list[int], size: int) -> None:
    runs = list(micro_batches(weights, size))
    loads = [sum(weights[index] for index in run) for run in runs]
    assert [index for run in runs for index in run] == list(range(len(weights)))
    assert max(loads) <= size
    greedy, load = 1, 0
    for weight in weights:
        greedy, load = (greedy, load + weight) if load + weight <= size else (greedy + 1, weight)
    assert len(runs) == greedy, "filling each up takes the fewest"
    if set(weights) == {1}:
        assert max(loads) == -(-len(weights) // len(runs)), "and these are even"


@pytest.mark.parametrize(("kind", "micro_batch"), [("d3po", 5), ("trajectory_dpo", 5), ("trajectory_dpo", 13)])
def test_memory_is_a_micro_batches_whatever_is_coupled(
    exact: tuple[Policy, tiny.MemorySource], kind: str, micro_batch: int
) -> None:
    """No forward with gradient is larger than the micro-batch."""
    policy, _ = exact
    largest = []
    hook = policy.unet.register_forward_pre_hook(lambda module, args: largest.append(len(args[0]) // 2))
    gradient(exact, micro_batch, kind=kind)
    hook.remove()
    assert max(largest) <= micro_batch


def test_trajectory_dpos_memory_does_not_grow_with_the_transitions(folder: Path) -> None:
    """Two passes hold a micro-batch; one graph over everything would hold twice as much at twice the transitions."""
    peaks = []
    for steps in (8, 16):
        policy = tiny.load(folder, group_size=2, num_inference_steps=steps)
        source = tiny.MemorySource(tiny.sample(policy, 1), tiny.embeddings(policy))
        objective = get_objective(ObjectiveConfig(kind="trajectory_dpo"), policy.dimensions)
        groups, _ = data((policy, source), tiny.first_wins(1), objective.spec)

        def step(policy: Policy = policy, groups: list = groups, objective: Objective = objective) -> None:
            accumulate_gradient(policy, objective, groups, count=1, micro_batch=4)

        step()  # the gradients themselves are there from now on
        peaks.append(peak_bytes(policy.device, step))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)


def test_float16_gradients_survive_by_scaling(folder: Path) -> None:
    """Coefficients of order β / count vanish in float16 unless scaled: compared with the float32 network's gradient."""
    found: dict[str, Gradient] = {}
    for dtype in ("float32", "float16"):
        policy = tiny.load(folder, dtype=dtype, group_size=K)
        source = tiny.MemorySource(tiny.sample(tiny.load(folder, group_size=K), 2), tiny.embeddings(policy))
        found[dtype], _, _ = gradient((policy, source), 6, beta=1e-4)
    for name, expected in found["float32"].items():
        if "lora_B" in name:
            cosine = torch.nn.functional.cosine_similarity(found["float16"][name].flatten(), expected.flatten(), dim=0)
            assert float(cosine) > 0.99, name
            assert float(found["float16"][name].norm() / expected.norm()) == pytest.approx(1, abs=0.1)


def test_non_finite_log_probs_name_their_trajectories(folder: Path) -> None:
    policy = tiny.load(folder)
    trajectories = tiny.sample(policy, 2)
    trajectories.latents[3, 2] = torch.nan
    source = tiny.MemorySource(trajectories, tiny.embeddings(policy))
    with pytest.raises(TrainingError, match=r"g000001-1 \(step 1\), g000001-1 \(step 2\).*d3po run CONFIG --retrain"):
        gradient((policy, source), 64, pairs=tiny.first_wins(2))
