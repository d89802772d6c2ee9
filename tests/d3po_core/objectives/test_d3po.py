"""METHOD 2's facts about the loss, as functions of log-ratios alone."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from d3po_core.config import ObjectiveConfig
from d3po_core.group_data import GroupPairs
from d3po_core.objectives.base import get_objective

from .made import group_of

U, V = math.log(1.1), math.log(0.9)
D = 4 * 64 * 64


def pairs_of(*rows: tuple[int, int, float]) -> GroupPairs:
    return GroupPairs(
        preferred=torch.tensor([row[0] for row in rows]),
        dispreferred=torch.tensor([row[1] for row in rows]),
        target=torch.tensor([row[2] for row in rows], dtype=torch.float64),
    )


ONE = pairs_of((0, 1, 1.0))


def evaluate(
    r: torch.Tensor, pairs: GroupPairs = ONE, sampled: torch.Tensor | None = None, dimensions: int = D, **config: Any
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Loss, its gradient in r, metrics."""
    r = r.double().clone().requires_grad_(True)
    count = len(pairs.target) * r.shape[1]
    objective = get_objective(ObjectiveConfig(**config), dimensions)
    loss, metrics = objective(r, torch.zeros_like(r) if sampled is None else sampled, group_of(r, pairs), count)
    (gradient,) = torch.autograd.grad(loss, r)
    return loss.detach(), gradient, {name: float(value) for name, value in metrics.items()}


def ratios(w: float, l: float) -> torch.Tensor:  # noqa: E741
    return torch.tensor([[w], [l]], dtype=torch.float64)


@pytest.mark.parametrize("ratio_clip", ["none", "published", "pessimistic"])
@pytest.mark.parametrize("target", [1.0, 0.75, 0.5])
def test_at_the_reference_the_loss_is_log_2(ratio_clip: str, target: float) -> None:
    loss, gradient, metrics = evaluate(torch.zeros(2, 20), pairs_of((0, 1, target)), ratio_clip=ratio_clip)
    assert float(loss) == pytest.approx(0.693147, abs=5e-7)
    # ∓β/2 per pair over the count, at a hard target; (2p − 1) of it at a soft one.
    assert torch.allclose(gradient[0], torch.full((20,), -(2 * target - 1) * 0.05 / 20, dtype=torch.float64))
    assert torch.equal(gradient[1], -gradient[0])
    assert metrics["train/loss"] == pytest.approx(math.log(2))
    assert metrics["train/clip_frac_preferred"] == 0


def test_equation_14() -> None:
    torch.manual_seed(0)
    r = torch.randn(2, 20, dtype=torch.float64)
    loss, _, metrics = evaluate(r, beta=0.1)
    assert float(loss) == pytest.approx(float(-logsigmoid(0.1 * (r[0] - r[1])).mean()), rel=1e-12)
    assert metrics["train/implicit_acc"] == pytest.approx(float((r[0] > r[1]).double().mean()))
    assert metrics["train/margin"] == pytest.approx(0.1 * float((r[0] - r[1]).mean()))
    assert metrics["train/logratio_preferred"] == pytest.approx(float(r[0].mean()))
    assert metrics["train/logratio_dispreferred"] == pytest.approx(float(r[1].mean()))


def test_published_clipping_keeps_the_loss_between_0_68316_and_0_70323() -> None:
    best, _, _ = evaluate(ratios(100.0, -100.0), ratio_clip="published")
    worst, _, _ = evaluate(ratios(-100.0, 100.0), ratio_clip="published")
    assert float(best) == pytest.approx(0.68316, abs=5e-6)
    assert float(worst) == pytest.approx(0.70323, abs=5e-6)


@pytest.mark.parametrize(("r", "alive"), [(0.0953, True), (0.0954, False), (-0.1053, True), (-0.1054, False)])
def test_published_clipping_has_no_gradient_past_its_range(r: float, alive: bool) -> None:
    _, gradient, metrics = evaluate(ratios(r, 0.0), ratio_clip="published")
    assert bool(gradient[0] != 0) is alive
    assert metrics["train/clip_frac_preferred"] == (0.0 if alive else 1.0)
    assert metrics["train/clip_frac_dispreferred"] == 0.0


def test_pessimistic_keeps_the_gradient_of_what_moved_the_wrong_way() -> None:
    _, right, metrics = evaluate(ratios(0.2, -0.2), ratio_clip="pessimistic")
    assert not bool(right.any())
    assert metrics["train/clip_frac_preferred"] == metrics["train/clip_frac_dispreferred"] == 1.0
    _, wrong, metrics = evaluate(ratios(-0.2, 0.2), ratio_clip="pessimistic")
    assert bool(wrong.all())
    assert metrics["train/clip_frac_preferred"] == metrics["train/clip_frac_dispreferred"] == 0.0
    _, published, _ = evaluate(ratios(-0.2, 0.2), ratio_clip="published")
    assert not bool(published.any())


