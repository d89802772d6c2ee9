"""METHOD 3's formulas, by hand, for every method that is not D3PO."""

import math

import numpy as np
import pytest
import tiny
import torch
from torch.nn.functional import logsigmoid

from d3po_core.config import ObjectiveConfig
from d3po_core.group_data import GroupData, GroupPairs
from d3po_core.labels import Labels
from d3po_core.objectives.base import Objective, get_objective
from d3po_core.objectives.ddpo import DDPO
from d3po_core.objectives.specs import spec_of
from d3po_core.objectives.value_function import ValueFunction
from d3po_core.records import Reward

from .made import group_of

D = 256
ONE = GroupPairs(preferred=torch.tensor([0]), dispreferred=torch.tensor([1]), target=torch.tensor([1.0]).double())


def values(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def evaluated(
    objective: Objective, change: torch.Tensor, group: GroupData, count: int, sampled: torch.Tensor | None = None
) -> tuple[float, torch.Tensor, dict[str, float]]:
    leaf = change.clone().requires_grad_(True)
    loss, metrics = objective(leaf, torch.zeros_like(change) if sampled is None else sampled, group, count)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient, {name: float(value) for name, value in metrics.items()}


def reward(image: int, value: float, prompt: str = "a moon", group: int = 0) -> Reward:
    return Reward(trajectory_id=f"g{group:06d}-{image}", group_id=f"g{group:06d}", prompt=prompt, value=value)


def test_trajectory_dpo_is_one_sigmoid_over_the_sum() -> None:
    objective = get_objective(ObjectiveConfig(kind="trajectory_dpo", beta=0.5), D)
    r = values([[0.1, 0.2, -0.3], [0.4, -0.6, 0.1]])
    z = 0.5 * (float(r[0].sum()) - float(r[1].sum()))
    loss, gradient, metrics = evaluated(objective, r, group_of(r, ONE), 1)
    assert loss == pytest.approx(math.log1p(math.exp(-z)))
    assert torch.allclose(gradient[0], values([[-0.5 / (1 + math.exp(z))] * 3]))
    assert torch.equal(gradient[1], -gradient[0])
    assert metrics["train/logratio_preferred"] == pytest.approx(0.0)
    assert metrics["train/logratio_dispreferred"] == pytest.approx(-0.1)


def ddpo(rewards: list[Reward], epoch: int = 0, **fields: float) -> DDPO:
    objective = get_objective(ObjectiveConfig(kind="ddpo", **fields), D)
    assert isinstance(objective, DDPO)
    objective.begin(rewards, epoch)
    return objective


def test_ddpo_at_the_sampler_has_the_gradient_minus_a_over_n() -> None:
    objective = ddpo([reward(0, 1.0), reward(1, 3.0), reward(2, 8.0)])
    r = torch.zeros(3, 4, dtype=torch.float64)
    advantages = (np.array([1.0, 3.0, 8.0]) - 4) / np.std([1.0, 3.0, 8.0])
    loss, gradient, metrics = evaluated(objective, r, group_of(r), 12)
    assert loss == pytest.approx(-advantages.mean(), abs=1e-6)
    for image, advantage in enumerate(advantages):
        assert torch.allclose(gradient[image], torch.full((4,), -advantage / 12, dtype=torch.float64), atol=1e-6)
    assert metrics["train/clip_frac"] == 0


def test_ddpo_clips_what_moved_the_right_way_far_enough_and_nothing_else() -> None:
    objective = ddpo([reward(0, 1.0), reward(1, 3.0)], ratio_clip_range=1e-4)
    far = values([[2e-4], [2e-4]])  # the worse image became likelier: wrong; the better one too: enough
    _, gradient, metrics = evaluated(objective, far, group_of(far), 2)
    assert float(gradient[0]) > 0
    assert float(gradient[1]) == 0
    assert metrics["train/clip_frac"] == 1.0
    _, gradient, _ = evaluated(objective, -far, group_of(far), 2)
    assert float(gradient[0]) == 0
    assert float(gradient[1]) < 0


def test_a_ratio_that_overflows_beside_the_clip_has_no_gradient_instead_of_nan() -> None:
    """METHOD 2: exponentials first would give 0 times infinity."""
    objective = ddpo([reward(0, 1.0), reward(1, 3.0)])
    far = values([[-800.0], [800.0]])
    loss, gradient, _ = evaluated(objective, far, group_of(far), 2)
    assert math.isfinite(loss)
    assert gradient.tolist() == [[0.0], [0.0]]


def test_statistics_that_could_never_be_used_are_refused() -> None:
    with pytest.raises(ValueError, match="statistics_minimum is 16, but only the last 8"):
        ObjectiveConfig(kind="ddpo", statistics_size=8)


def test_prdps_range_is_in_the_unit_of_the_reduction() -> None:
    with pytest.raises(ValueError, match=r"objective.ratio_clip_range was left at its default"):
        ObjectiveConfig(kind="prdp", reduction="sum", beta=1.0)
    config = ObjectiveConfig(kind="prdp", reduction="sum", beta=1.0, ratio_clip_range=0.5)
    assert get_objective(config, 16384).clip_range == 0.5


def test_of_an_even_split_neither_image_is_preferred() -> None:
    split = tiny.pair(0, 0, 1, 0.5)
    labels = Labels(spec_of("preferred_images"), [split, tiny.pair(1, 1, 0, 0.75)], ())
    assert labels.groups == ("g000001",)
    assert labels.images("g000001") == ("g000001-1",)
    assert Labels(spec_of("d3po"), [split], ()).groups == ("g000000",), "there it pulls the margin to 0"


def test_ddpo_statistics_are_a_prompts_own_once_there_are_enough_and_persist() -> None:
    """New rewards enter first; 32 are kept; below 16 the epoch's own are used; ±5."""
    first = [reward(image, float(image), group=group) for group in range(2) for image in range(8)]
    objective = ddpo(first, statistics_minimum=16, statistics_size=20)
    second = [reward(image, 100.0 + image) for image in range(8)]
    carried = ddpo([], statistics_minimum=16, statistics_size=20)
    carried.load_state(objective.state())
    carried.begin(second, epoch=1)
    kept = np.array([*range(4, 8), *range(8), *(100 + image for image in range(8))], dtype=float)
    assert carried.state()["rewards"]["a moon"] == kept.tolist()
    r = torch.zeros(8, 1, dtype=torch.float64)
    _, gradient, _ = evaluated(carried, r, group_of(r), 8)
    expected = (np.arange(100.0, 108.0) - kept.mean()) / (kept.std() + 1e-6)
    assert torch.allclose(gradient[:, 0], torch.from_numpy(-expected / 8))
    # Resumed within the epoch: the same rewards are not entered again.
    resumed = ddpo([], statistics_minimum=16, statistics_size=20)
    resumed.load_state(carried.state())
    resumed.begin(second, epoch=1)
    assert resumed.state() == carried.state()
    # Too few of a prompt: the epoch's own; an outlier's advantage is cut at 5 standard deviations.
    few = ddpo(
        [reward(image, 0.0) for image in range(99)] + [reward(0, 1.0, "a star", 1)],
        statistics_minimum=200,
        statistics_size=200,
    )
    _, gradient, _ = evaluated(few, r[:1], group_of(r[:1], name="g000001"), 1)
    assert float(gradient) == pytest.approx(-5.0)


def test_a_sum_clips_by_d_times_the_range() -> None:
    """METHOD 2, units: 1e-4 becomes 1.64 nats at D = 16384."""
    objective = get_objective(ObjectiveConfig(kind="ddpo", reduction="sum"), 16384)
    assert objective.clip_range == pytest.approx(1.64, abs=2e-3)


def test_dpok_is_alpha_times_the_advantage_over_the_value_function() -> None:
    objective = get_objective(ObjectiveConfig(kind="dpok"), D)
    generator = torch.Generator().manual_seed(0)
    r = torch.zeros(3, 2, dtype=torch.float64)
    group = group_of(r, rewards=[1.0, 2.0, 6.0], latents=torch.randn(3, 3, 4, 8, 8, generator=generator))
    loss, gradient, _ = evaluated(objective, r, group, 6)
    assert loss == pytest.approx(-10 * 3.0), "before anything is seen V is 0"
    assert torch.allclose(gradient, -10 * values([[1.0, 1.0], [2.0, 2.0], [6.0, 6.0]]) / 6)
    seen = objective.observe([group])
    assert seen is not None
    objective.update(seen)
    _, gradient, metrics = evaluated(objective, r, group, 6)
    assert abs(float(gradient.sum())) < 1e-6, "the baseline takes the mean away"
    assert metrics["train/value_error"] < np.var([1.0, 2.0, 6.0])
    assert objective.observe([]) is None


def test_the_value_function_learns_what_its_features_can_tell_in_any_order() -> None:
    """A reward that is linear in a channel's mean; sums of halves are the sum of all; JSON and back."""
    generator = torch.Generator().manual_seed(0)
    groups = []
    for number in range(40):
        latents = torch.randn(2, 5, 4, 8, 8, generator=generator) + torch.randn(2, 1, 4, 1, 1, generator=generator)
        wanted = 3 + 2 * latents[:, 0, 1].mean(dim=(1, 2))
        latents[:, 1:] = latents[:, :1]
        groups.append(group_of(torch.zeros(2, 4), rewards=wanted.tolist(), latents=latents, name=f"g{number:06d}"))
    whole, halves = ValueFunction(), ValueFunction()
    for value, parts in ((whole, [groups]), (halves, [groups[20:], groups[:20]])):
        for part in parts:
            sums = value.sums(part)
            assert sums is not None
            value.add(sums)
    again = ValueFunction()
    again.load_state(whole.state())
    for group in groups[:5]:
        assert torch.allclose(whole(group), group.rewards[:, None].expand(2, 4), atol=0.05)
        assert torch.allclose(whole(group), halves(group), atol=1e-8)
        assert torch.equal(whole(group), again(group))


def test_prdp_is_the_clipped_regression_of_equations_16_to_21() -> None:
    objective = get_objective(ObjectiveConfig(kind="prdp", beta=2.0, ratio_clip_range=0.05), D)
    old = values([[0.1, 0.0], [0.0, 0.2], [-0.1, 0.0]])
    r = old + values([[0.2, 0.01], [0.0, -0.3], [0.02, 0.04]])
    rewards = [1.0, 0.2, -0.6]
    loss, _, metrics = evaluated(objective, r, group_of(r, rewards=rewards), 3, old)
    clipped = torch.clamp(r, old - 0.05, old + 0.05)
    expected, wider = 0.0, 0
    for a, b in ((0, 1), (0, 2), (1, 2)):
        wanted = (rewards[a] - rewards[b]) / 2.0
        plain = (float((r[a] - r[b]).sum()) - wanted) ** 2
        held = (float((clipped[a] - clipped[b]).sum()) - wanted) ** 2
        expected, wider = expected + max(plain, held) / 3, wider + (held > plain)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert 0 < metrics["train/clip_frac"] == pytest.approx(wider / 3)
    # At the sampler nothing is clipped: 2 (Δ − ΔR/β) for each pair an image is in.
    _, gradient, _ = evaluated(objective, old, group_of(r, rewards=rewards), 3, old)
    total = old.sum(dim=1)
    by_hand = sum(2 * (float(total[0] - total[b]) - (rewards[0] - rewards[b]) / 2.0) for b in (1, 2)) / 3
    assert torch.allclose(gradient[0], torch.full((2,), by_hand, dtype=torch.float64))


def test_reward_weighted_weighs_errors_by_the_softmax_over_the_prompt() -> None:
    objective = get_objective(ObjectiveConfig(kind="reward_weighted"), D)
    errors = values([[1.0, 2.0], [3.0, 4.0]])
    loss, gradient, _ = evaluated(objective, errors, group_of(errors, rewards=[0.0, 5.0]), 2)
    weight = 1 / (1 + math.exp(0.2 * 5))
    assert loss == pytest.approx((weight * 3.0 + (1 - weight) * 7.0) / 2)
    assert torch.allclose(gradient[0], torch.full((2,), weight / 2, dtype=torch.float64))
    assert float(gradient.sum()) == pytest.approx(1.0), "a group weighs one, whatever its rewards"


def test_preferred_images_is_their_mean_error() -> None:
    objective = get_objective(ObjectiveConfig(kind="preferred_images"), D)
    errors = values([[1.0, 2.0], [3.0, 6.0]])
    loss, gradient, _ = evaluated(objective, errors, group_of(errors), 4)
    assert loss == pytest.approx(3.0)
    assert torch.allclose(gradient, torch.full((2, 2), 0.25, dtype=torch.float64))


def test_diffusion_dpo_wants_the_error_to_fall_more_on_the_preferred() -> None:
    objective = get_objective(ObjectiveConfig(kind="diffusion_dpo"), D)
    zero = torch.zeros(2, 2, dtype=torch.float64)
    loss, gradient, _ = evaluated(objective, zero, group_of(zero, ONE), 2)
    assert loss == pytest.approx(math.log(2))
    assert torch.allclose(gradient, values([[1.0, 1.0], [-1.0, -1.0]]) * 2000 / 4 / 2)
    rise = values([[-1e-3, 2e-3], [5e-4, -1e-3]])
    loss, _, metrics = evaluated(objective, rise, group_of(rise, ONE), 2)
    assert loss == pytest.approx(float(-logsigmoid(-1000.0 * (rise[0] - rise[1])).mean()), rel=1e-12)
    assert metrics["train/implicit_acc"] == 0.5
