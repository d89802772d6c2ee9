"""A training attempt freezes pairs and training fields; another one is opened only when asked for."""

import json
import shutil
import threading
import time
from contextlib import suppress

import psutil
import pytest
import torch

from d3po_core.checkpoint import CheckpointState
from storage.errors import ConfigurationChangedError
from storage.manifest import build_seal, environment
from storage.tables import REFERENCE, read_rows
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.training import trainer
from tasks.training.attempt import training_attempt
from tasks.training.reference import reference
from tasks.training.train import train as train_task
from tasks.training.training_plan import pairs_of, training_plan
from tests.support.project import Project, flip_byte

from .conftest import Begin, again, generate_and_judge, with_fields


def test_the_attempt_freezes_its_fields_and_pairs(generated: EpochContext):
    attempt = training_attempt(generated)
    plan = training_plan(generated.epoch, attempt)
    assert plan["frozen"] == json.loads(json.dumps(generated.configuration.section_of_class("training")))
    assert plan["metrics"]["data/judgements"] == 6
    pairs = pairs_of(generated, attempt)
    assert len(pairs) == attempt.details["pairs"] > 0
    assert training_attempt(generated) == attempt


@pytest.mark.parametrize(
    "sections",
    [{"training": {"learning_rate": 0.5}}, {"objective": {"beta": 1.0}}, {"training": {"votes": "soft"}}],
)
def test_training_fields_are_frozen_until_a_new_attempt_is_asked_for(generated: EpochContext, sections: dict):
    first = training_attempt(generated)
    changed = with_fields(generated, **sections)
    [(section, fields)] = sections.items()
    [field] = fields
    with pytest.raises(ConfigurationChangedError, match=f"{section}.{field}: was") as caught:
        training_attempt(changed)
    assert "--retrain" in str(caught.value)
    second = training_attempt(changed, retrain=True)
    assert (second.number, second.previous) == (2, first.digest)
    assert second.attempt != first.attempt
    assert training_attempt(changed) == second
    assert generated.epoch.history("train-plan")[0].attempt == first.attempt


def test_free_fields_may_change_within_an_attempt(generated: EpochContext):
    first = training_attempt(generated)
    changed = with_fields(generated, training={"checkpoint_every": 1}, orchestration={"threads": 2})
    assert training_attempt(changed) == first


def train(context: EpochContext) -> dict:
    """The content of the training, by the trainer's own function in this process."""
    reference.fn(context)
    trainer.run(context, training_attempt(context).attempt)
    return dict(context.epoch.latest("train").content)


def test_in_a_first_epoch_the_pretrained_model_is_the_one_that_sampled(generated: EpochContext):
    held = train(with_fields(generated, objective={"reference": "pretrained"}))
    assert generated.epoch.latest("reference") is None
    (generated.run.home / generated.epoch_key / "commits" / "train.1.json").unlink()
    plain = with_fields(generated, objective={"reference": "epoch_start"})
    trainer.run(plain, training_attempt(plain, retrain=True).attempt)
    assert plain.epoch.latest("train").content == held


@pytest.mark.parametrize("last_sigma_is_0", [False, True])
def test_later_epochs_hold_to_the_pretrained_model(begin: Begin, at_home: Project, tmp_path, last_sigma_is_0: bool):
    model = shutil.copytree(at_home.folder / "model", tmp_path / "model")
    if last_sigma_is_0:
        file = model / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"set_alpha_to_one": True}))
    fields = {"model": {"path": str(model)}, "objective": {"reference": "pretrained"}}
    first = generate_and_judge(begin(**fields))
    train(first)
    first.epoch.create_seal(build_seal(first.epoch, environment()))
    second = generate_and_judge(begin(number=1, **fields))
    train(second)
    commit = second.epoch.latest("reference")
    [row, *others] = read_rows(second.epoch.fetch(commit, "reference.parquet"), REFERENCE)
    assert len(others) == 11
    assert [value == value for value in row["log_prob"]] == [True, True, True, not last_sigma_is_0]


def test_damaged_checkpoints_are_passed_over_and_made_again(generated: EpochContext):
    undisturbed = train(generated)
    folder = generated.run.home / generated.epoch_key
    (folder / "commits" / "train.1.json").unlink()
    files, markers = sorted(folder.glob("training/*/checkpoint-*/*.safetensors")), sorted(folder.glob("commits/check*"))
    assert len(markers) >= 3
    flip_byte(files[-1])
    flip_byte(markers[-2])
    assert train(again(generated)) == undisturbed
    assert again(generated).epoch.create_seal(build_seal(again(generated).epoch, environment()))


def train_as_the_flow_does(context: EpochContext) -> CheckpointState:
    """By the task itself: a process, or torchrun with several."""
    train_task.fn(context)
    return CheckpointState.load(context.epoch.fetch(context.epoch.latest("train")))


@pytest.mark.slow
def test_two_processes_train_the_adapter_that_one_does(begin: Begin):
    """Five groups a step are three for one rank and two for the other."""
    fields = {"training": {"groups_per_step": 5, "inner_epochs": 2}}
    one = train_as_the_flow_does(generate_and_judge(begin("one", **fields)))
    context = generate_and_judge(begin("two", orchestration={"training_processes": 2}, **fields))
    two = train_as_the_flow_does(context)
    assert training_plan(context.epoch, context.epoch.latest("train-plan"))["training_processes"] == 2
    assert one.step == two.step == one.steps_total > 1
    for name, value in one.lora.items():
        assert torch.allclose(two.lora[name], value, atol=1e-5), name
    names = sorted(context.epoch.commit_numbers())
    assert (
        len([name for name in names if name.startswith("checkpoint-")])
        == one.steps_total // 2 - 1 + one.steps_total % 2
    )
    assert not list((context.run.home / ".staging").glob("process-*/train*")), "one rank wrote, and left nothing"


@pytest.mark.slow
def test_a_rank_that_is_killed_fails_the_training_with_the_next_command(begin: Begin):
    context = generate_and_judge(begin(orchestration={"training_processes": 2}, training={"inner_epochs": 500}))
    killer = threading.Thread(target=kill_the_second_rank)
    killer.start()
    with pytest.raises(UserError, match="ended with exit code") as caught:
        train_task.fn(context)
    killer.join()
    assert "d3po run CONFIG goes on from the last checkpoint" in caught.value.remedy
    assert context.epoch.latest("train") is None
    assert not ranks_of_this_test(), "none is left behind"


def ranks_of_this_test() -> list[psutil.Process]:
    """The trainers among this process's descendants, the launcher not counted."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "tasks.training.trainer" in process.cmdline() and "RANK" in process.environ():
                found.append(process)
    return found


def kill_the_second_rank() -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        for process in ranks_of_this_test():
            with suppress(psutil.Error):
                if process.environ()["RANK"] == "1" and process.cpu_times().user > 6:  # imports are behind it
                    process.kill()
                    return
        time.sleep(0.2)
