"""What holds for each objective that is listed, and for the next one that will be."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from d3po_core.config import ObjectiveConfig, TrainingConfig
from d3po_core.evaluations import every_evaluation, means_of, values_of
from d3po_core.gradients import accumulate_gradient
from d3po_core.group_data import GroupData, GroupPairs
from d3po_core.labels import Labels
from d3po_core.objectives.base import Objective, get_objective
from d3po_core.objectives.specs import OBJECTIVES, spec_of
from d3po_core.order import plan_steps
from d3po_core.policy import Policy
from d3po_core.records import Reward
from d3po_core.reference import reference_log_probs
from d3po_core.start_check import StartCheck
from d3po_core.step_data import read_groups
from d3po_core.training import train

from .made import group_of

KINDS = sorted(OBJECTIVES)
K = 3
PAIRS = [tiny.pair(0, 0, 1), tiny.pair(0, 2, 1, 0.75), tiny.pair(1, 2, 0)]


def rewards_of(groups: int, images: int = K) -> list[Reward]:
    """Values without a pattern, the same each time."""
    return [
        Reward(
            trajectory_id=f"g{group:06d}-{image}",
            group_id=f"g{group:06d}",
            prompt=tiny.PROMPTS[group % len(tiny.PROMPTS)],
            value=math.sin(3.0 * group + 7.0 * image),
        )
        for group in range(groups)
        for image in range(images)
    ]


def made(kind: str, **fields: Any) -> Objective:
    """The objective at its defaults, begun with every group's rewards; wide clips, so that most elements are inside."""
    spec = spec_of(kind)
    if "ratio_clip_range" in spec.defaults:
        fields = {"ratio_clip_range": 0.3, **fields}
    if kind == "diffusion_dpo":
        fields = {"beta": 20.0, **fields}
    objective = get_objective(ObjectiveConfig(kind=kind, **fields), 256)
    objective.begin(rewards_of(2), epoch=0)
    return objective


def table(kind: str) -> tuple[GroupData, torch.Tensor, torch.Tensor]:
    """A group of three images and four transitions, what the policy says of it, and what the sampler said."""
    generator = torch.Generator().manual_seed(5)
    change = 0.2 * torch.randn(K, 4, generator=generator, dtype=torch.float64)
    sampled = 0.05 * torch.randn(K, 4, generator=generator, dtype=torch.float64)
    pairs = GroupPairs(
        preferred=torch.tensor([0, 2]), dispreferred=torch.tensor([1, 1]), target=torch.tensor([1.0, 0.7]).double()
    )
    latents = torch.randn(K, 5, 4, 8, 8, generator=generator)
    own = spec_of(kind).labels
    group = group_of(
        change,
        pairs if own == "pairs" else None,
        [0.3, -1.0, 0.8] if own == "rewards" else None,
        latents,
    )
    return group, change, sampled


@pytest.mark.parametrize("kind", KINDS)
def test_its_configuration_has_all_its_fields_and_no_other(kind: str) -> None:
    config = ObjectiveConfig(kind=kind)
    assert ObjectiveConfig.model_validate(config.model_dump()) == config
    assert set(config.own_fields) == {
        "kind",
        *spec_of(kind).defaults,
        *(["reference"] if spec_of(kind).references else []),
    }
    foreign = next(name for name in ObjectiveConfig.model_fields if name not in config.own_fields)
    value = {"reduction": "mean", "reference": "pretrained", "ratio_clip": "none"}.get(foreign, 8)
    with pytest.raises(ValueError, match=rf"objective\.{foreign} is not a field of kind {kind}, which has"):
        ObjectiveConfig(kind=kind, **{foreign: value})


def test_an_unknown_objective_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"no objective 'dpo'; there are d3po, trajectory_dpo, ddpo"):
        ObjectiveConfig(kind="dpo")
    with pytest.raises(ValueError, match=r"reference is epoch_start, but prdp is held to pretrained"):
        ObjectiveConfig(kind="prdp", reference="epoch_start")


