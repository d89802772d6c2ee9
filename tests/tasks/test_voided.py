"""What people saw is lost and cannot be made again the same: its judgements are kept, and nothing is made of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from flows.epoch_run import generate
from storage.errors import ConfigurationChangedError
from storage.manifest import build_seal, environment
from storage.verify import damage
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.exchange.export_preferences import export_preferences
from tasks.exchange.fork import fork
from tasks.generation.generate import write_prompt_embeds
from tasks.label_studio.screens import result_for
from tasks.labels.annotate import simulate_annotators
from tasks.labels.connection import connect
from tasks.labels.pull import counted_judgements, judgements_of, labels_progress
from tasks.labels.push import import_comparisons, push, push_plan, pushed
from tasks.labels.voided import VOIDS, void, voided
from tasks.training import trainer
from tasks.training.attempt import training_attempt
from tasks.training.training_plan import pairs_of, refuse_voided_pairs
from tasks.upkeep.audit import audit
from tasks.upkeep.heal import Voiding, heal
from tests.support.fault_proxy import FaultProxy
from tests.support.project import flip_byte

from .conftest import again, with_fields

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
    assert {line.split()[0] for line in lines if line.endswith(", voided")} == lost
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


def test_a_judged_shard_without_any_marker_is_not_made_up_for(generated: EpochContext):
    """As from a backup that lacks one: neither the flow nor heal takes other images for those that were judged."""
    next((generated.run.home / generated.epoch_key).glob(f"commits/{LOST}.1.json")).unlink()
    with pytest.raises(UserError, match="shard-000001 of epoch 0 is gone, and was shown to people or judged") as raised:
        generate(again(generated))
    assert "d3po heal" in raised.value.remedy
    with pytest.raises(UserError, match="lost its marker"):
        list(heal(again(generated)))
    list(heal(elsewhere(generated), DECIDED))
    assert len(voided(generated)) == len([group for batch in generated.plan["shards"][LOST] for group in batch])


def test_embeddings_that_were_lost_as_well_do_not_stand_in_the_way(generated: EpochContext):
    lost = lose(generated)
    flip_byte(next((generated.run.home / generated.epoch_key).glob("commits/prompts.1.json")))
    said = list(heal(elsewhere(generated), DECIDED))
    assert [line.partition(":")[0] for line in said] == ["prompts", LOST, LOST]
    assert voided(generated) == lost


def test_cut_short_between_the_decision_and_the_images(generated: EpochContext, monkeypatch: pytest.MonkeyPatch):
    """The flow may train meanwhile, without them; heal then makes the images and the epoch is sealed."""

    def dies(*_, **__):
        raise KeyboardInterrupt

    lost = lose(generated)
    with monkeypatch.context() as patched:
        patched.setattr("storage.epoch.Epoch.commit", dies)
        with pytest.raises(KeyboardInterrupt):
            list(heal(elsewhere(generated), DECIDED))
    assert voided(generated) == lost
    trainer.run(generated, training_attempt(again(generated)).attempt)
    assert [line.rpartition(", ")[2] for line in heal(elsewhere(generated))] == ["other content"]
    sealed = again(generated)
    sealed.epoch.create_seal(build_seal(sealed.epoch, environment()))
    assert list(audit(run_folder(generated.configuration)))


def test_other_training_fields_are_still_asked_for(generated: EpochContext):
    training_attempt(generated)
    lose(generated)
    list(heal(elsewhere(generated), DECIDED))
    with pytest.raises(ConfigurationChangedError, match="learning_rate"):
        training_attempt(with_fields(again(generated), training={"learning_rate": 0.5}))


def test_what_was_voided_while_it_trained_is_not_sealed(generated: EpochContext):
    training_attempt(generated)
    refuse_voided_pairs(generated)
    void(generated, list(generated.groups())[:1], reason="lost", by="ops")
    with pytest.raises(UserError, match="trained on groups that were voided meanwhile"):
        refuse_voided_pairs(generated)


def test_with_nothing_left_the_adapter_stays_as_it_was(generated: EpochContext):
    for name in generated.plan["shards"]:
        lose(generated, name)
    list(heal(elsewhere(generated), DECIDED))
    assert voided(generated) == set(generated.groups())
    trainer.run(generated, training_attempt(again(generated)).attempt)
    generated.epoch.create_seal(build_seal(generated.epoch, environment()))
    assert "0 pairs from 0 judgements" in "\n".join(audit(run_folder(generated.configuration)))


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
    plan, client, project = push_plan(shown), connect(), pushed(shown)["project"]
    answered, *unanswered = sorted(lost := lose(shown, name))
    (ls_task,) = pushed(shown)["ls_tasks"][plan.uid(answered)]
    client.annotate(ls_task, result_for(plan.screen, verdict="left"))
    before = set(client.tasks(project))
    *_, withdrawn = heal(elsewhere(shown), DECIDED)
    assert withdrawn == f"{len(unanswered)} comparisons that nobody had answered were taken off Label Studio"
    assert before - set(client.tasks(project)) == {plan.uid(group) for group in unanswered}
    assert not list(heal(elsewhere(shown), DECIDED))
    client.remove_tasks([pushed(shown)["ls_tasks"][plan.uid(group)][0] for group in unanswered])
    progress = labels_progress(again(shown))
    assert set(progress.open) == set(shown.groups()) - lost
    left = simulate_annotators(again(shown), objectives=["jpeg_compressibility"], error_rate=0.0, judges=1)
    assert sum(left.values()) == len(progress.open)
    assert labels_progress(again(shown)).complete
    import_comparisons(again(shown), supersede=True)
    plan = push_plan(again(shown))
    assert set(pushed(again(shown))["ls_tasks"]) == {plan.uid(group) for group in set(shown.groups()) - lost}
    assert labels_progress(again(shown)).complete
