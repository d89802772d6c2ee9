"""The plan: fixed once, complete, and what it refuses to be changed while its epoch is open."""

import pytest

from storage.errors import ConfigurationChangedError
from tasks.context import EpochContext, planned_context
from tasks.errors import UserError
from tasks.generation.plan import make_plan

from .conftest import Begin, with_fields


def test_every_group_is_in_one_batch_of_one_shard(begin: Begin):
    plan = make_plan(begin(prompts={"groups_per_epoch": 7}, orchestration={"groups_per_shard": 4}))
    ids = [group["id"] for group in plan["groups"]]
    assert ids == [f"g{index:06d}" for index in range(7)]
    assert [group["index"] for group in plan["groups"]] == list(range(7))
    batches = [batch for shard in plan["shards"].values() for batch in shard]
    assert [id for batch in batches for id in batch] == ids
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    assert [len(shard) for shard in plan["shards"].values()] == [2, 2]
    assert list(plan["shards"]) == ["shard-000000", "shard-000001"]
    assert plan["adapter_in"] is None


def test_batches_do_not_depend_on_the_shard_size(begin: Begin):
    """Results are bit-identical under shard size because the batches are what computes."""

    def batches(name: str, size: int) -> list:
        plan = make_plan(begin(name, orchestration={"groups_per_shard": size}))
        return [batch for shard in plan["shards"].values() for batch in shard]

    assert batches("one", 1) == batches("two", 2) == batches("six", 6)


def test_a_plan_is_made_once(begin: Begin):
    context = begin()
    first = make_plan(context)
    assert make_plan(context) == first
    assert context.plan == first


@pytest.mark.parametrize(
    ("section", "field", "value", "was"),
    [
        ("prompts", "groups_per_epoch", 3, "was 6, is 3"),
        ("sampling", "groups_per_batch", 3, "was 2, is 3"),
        ("labels", "judgements_per_group", 2, "was 1, is 2"),
        ("labels", "source", "people", "was 'programmed', is 'people'"),
    ],
)
def test_sampling_and_labels_are_frozen_while_the_epoch_is_open(
    begin: Begin, section: str, field: str, value, was: str
):
    context = begin()
    plan = make_plan(context)
    with pytest.raises(ConfigurationChangedError, match=was) as caught:
        make_plan(with_fields(context, **{section: {field: value}}))
    assert f"{section}.{field}" in str(caught.value)
    assert "the next epoch may have new ones" in str(caught.value)
    assert context.epoch.plan() == plan


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"learning_rate": 0.5, "checkpoint_every": 9}},
        {"objective": {"beta": 3.0}},
        {"orchestration": {"threads": 2, "shard_retries": 4}},
        {"model": {"device": "cpu"}},
    ],
)
def test_training_and_free_fields_are_not(begin: Begin, sections: dict):
    context = begin()
    plan = make_plan(context)
    assert make_plan(with_fields(context, **sections)) == plan


def test_an_epoch_is_looked_at_with_what_its_plan_froze(begin: Begin):
    context = begin(labels={"judgements_per_group": 3})
    make_plan(context)
    changed = with_fields(context, labels={"judgements_per_group": 1}, training={"learning_rate": 0.5})
    found = planned_context(changed.configuration, context.run, 0).configuration
    assert found.labels.judgements_per_group == 3
    assert found.training.learning_rate == 0.5


def test_an_epoch_without_a_plan_says_so(begin: Begin):
    context: EpochContext = begin()
    with pytest.raises(UserError, match=r"epoch 0 of .* has no plan yet") as caught:
        _ = context.plan
    assert "d3po run CONFIG" in str(caught.value)


def test_the_next_epoch_waits_for_its_parents_seal(begin: Begin):
    context = begin()
    make_plan(context)
    with pytest.raises(UserError, match="continues epoch 0, which is not sealed"):
        make_plan(EpochContext(configuration=context.configuration, run=context.run, number=1))
