"""What can be made again is, and what cannot is said."""

import shutil

import pytest

from storage.verify import damage
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.upkeep.heal import heal
from tests.support.project import flip_byte
from tests.tasks.conftest import again


def in_epoch(context: EpochContext, pattern: str):
    return sorted((context.run.home / context.epoch_key).glob(pattern))[0]


def test_a_lost_shard_and_damaged_embeddings_come_back_the_same(generated: EpochContext):
    shutil.rmtree(in_epoch(generated, "shards/000001-*"))
    flip_byte(next(file for file in in_epoch(generated, "prompts-*").rglob("*") if file.is_file()))
    said = list(heal(again(generated)))
    assert [line.partition(":")[0] for line in said] == ["prompts", "shard-000001"]
    assert all(line.endswith("same content") for line in said)
    assert not damage(again(generated).epoch)
    assert not list(heal(again(generated)))


def test_a_broken_marker_of_what_was_judged_is_not_replaced_by_a_guess(generated: EpochContext):
    """No seal yet, and the only record of the content is gone: the images may not be the judged ones."""
    marker = in_epoch(generated, "commits/shard-000001.1.json")
    flip_byte(marker)
    before = marker.read_bytes()
    with pytest.raises(UserError, match="shard-000001 of epoch 0 lost its marker") as raised:
        list(heal(again(generated)))
    assert "backup" in raised.value.remedy
    assert marker.read_bytes() == before
    assert list(damage(again(generated).epoch)) == ["shard-000001"]


def test_a_broken_marker_of_what_nobody_judged_is_made_again(generated: EpochContext):
    for judged in (generated.run.home / generated.epoch_key).glob("commits/pull.*.json"):
        judged.unlink()
    flip_byte(in_epoch(generated, "commits/shard-000001.1.json"))
    assert [line.rpartition(", ")[2] for line in heal(again(generated))] == ["what it was before is not known"]
    assert not damage(again(generated).epoch)


def test_judgements_cannot_be_computed_again(generated: EpochContext):
    flip_byte(in_epoch(generated, "labels/pull-*/judgements.parquet"))
    with pytest.raises(UserError, match=r"pull of epoch 0 is damaged") as raised:
        list(heal(again(generated)))
    assert "backup" in raised.value.remedy
