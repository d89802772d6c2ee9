"""A training attempt freezes pairs and training fields; another one is opened only when asked for."""

import json

import pytest

from storage.errors import ConfigurationChangedError
from tasks.context import EpochContext
from tasks.train import pairs_of, training_attempt

from .conftest import with_fields


def test_the_attempt_freezes_its_fields_and_pairs(generated: EpochContext):
    attempt = training_attempt(generated)
    plan = json.loads(generated.epoch.fetch(attempt, "plan.json").read_text())
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
