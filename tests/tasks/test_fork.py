"""Judgements used again: a fork has all that its training needs, nothing of the other run, and stands alone."""

import shutil
from pathlib import Path

import pytest

from storage.errors import StorageError
from storage.heal import scan
from storage.manifest import build_seal, environment
from storage.run import Run
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.exchange import fork as fork_module
from tasks.exchange.fork import fork, refuse_unfinished_fork
from tasks.generation.plan import make_plan
from tasks.policies import starting_state
from tasks.training import trainer
from tasks.training.attempt import training_attempt
from tasks.training.training_plan import pairs_of
from tasks.upkeep.audit import audit
from tasks.upkeep.forget import forget, forgotten
from tasks.upkeep.heal import heal

from .conftest import Begin, again, generate_and_judge


def trained(context: EpochContext) -> EpochContext:
    trainer.run(context, training_attempt(context).attempt)
    context.epoch.create_seal(build_seal(context.epoch, environment()))
    return context


@pytest.fixture
def second(begin: Begin) -> EpochContext:
    """A run's second epoch, judged; the first is sealed."""
    trained(generate_and_judge(begin()))
    return generate_and_judge(begin(number=1))


def folder(context: EpochContext) -> str:
    return run_folder(context.configuration)


def test_the_same_training_of_a_fork_is_the_same_to_the_bit(second: EpochContext):
    expected = trained(second).epoch.latest("train").content
    forked = fork(folder(second), "again")
    assert forked.number == 1
    assert forked.plan["groups"] == second.plan["groups"]
    shutil.rmtree(Path(forked.run.root, second.run.name))  # nothing of the other run is needed
    assert trained(forked).epoch.latest("train").content == expected
    assert "epoch 1" in "\n".join(audit(folder(forked)))
    assert starting_state(forked).lora.keys() == starting_state(forked).exp_avg.keys()


def test_a_fork_takes_another_objective_and_learning_rate(second: EpochContext):
    options = ["--objective.kind", "ddpo", "--training.learning_rate", "1e-3"]
    forked = trained(fork(folder(second), "other", 1, options))
    assert forked.configuration.objective.kind == "ddpo"
    assert forked.epoch.latest("train").content != trained(second).epoch.latest("train").content
    assert len(pairs_of(forked, forked.epoch.latest("train-plan"))) > 0
    assert forked.epoch.latest("train-plan").details["rewards"] == 12


def test_a_fork_of_a_fork_and_the_epoch_after_it(second: EpochContext, begin: Begin):
    first = trained(fork(folder(second), "one"))
    other = trained(fork(folder(first), "two"))
    assert other.epoch.latest("train").content == first.epoch.latest("train").content
    assert other.run.next_epoch() == 2
    onward = EpochContext(configuration=other.configuration, run=other.run, number=2)
    make_plan(onward)
    plain = begin(number=2)
    trained(second)
    make_plan(plain)
    assert [g["prompt"] for g in onward.plan["groups"]] == [g["prompt"] for g in plain.plan["groups"]]


def test_links_not_copies_and_no_names(second: EpochContext):
    second.epoch.write_aside("labels/people.parquet", b"names")
    forked = fork(folder(second), "linked")
    ours, theirs = (
        sorted(Path(context.run.root, context.run.name).rglob("latents/c/**/*"))[-1] for context in (forked, second)
    )
    assert ours.stat().st_ino == theirs.stat().st_ino
    assert forked.epoch.read_aside("labels/people.parquet") is None
    assert forked.run.info["forked_from"]["run_id"] == second.run.run_id


def test_a_fork_heals_by_the_noise_of_its_epoch(second: EpochContext):
    forked = fork(folder(second), "hurt")
    shard = next(iter(forked.plan["shards"]))
    shutil.rmtree(forked.run.home / forked.epoch_key / forked.epoch.latest(shard).folder)
    hurt = again(forked)
    assert list(heal(hurt)) == [f"{shard}: made again in attempt {hurt.epoch.latest(shard).attempt}, same content"]
    assert not scan(again(forked).epoch)


def test_killed_while_forking_it_is_completed(second: EpochContext, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def dies(*arguments, **options):
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    real = fork_module.copy_commit
    monkeypatch.setattr(fork_module, "copy_commit", dies)
    with pytest.raises(KeyboardInterrupt):
        fork(folder(second), "cut")
    assert calls[0] == "pull", "people are never asked again"
    monkeypatch.undo()
    half = Run.open(second.run.root, "cut")
    with pytest.raises(UserError, match="was cut short") as caught:
        refuse_unfinished_fork(half)
    assert f"d3po fork {second.run.location} cut" in str(caught.value)
    whole = trained(fork(folder(second), "cut"))
    refuse_unfinished_fork(whole.run)
    assert f"those of epoch 1 of run unit ({second.run.run_id}, content not sealed)" in "\n".join(audit(folder(whole)))


def test_who_asked_to_be_forgotten_stays_so(second: EpochContext):
    forget(second.run, 7)
    assert forgotten(fork(folder(second), "private").run) == {7}


def test_what_cannot_be_forked_is_said(second: EpochContext, begin: Begin):
    with pytest.raises(UserError, match=r"sampling.group_size: was 2, is 3") as caught:
        fork(folder(second), "no", 1, ["--sampling.group_size", "3"])
    assert "d3po schema" in str(caught.value)
    with pytest.raises(UserError, match=r"seed: was 0, is 5"):
        fork(folder(second), "no", 1, ["--seed", "5"])
    fork(folder(second), "taken")
    with pytest.raises(UserError, match="exists, and is not this fork"):
        fork(folder(second), "taken", 0)
    fresh = begin("fresh")
    with pytest.raises(UserError, match="no judged epoch"):
        fork(folder(fresh), "no")
    with pytest.raises(StorageError, match="no run"):
        fork("runs/nowhere", "no")
    assert not Run.exists(second.run.root, "no")
