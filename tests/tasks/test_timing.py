"""Timed steps: both phases really run, and the card follows from them."""

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch

from flows import cost_card
from tasks.policies import policy_for
from tasks.timing import StepTimes, drawing_seconds, time_steps

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
    assert times.decoded_image > 0
    assert times.stored_image > 0
    assert times.start > 1
    assert times.peak_megabytes > 100
    assert all(torch.equal(value, before[name]) for name, value in policy.lora_state().items())
    assert all(parameter.grad is None for parameter in policy.lora_parameters().values())


def test_what_a_report_draws_is_timed():
    assert drawing_seconds(16, 4) > 0


Card = Callable[..., dict[str, str]]


@pytest.fixture
def card(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> Card:
    """The card of a new run, where each evaluation takes so many seconds and so many fit into a micro-batch."""

    def made(run: str, *, rows: int = 64, sections: dict | None = None, **seconds: float) -> dict[str, str]:
        none = dict.fromkeys((field.name for field in fields(StepTimes)), 0.0)
        timed = StepTimes(**none | {"peak_megabytes": 321.0} | seconds)
        monkeypatch.setattr(cost_card, "time_steps", lambda policy, configuration, rows: timed)
        monkeypatch.setattr(cost_card, "drawing_seconds", lambda image_size, held_out: 1000.0 * held_out)
        monkeypatch.setattr(cost_card, "micro_batch", lambda configuration: rows)
        return dict(cost_card.cost_card(begin(run, **sections or {}).configuration))

    return made


def test_the_card_is_the_arithmetic_times_the_seconds(card: Card):
    shown = card(
        "timed", sampled_evaluation=90.0, decoded_image=8.0, stored_image=1.0, trained_evaluation=10.0, start=7.0, orchestration_import=2.0,
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
    assert shown["report"] == f"{(2 * 8 * (4 * 90 + 8) + 3 * 8 * 4 * 90 + 8000) / 3600:.2f} h", (
        "the KL of its prompts, and the drawing"
    )
    assert shown["starts of processes"] == "16 s", "the flow's with Prefect, and the trainer's"


def test_what_an_objective_needs_beside_is_in_it(card: Card):
    """A group that exceeds the micro-batch that fits is passed over twice; PRDP's reference is the pretrained model."""
    each = {"sampled_evaluation": 1.0, "trained_evaluation": 1.0}
    assert card("fits", **each)["train"] == f"{6 * 7 * 2:.0f} s"
    small = card("small", rows=1, **each)
    assert small["train"] == f"{6 * 7 * 2 * 2:.0f} s"
    assert not any("log-probs" in what for what in small)
    prdp = {"objective": {"kind": "prdp"}, "sampling": {"shared_initial_noise": False}}
    shown = card("prdp", sections=prdp, **each)
    assert shown["the pretrained model's log-probs (from the second epoch on)"] == f"{6 * 8:.0f} s"