@pytest.mark.parametrize("ratio_clip", ["none", "published", "pessimistic"])
@pytest.mark.parametrize("target", [1.0, 0.75, 0.5])
def test_soft_targets_and_clips_are_methods_formulas(ratio_clip: str, target: float) -> None:
    torch.manual_seed(2)
    r = 0.15 * torch.randn(2, 200, dtype=torch.float64)
    (r_w, r_l), beta = r, 3.0
    z = {
        "none": (r_w - r_l, r_l - r_w),
        "published": (r_w.clamp(V, U) - r_l.clamp(V, U), r_l.clamp(V, U) - r_w.clamp(V, U)),
        "pessimistic": (r_w.clamp(max=U) - r_l.clamp(min=V), r_l.clamp(max=U) - r_w.clamp(min=V)),
    }[ratio_clip]
    expected = (-target * logsigmoid(beta * z[0]) - (1 - target) * logsigmoid(beta * z[1])).mean()
    loss, gradient, _ = evaluate(r, pairs_of((0, 1, target)), ratio_clip=ratio_clip, beta=beta)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    step = 1e-6
    for place in ((0, 3), (1, 3), (0, 7), (1, 50), (0, 120)):
        up, down = r.clone(), r.clone()
        up[place] += step
        down[place] -= step
        config = {"ratio_clip": ratio_clip, "beta": beta}
        finite = (
            evaluate(up, pairs_of((0, 1, target)), **config)[0] - evaluate(down, pairs_of((0, 1, target)), **config)[0]
        )
        assert float(gradient[place]) == pytest.approx(float(finite) / (2 * step), abs=1e-9)


def test_an_even_split_pulls_the_margin_to_zero() -> None:
    _, gradient, _ = evaluate(ratios(0.3, -0.3), pairs_of((0, 1, 0.5)), beta=2.0)
    assert float(gradient[0]) > 0 > float(gradient[1])
    _, gradient, _ = evaluate(ratios(-0.3, 0.3), pairs_of((0, 1, 0.5)), beta=2.0)
    assert float(gradient[0]) < 0 < float(gradient[1])


def test_a_sum_is_a_mean_with_beta_divided_and_clips_multiplied_by_d() -> None:
    """METHOD 2, units: β 0.1 becomes 6.1e-6 at D = 16384; a clip of 1e-4 becomes 1.64 nats."""
    assert pytest.approx(6.1e-6, rel=1e-3) == 0.1 / D
    clip = get_objective(ObjectiveConfig(reduction="sum", beta=1, ratio_clip="published", ratio_clip_range=1e-4), D)
    assert clip.clip_range == pytest.approx(1.64, abs=2e-3)
    torch.manual_seed(0)
    r = 0.1 * torch.randn(2, 20, dtype=torch.float64)
    for ratio_clip in ("none", "published", "pessimistic"):
        mean, by_mean, _ = evaluate(r, ratio_clip=ratio_clip)
        total, by_sum, _ = evaluate(r * D, ratio_clip=ratio_clip, reduction="sum", beta=0.1 / D)
        assert float(total) == pytest.approx(float(mean), rel=1e-12)
        assert torch.allclose(by_sum * D, by_mean, rtol=1e-9)


def test_with_a_pretrained_reference_clips_lie_around_the_ratio_at_sampling() -> None:
    """Fresh samples start away from 0: there a clip around 0 would be dead before the first step."""
    start = ratios(0.5, 0.3)
    _, dead, _ = evaluate(start, ratio_clip="published")
    assert not bool(dead.any())
    _, alive, metrics = evaluate(start, sampled=start, ratio_clip="published")
    assert bool(alive.all())
    assert metrics["train/clip_frac_preferred"] == 0
    assert metrics["train/change_preferred"] == 0
    assert metrics["train/logratio_preferred"] == pytest.approx(0.5)
    for ratio_clip in ("published", "pessimistic"):
        moved, gradient, _ = evaluate(start + ratios(0.2, -0.2), sampled=start, ratio_clip=ratio_clip)
        limit = -logsigmoid(torch.tensor(0.1 * (0.5 + U - (0.3 + V)), dtype=torch.float64))
        assert float(moved) == pytest.approx(float(limit), rel=1e-12)
        assert not bool(gradient.any())


def test_group_form_is_the_sum_over_pairs_and_every_part_counts_alike() -> None:
    torch.manual_seed(0)
    r = torch.randn(7, 5, dtype=torch.float64)
    rows = [(w, l, 1.0) for w in (0, 2, 3, 5) for l in (1, 4, 6)]  # noqa: E741
    whole, gradient, _ = evaluate(r, pairs_of(*rows), beta=2.0)
    losses, gradients = zip(*(evaluate(r, pairs_of(row), beta=2.0)[:2] for row in rows), strict=True)
    assert float(whole) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-12)
    assert torch.allclose(gradient, torch.stack(gradients).mean(dim=0), rtol=1e-12)


def test_a_mean_of_means_would_be_off_by_15_percent() -> None:
    """Nine terms of loss a and three of loss b in two micro-batches: METHOD's example, and what ours adds up to."""
    objective = get_objective(ObjectiveConfig(beta=1.0), D)
    nine, three = torch.zeros(2, 9, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    three[0] = 5.0
    parts = [objective(r, torch.zeros_like(r), group_of(r, ONE), 12)[0] for r in (nine, three)]
    whole = objective(torch.cat([nine, three], 1), torch.zeros(2, 12, dtype=torch.float64), group_of(nine, ONE), 12)[0]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-12)
    # nine winning terms weighed 1/18 each instead of 1/12, three 1/6 instead of 1/12:
    means = [objective(r, torch.zeros_like(r), group_of(r, ONE), r.shape[1])[0] for r in (nine, three)]
    assert abs(float(sum(means) / 2 / whole) - 1) > 0.15


def test_extreme_ratios_stay_finite_in_value_and_gradient() -> None:
    """Exponentials first would overflow; log space does not."""
    for ratio_clip in ("none", "published", "pessimistic"):
        for r in (ratios(1e5, -1e5), ratios(-1e5, 1e5)):
            for target in (1.0, 0.7):
                loss, gradient, _ = evaluate(r, pairs_of((0, 1, target)), ratio_clip=ratio_clip)
                assert math.isfinite(float(loss))
                assert bool(gradient.isfinite().all())