@pytest.mark.parametrize("kind", KINDS)
def test_its_gradient_is_the_finite_difference(kind: str) -> None:
    objective, (group, change, sampled) = made(kind), table(kind)
    if (seen := objective.observe([group])) is not None:
        objective.update(seen)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return objective(values, sampled, group, 7)[0]

    leaf = change.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    assert bool(gradient.any())
    for place in ((0, 0), (1, 2), (2, 3), (2, 0)):
        up, down = change.clone(), change.clone()
        up[place] += 1e-6
        down[place] -= 1e-6
        finite = float(loss(up) - loss(down)) / 2e-6
        assert float(gradient[place]) == pytest.approx(finite, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_step_add_up_to_its_loss_and_metrics(kind: str) -> None:
    """Twice the terms at twice the count: the same means."""
    objective, (group, change, sampled) = made(kind), table(kind)
    if (seen := objective.observe([group])) is not None:
        objective.update(seen)
    once, metrics = objective(change, sampled, group, 12)
    half, halves = objective(change, sampled, group, 24)
    assert float(once) == pytest.approx(2 * float(half))
    assert "train/loss" in metrics
    for name, value in metrics.items():
        assert float(value) == pytest.approx(2 * float(halves[name])), name


Sampled = tuple[Policy, tiny.MemorySource]
HELD = [(kind, reference) for kind in KINDS for reference in spec_of(kind).references or (None,)]
"""(kind, what it is held to)."""
WITH_NOISE = [
    (kind, shared)
    for kind in KINDS
    for shared in (True, False)
    if spec_of(kind).initial_noise in ("any", "shared" if shared else "independent")
]
"""(kind, whether the images of a group start from one x_T)."""


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "independent"])
def noise(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def exact(folder: Path, noise: bool) -> Sampled:
    """A float64 network that sampled two groups of three, and whose adapter has moved since."""
    policy = tiny.load(folder, group_size=K, shared_initial_noise=noise)
    policy.unet.double()
    source = tiny.MemorySource(tiny.sample(policy, 2), tiny.embeddings(policy))
    torch.manual_seed(1)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in policy.lora_state().items()}
    policy.load_lora_state(state)
    return policy, source


def groups_of(exact: Sampled, kind: str, reference: str | None = None) -> tuple[list[GroupData], int]:
    """One step's groups as the loop reads them; the pretrained model's log-probs where they are asked for."""
    policy, source = exact
    spec = spec_of(kind)
    labels = Labels(spec, PAIRS, rewards_of(2))
    plan = plan_steps(
        labels.terms(), policy.schedule.trainable, TrainingConfig(), run_seed=1, epoch=0, couples=spec.couples
    )
    groups = read_groups(
        policy,
        source,
        labels,
        plan[0],
        [0, 1],
        reference=reference or made(kind).reference,
        reference_log_probs=reference_log_probs(policy, source, plan[0].group_ids),
        run_seed=1,
        epoch=0,
    )
    return groups, plan[0].count


def assert_refused(exact: Sampled, kind: str) -> None:
    with pytest.raises(ValueError, match="is defined for images that start from"):
        groups_of(exact, kind)


def observed(kind: str, groups: list[GroupData], **fields: Any) -> Objective:
    objective = made(kind, **fields)
    if (seen := objective.observe(groups)) is not None:
        objective.update(seen)
    return objective


