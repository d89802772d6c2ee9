"""What people saw is lost and cannot be made again the same: its judgements are kept, and nothing is made of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from storage.manifest import build_seal, environment
from storage.verify import damage
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.exchange.export_preferences import export_preferences
from tasks.exchange.fork import fork
from tasks.generation.generate import write_prompt_embeds
from tasks.labels.annotate import simulate_annotators
from tasks.labels.pull import counted_judgements, judgements_of, labels_progress
from tasks.labels.push import push
from tasks.labels.voided import VOIDS, voided
from tasks.training import trainer
from tasks.training.training_plan import pairs_of, training_attempt
from tasks.upkeep.audit import audit
from tasks.upkeep.heal import Voiding, heal
from tests.support.fault_proxy import FaultProxy
from tests.support.project import flip_byte

from .conftest import again

LOST = "shard-000001"
DECIDED = Voiding(reason="the disk of node 3 died", by="ops")


def elsewhere(context: EpochContext) -> EpochContext:
    """The epoch on a machine whose numbers are others, as another seed's are."""
    return replace(again(context), configuration=context.configuration.model_copy(update={"seed": 999}))


def lose(context: EpochContext, name: str = LOST) -> frozenset[str]:
    """A shard's files go; returns its groups."""
    shutil.rmtree(context.run.home / context.epoch_key / context.epoch.latest(name).folder)
    return frozenset(group for batch in context.plan["shards"][name] for group in batch)


def paired(context: EpochContext) -> set[str]:
    return {pair.group_id for pair in pairs_of(context, context.epoch.latest("train-plan"))}


def test_it_is_somebodys_decision(generated: EpochContext):
    lost = lose(generated)
    with pytest.raises(
        UserError, match="shard-000001 of epoch 0 came out with other numbers than were judged"
    ) as raised:
        list(heal(elsewhere(generated)))
    assert f"d3po heal {run_folder(generated.configuration)} --epoch 0 --void REASON" in raised.value.remedy
    assert not voided(generated)
    assert list(damage(again(generated).epoch)) == [LOST]

    said = list(heal(elsewhere(generated), DECIDED))
    assert said[0].endswith("other content")
    assert said[1] == f"{LOST}: {len(lost)} groups no longer count; what was said of them is kept"
    assert voided(generated) == lost
    assert not damage(again(generated).epoch)
    assert not list(heal(elsewhere(generated), DECIDED))


def test_where_the_numbers_come_out_the_same_nothing_is_given_up(generated: EpochContext):
    lose(generated)
    assert [line.rpartition(", ")[2] for line in heal(again(generated), DECIDED)] == ["same content"]
    assert not voided(generated)


def test_nothing_is_made_of_their_judgements(generated: EpochContext, tmp_path: Path):
    lost = lose(generated)
    list(heal(elsewhere(generated), DECIDED))
    assert {item.group_id for item in judgements_of(generated)} == set(generated.groups())
    assert {item.group_id for item in counted_judgements(generated)} == set(generated.groups()) - lost
    training = training_attempt(generated)
    trainer.run(generated, training.attempt)
    generated.epoch.create_seal(build_seal(generated.epoch, environment()))
    assert len(paired(generated)) > 0
    assert not paired(generated) & lost

    lines = list(audit(run_folder(generated.configuration)))
    (told,) = (line for line in lines if "no longer count" in line)
    assert f"{len(lost)} groups no longer count, by ops" in told
    assert told.endswith("the disk of node 3 died")
    comparisons, count = export_preferences(again(generated), tmp_path, "pickapic")
    assert count == len(pd.read_parquet(comparisons)) == len(generated.groups()) - len(lost)
    assert export_preferences(again(generated), tmp_path, "chosen")[1] == len(paired(generated))

    forked = fork(run_folder(generated.configuration), "forked")
    assert voided(forked) == lost
    fork(run_folder(generated.configuration), "forked")
    assert len(forked.epoch.notes(VOIDS)) == 1


def test_a_training_that_had_begun_begins_again_without_them(generated: EpochContext):
    before = training_attempt(generated)
    lost = lose(generated)
    assert paired(generated) & lost
    list(heal(elsewhere(generated), DECIDED))
    after = training_attempt(again(generated))
    assert (after.number, after.attempt != before.attempt) == (before.number + 1, True)
    assert not paired(again(generated)) & lost
    assert training_attempt(again(generated)).attempt == after.attempt


def test_without_its_marker_a_whole_shard_is_given_up(generated: EpochContext):
    lost = lose(generated)
    flip_byte(next((generated.run.home / generated.epoch_key).glob(f"commits/{LOST}.1.json")))
    list(heal(again(generated), DECIDED))
    assert voided(generated) == lost


def test_what_an_adapter_was_made_of_is_not_exchanged(generated: EpochContext):
    trainer.run(generated, training_attempt(generated).attempt)
    lose(generated)
    with pytest.raises(UserError, match="came out with other numbers") as raised:
        list(heal(elsewhere(generated), DECIDED))
    assert "--void" not in raised.value.remedy
    assert not voided(generated)


def test_people_are_not_waited_for(shown: EpochContext, proxy: FaultProxy):
    write_prompt_embeds(shown)
    push.fn(shown)
    assert len(labels_progress(shown).open) == len(shown.groups())
    name = min(shown.plan["shards"])
    lost = lose(shown, name)
    list(heal(elsewhere(shown), DECIDED))
    progress = labels_progress(again(shown))
    assert set(progress.open) == set(shown.groups()) - lost
    left = simulate_annotators(again(shown), objectives=["jpeg_compressibility"], error_rate=0.0, judges=1)
    assert sum(left.values()) == len(progress.open)
    assert labels_progress(again(shown)).complete
