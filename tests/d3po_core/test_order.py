"""Which groups and transitions a step holds: seeded, whole, complete."""

import pytest
import tiny
import torch

from d3po_core.config import TrainingConfig
from d3po_core.order import OptimizerStep, plan_steps

ALL = torch.ones(20, dtype=torch.bool)


def plan(
    count: int = 10, trainable: torch.Tensor = ALL, seed: int = 1, epoch: int = 0, **training: int
) -> list[OptimizerStep]:
    return plan_steps(
        tiny.terms(tiny.first_wins(count)), trainable, TrainingConfig(**training), run_seed=seed, epoch=epoch
    )


def test_every_inner_epoch_holds_every_group_once_in_whole_groups() -> None:
    steps = plan(groups_per_step=4, inner_epochs=3)
    assert [len(step.group_ids) for step in steps] == [4, 4, 2] * 3
    assert [step.inner_epoch for step in steps] == [0] * 3 + [1] * 3 + [2] * 3
    orders = [sum((step.group_ids for step in steps[first : first + 3]), ()) for first in (0, 3, 6)]
    for order in orders:
        assert sorted(order) == [f"g{group:06d}" for group in range(10)]
    assert len(set(orders)) == 3, "each inner epoch has its own order"


def test_the_order_is_the_seeds_and_not_the_pairs() -> None:
    assert plan() == plan()
    shuffled = plan_steps(tiny.terms(tiny.first_wins(10)[::-1]), ALL, TrainingConfig(), run_seed=1, epoch=0)
    assert shuffled == plan()
    assert plan(seed=2) != plan()
    assert plan(epoch=1) != plan()


def test_the_count_is_pairs_times_transitions_of_the_whole_step() -> None:
    pairs = [tiny.pair(0, 0, 1), tiny.pair(0, 0, 2), tiny.pair(0, 1, 2), tiny.pair(1)]
    (step,) = plan_steps(tiny.terms(pairs), ALL, TrainingConfig(), run_seed=1, epoch=0)
    assert step.count == 4 * 20
    assert sorted(step.group_ids) == ["g000000", "g000001"]


def test_a_subset_of_transitions_is_seeded_per_group_and_inner_epoch() -> None:
    steps = plan(transitions_per_trajectory=5, inner_epochs=2, groups_per_step=10)
    chosen = [subset for step in steps for subset in step.transitions]
    assert all(len(set(subset)) == 5 and list(subset) == sorted(subset) for subset in chosen)
    assert len(set(chosen)) > 15, "groups and inner epochs have subsets of their own"
    assert steps[0].count == 10 * 5
    assert steps == plan(transitions_per_trajectory=5, inner_epochs=2, groups_per_step=10)


def test_the_first_transitions_only() -> None:
    assert {subset for step in plan(first_transitions=12) for subset in step.transitions} == {tuple(range(12))}
    (step,) = plan(first_transitions=12, groups_per_step=10)
    assert step.count == 10 * 12
    drawn = {place for step in plan(first_transitions=12, transitions_per_trajectory=3) for subset in step.transitions for place in subset}  # fmt: skip
    assert drawn <= set(range(12))
    assert len(drawn) > 8
    no_density_at_the_end = torch.arange(20) < 11
    assert plan(first_transitions=12, trainable=no_density_at_the_end)[0].transitions[0] == tuple(range(11))


def test_steps_without_a_density_are_never_trained_on() -> None:
    trainable = ALL.clone()
    trainable[-1] = False
    assert plan(trainable=trainable)[0].transitions[0] == tuple(range(19))
    with pytest.raises(ValueError, match=r"is 20, but 19 of the 20 denoising steps to train on have a density"):
        plan(trainable=trainable, transitions_per_trajectory=20)


def test_no_pairs_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"nothing to train on.*d3po status"):
        plan(count=0)