def gradient(policy: Policy) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in policy.lora_parameters().items()}
    policy.unet.zero_grad(set_to_none=True)
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To 1e-6 of the largest element."""
    scale = max(float(value.abs().max()) for value in expected.values())
    assert scale > 0
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= 1e-6 * scale, name


def rows_to_evaluate(objective: Objective, groups: list[GroupData], micro_batch: int) -> tuple[int, int]:
    """Each state once, and once for the pretrained model; and again, without gradient, where what is coupled does not fit."""
    at = [[group.states(place) for place in range(len(group.transitions))] for group in groups]
    coupled = {
        "image": [1 for states in at for count in states for _ in range(count)],
        "transition": [count for states in at for count in states],
        "trajectory": [sum(states) for states in at],
    }[objective.spec.couples]
    denoising = objective.spec.quantity == "denoising_error"
    beside = bool(objective.kl_weight) + (denoising and objective.reference == "pretrained")
    # The losses that are without guidance take one row a state, the others two.
    each = 1 if denoising else 2
    return each * (1 + beside) * sum(coupled), each * sum(count for count in coupled if count > micro_batch)


@pytest.mark.parametrize(("kind", "reference"), HELD)
def test_micro_batches_of_any_size_give_plain_autograds_gradient(
    exact: Sampled, noise: bool, kind: str, reference: str | None
) -> None:
    """Everything in one graph, each image its own states, reference and KL by their definition, against one pass and two."""
    if (kind, noise) not in WITH_NOISE:
        return assert_refused(exact, kind)
    policy, _ = exact
    groups, count = groups_of(exact, kind, reference)
    objective = observed(kind, groups, **({} if reference is None else {"reference": reference}))
    policy.unet.zero_grad(set_to_none=True)
    loss = torch.zeros((), dtype=torch.float64)
    for group in (replace(one, same_start=False) for one in groups):
        batch = every_evaluation([group])
        assert len(batch) == len(group.ids) * len(group.transitions)

        def tables(policy: Policy, group: GroupData = group, batch: list = batch) -> torch.Tensor:
            _, values = values_of(policy, [group], batch)
            return torch.stack([values[place :: len(group.ids)] for place in range(len(group.ids))])

        output, _ = values_of(policy, [group], batch)
        current, reference = tables(policy), group.reference
        if objective.reference == "pretrained":
            with policy.reference(), torch.no_grad():
                reference = tables(policy)
        loss = loss + objective(current - reference, group.stored - reference, group, count)[0]
        if objective.kl_weight:
            with policy.reference(), torch.no_grad():
                pretrained, sigma = means_of(policy, [group], batch)
            kl = ((output - pretrained).double() ** 2).flatten(1).mean(1) / (2 * sigma**2)
            loss = loss + objective.kl_weight * kl.sum() / count
    loss.backward()
    expected = gradient(policy)
    metrics: list[dict[str, float]] = []
    rows: list[int] = []
    hook = policy.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    for micro_batch in (1, 2, 5, 9, 12, 64):  # 9: the smaller of two groups of pairs, 12: each group, 64: all at once
        rows.clear()
        found = accumulate_gradient(policy, objective, groups, count=count, micro_batch=micro_batch)
        once, again = rows_to_evaluate(objective, groups, micro_batch)
        clipped = once + again - sum(rows)  # and so left out of a second pass
        assert clipped == 0 or (objective.clip_range is not None and 0 < clipped < again)
        metrics.append({name: float(value) for name, value in found.items()})
        assert_same(gradient(policy), expected)
    hook.remove()
    assert all(one == pytest.approx(metrics[0], rel=1e-9) for one in metrics)
    if objective.kl_weight:
        assert metrics[0]["train/kl"] > 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if spec_of(kind).quantity == "log_prob"])
def test_known_log_probs_give_the_first_steps_gradient(exact: Sampled, noise: bool, kind: str) -> None:
    """Before the first update the stored log-probs are the policy's: no first pass, the same gradient."""
    if (kind, noise) not in WITH_NOISE:
        return assert_refused(exact, kind)
    policy, _ = exact
    moved, fresh = policy.lora_state(), tiny.load(policy.folder).lora_state()
    policy.load_lora_state(fresh)
    try:
        groups, count = groups_of(exact, kind)
        objective = observed(kind, groups)
        accumulate_gradient(policy, objective, groups, count=count, micro_batch=2)
        expected = gradient(policy)
        check = StartCheck(torch.float64)
        accumulate_gradient(policy, objective, groups, count=count, micro_batch=5, start_check=check)
        check.finish()
        assert_same(gradient(policy), expected)
    finally:
        policy.load_lora_state(moved)


def test_how_the_weights_lie_in_memory_makes_no_difference(exact: Sampled) -> None:
    policy, _ = exact
    groups, count = groups_of(exact, "ddpo")
    objective = observed("ddpo", groups)
    policy.unet.zero_grad(set_to_none=True)
    assert policy.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last), "as it is loaded"
    accumulate_gradient(policy, objective, groups, count=count, micro_batch=64)
    expected = gradient(policy)
    policy.unet.to(memory_format=torch.contiguous_format)
    try:
        accumulate_gradient(policy, objective, groups, count=count, micro_batch=64)
    finally:
        policy.unet.to(memory_format=torch.channels_last)
    assert_same(gradient(policy), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_resumes_and_continues_to_the_same_adapter(folder: Path, kind: str) -> None:
    """Killed after the first step, or not: the same bits; and the next epoch takes up what the last one left."""
    shared = spec_of(kind).initial_noise != "independent"
    policy = tiny.load(folder, group_size=K, shared_initial_noise=shared)
    source = tiny.MemorySource(tiny.sample(policy, 2), tiny.embeddings(policy))
    reference = {name: source.trajectories.log_prob[row] for row, name in enumerate(source.trajectories.ids)}
    config = TrainingConfig(learning_rate=1e-2, groups_per_step=1, inner_epochs=2, checkpoint_every=1)
    fresh, states = policy.lora_state(), []

    def run(**options: Any) -> Any:
        policy.load_lora_state(fresh)
        return train(
            policy,
            source,
            PAIRS,
            ObjectiveConfig(kind=kind),
            config,
            run_seed=1,
            rewards=rewards_of(2),
            reference_log_probs=reference,
            **{"epoch": 0, **options},
        )

    whole = run(on_checkpoint=states.append)
    again = run(resume=states[0])
    moved = max(float((value - fresh[name]).abs().max()) for name, value in whole.state.lora.items())
    assert moved > 1e-4
    assert all(torch.equal(value, again.state.lora[name]) for name, value in whole.state.lora.items())
    assert again.state.objective_state == whole.state.objective_state
    onward = run(epoch=1, initial_state=whole.state)
    assert math.isfinite(onward.metrics["train/loss"])
