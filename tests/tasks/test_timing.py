"""Timed steps: both phases really run, and the card follows from them."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from flows import cost_card
from tasks.policies import policy_for
from tasks.programmed import ObjectiveTimes, time_objective
from tasks.timing import StepTimes, drawing_seconds, time_steps
from tests.support.gold import write_gold

from .conftest import Begin


def test_a_few_steps_are_timed_and_leave_the_policy_as_it_was(begin: Begin):
    configuration = begin().configuration
    policy = policy_for(configuration)
    for parameter in policy.lora_parameters().values():
        parameter.grad = None
    before = policy.lora_state()
    times = time_steps(policy, configuration, 4)
    assert times.trained_evaluation > 0
    assert times.sampled_evaluation > 0
    assert times.unmerged_evaluation > 0
    assert times.decoded_image > 0
    assert times.stored_image > 0
    assert times.start > 0.1
    assert times.peak_megabytes > 100
    assert all(torch.equal(value, before[name]) for name, value in policy.lora_state().items())
    assert all(parameter.grad is None for parameter in policy.lora_parameters().values())


def test_what_a_report_draws_is_timed():
    assert drawing_seconds(16, 4) > 0


Card = Callable[..., dict[str, str]]


@pytest.fixture
def card(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> Card:
    """The card of a new run, where each evaluation takes so many seconds and so many fit into a micro-batch."""

    def made(
        run: str, *, rows: int = 64, sections: dict | None = None, loading: float = 0.0, picture: float = 0.0,
        **seconds: float,
    ) -> dict[str, str]:  # fmt: skip
        none = dict.fromkeys((field.name for field in fields(StepTimes)), 0.0)
        timed = StepTimes(**none | {"peak_megabytes": 321.0} | seconds)
        monkeypatch.setattr(cost_card, "time_steps", lambda policy, configuration, rows: timed)
        monkeypatch.setattr(cost_card, "drawing_seconds", lambda image_size, held_out: 1000.0 * held_out)
        monkeypatch.setattr(cost_card, "micro_batch", lambda configuration: rows)
        monkeypatch.setattr(cost_card.os, "cpu_count", lambda: 2)
        looked = ObjectiveTimes(loading=loading, picture=picture)
        monkeypatch.setattr(cost_card, "time_objective", lambda configuration, name, size, prompt: looked)
        return dict(cost_card.cost_card(begin(run, **sections or {}).configuration))

    return made


def test_the_card_is_the_arithmetic_times_the_seconds(card: Card):
    shown = card(
        "timed", sampled_evaluation=90.0, unmerged_evaluation=95.0, decoded_image=8.0, stored_image=1.0, trained_evaluation=10.0, start=7.0, orchestration_import=2.0,
        sections={"evaluation": {"prompts": "prompts.txt"}},
    )  # fmt: skip
    assert shown["images"] == "12"
    assert shown["judgements to collect"] == "none"
    assert shown["network evaluations, sampling"] == str(2 * 6 * 7)
    assert shown["peak memory"] == "321 MB (cpu)"
    assert shown["generate"] == f"{(6 * 7 * 90 + 12 * 9) / 3600:.2f} h"
    assert shown["train"] == f"{6 * 7 * 2 * 10 / 3600:.2f} h", (
        "6 pairs of images with one start, 4 transitions, 2 inner epochs"
    )
    assert shown["report"] == f"{(2 * 8 * (4 * 90 + 8) + 8 * 4 * (2 * 90 + 95) + 8000) / 3600:.2f} h", (
        "the KL of its prompts, and the drawing"
    )
    assert shown["starts of processes"] == "16 s", "the flow's with Prefect, and the trainer's"
    assert (
        shown["the pretrained model's held-out images (from the second epoch on)"] == f"{8 * (4 * 90 + 8) / 3600:.2f} h"
    )


def test_what_an_objective_needs_beside_is_in_it(card: Card):
    """A group that exceeds the micro-batch that fits is passed over twice; PRDP's reference is the pretrained model."""
    each = {"sampled_evaluation": 1.0, "trained_evaluation": 1.0, "unmerged_evaluation": 3.0}
    assert card("fits", **each)["train"] == f"{6 * 7 * 2:.0f} s"
    small = card("small", rows=1, **each)
    assert small["train"] == f"{6 * 7 * 2 * (1 + 3):.0f} s", "the adapter is beside the weights"
    kl = {"objective": {"kind": "dpok", "beta": None}}
    assert card("kl", sections=kl, **each)["train"] == f"{6 * 7 * 2 * (1 + 1):.0f} s", "the adapter is off"
    assert not any("log-probs" in what for what in small)
    prdp = {"objective": {"kind": "prdp"}, "sampling": {"shared_initial_noise": False}}
    shown = card("prdp", sections=prdp, **each)
    assert shown["the pretrained model's log-probs (from the second epoch on)"] == f"{6 * 8:.0f} s"
    first, later = shown["together, without the people"], shown["together (from the second epoch on)"]
    assert int(later.split()[0]) == int(first.split()[0]) + 6 * 8


def test_judging_and_measuring_by_objectives_take_their_time(card: Card):
    both = {
        "labels": {"objectives": ["jpeg_compressibility", "jpeg_incompressibility"]},
        "evaluation": {"prompts": "prompts.txt"},
    }
    shown = card("judged", sections=both, loading=3.0, picture=0.5)
    assert shown["judge"] == f"{2 * (3 + 12 * 0.5):.0f} s"
    assert shown["report"] == f"{(8000 + 3 + 2 * 8 * 0.5) / 3600:.2f} h"


def test_nothing_is_asked_that_no_epoch_needs(card: Card):
    """People judge, and no held-out prompts are there to be measured: what judging would take has no say."""
    sections = {"labels": {"source": "people"}}
    slow, fast = (card(f"people-{each:.0f}", sections=sections, loading=each, picture=each) for each in (1e6, 0.0))
    assert slow == fast
    assert not {"judge", "report"} & slow.keys()


def test_an_objective_is_loaded_and_timed(begin: Begin):
    configuration = begin(programmed={"slow": {"kind": "python", "target": "tests.support.judges:slow"}}).configuration
    times = time_objective(configuration, "slow", 16, "a red square")
    assert 0.02 <= times.picture < 1
    assert times.loading >= 0


def test_known_answers_are_judgements_too(card: Card, tmp_path: Path):
    labels = {
        "source": "people", "judgements_per_group": 2, "gold": write_gold(tmp_path / "gold"), "gold_fraction": 0.25,
    }  # fmt: skip
    shown = card("gold", sections={"labels": labels})
    assert shown["judgements to collect"] == "16"
    assert shown["… of these known answers, which the epoch does not wait for"] == "4", "2 comparisons, 2 people each"


@pytest.mark.parametrize(("threads", "seconds"), [(1, 6 * 7 * 2 / 2), (2, 6 * 7 * 2)])
def test_processes_share_the_training_and_the_cores(card: Card, threads: int, seconds: float):
    sections = {
        "training": {"groups_per_step": 2},
        "orchestration": {"training_processes": 2, "threads": threads},
    }
    shown = card(f"two-{threads}", sections=sections, trained_evaluation=1.0)
    assert shown["train, on 2 processes"] == f"{seconds:.0f} s"
