"""A seeded share of the groups goes to one more person; the one completeness function knows."""

import pytest

from tasks.generation.plan import make_plan
from tasks.labels.repeats import judgements_wanted, repeated

from .conftest import Begin


@pytest.mark.parametrize(("fraction", "number"), [(0.0, 0), (0.5, 3), (1.0, 6), (0.3, 2)])
def test_the_share_is_exact(begin: Begin, fraction: float, number: int):
    context = begin(labels={"repeat_fraction": fraction, "judgements_per_group": 2})
    make_plan(context)
    wanted = judgements_wanted(context)
    assert list(wanted) == list(context.groups())
    assert sorted(wanted.values()) == [2] * (6 - number) + [3] * number
    assert {group for group, people in wanted.items() if people == 3} == repeated(context)


def test_which_ones_follows_from_seed_epoch_and_group_alone(begin: Begin):
    def drawn(run: str, **fields: int) -> frozenset[str]:
        context = begin(run=run, labels={"repeat_fraction": 0.5})
        values = context.configuration.model_copy(update=fields)
        context = type(context)(configuration=values, run=context.run, number=context.number)
        make_plan(context)
        return repeated(context)

    assert drawn("one") == drawn("two")
    assert len({drawn(f"seed-{seed}", seed=seed) for seed in range(1, 6)}) > 1


def test_more_repeats_keep_those_there_were(begin: Begin):
    few, many = (begin(run=f"r{share}", labels={"repeat_fraction": share / 10}) for share in (3, 8))
    make_plan(few)
    make_plan(many)
    assert repeated(few) < repeated(many)
