"""The configuration: frozen, forbidding, checked before anything is spent."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from d3po_core import config
from d3po_core.config import LoraConfig, ModelConfig, ObjectiveConfig, SamplingConfig, TrainingConfig, check_together

SECTIONS = (ModelConfig, SamplingConfig, LoraConfig, ObjectiveConfig, TrainingConfig)


def test_importing_the_configuration_imports_no_torch() -> None:
    script = "import sys, d3po_core.config; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_says_when_it_is_frozen_and_what_it_is(section: Any) -> None:
    for name, field in section.model_fields.items():
        assert field.json_schema_extra["frozen_by"] in {"run", "sampling", "labels", "training", "free"}, name
        assert field.description or name.startswith(("adam_", "learning_rate", "weight_decay")), name


def test_table_2_of_the_paper_is_the_default() -> None:
    sampling, training, objective = SamplingConfig(), TrainingConfig(), ObjectiveConfig()
    assert (sampling.num_inference_steps, sampling.eta, sampling.guidance_scale) == (20, 1.0, 5.0)
    assert (training.learning_rate, training.adam_beta1, training.adam_beta2) == (3e-5, 0.9, 0.999)
    assert (training.weight_decay, training.max_grad_norm) == (1e-4, 1.0)
    assert (objective.beta, objective.reduction, objective.ratio_clip) == (0.1, "mean", "none")
    assert LoraConfig().target_modules == ("to_q", "to_k", "to_v", "to_out.0")


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        (SamplingConfig, {"eta": 1.017}, "eta"),
        (SamplingConfig, {"group_size": 1}, "group_size"),
        (SamplingConfig, {"steps": 20}, "steps"),
        (LoraConfig, {"dropout": 0.1}, "start check"),
        (LoraConfig, {"target_modules": ()}, "target_modules"),
        (ObjectiveConfig, {"reduction": "sum"}, r"beta was left at its default.*6\.1e-6"),
        (ObjectiveConfig, {"ratio_clip_range": 1.0}, "ratio_clip_range"),
        (TrainingConfig, {"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_what_cannot_be_is_refused_by_name(section: Any, values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){named}"):
        section(**values)


def test_a_beta_of_its_own_makes_sums_possible_and_the_dump_can_be_read_again() -> None:
    objective = ObjectiveConfig(reduction="sum", beta=6.1e-6)
    assert ObjectiveConfig.model_validate(objective.model_dump()) == objective


def test_sections_agree_with_each_other() -> None:
    check_together(SamplingConfig(), TrainingConfig(transitions_per_trajectory=20))
    with pytest.raises(ValueError, match=r"transitions_per_trajectory is 21.*num_inference_steps = 20"):
        check_together(SamplingConfig(), TrainingConfig(transitions_per_trajectory=21))
    with pytest.raises(ValueError, match=r"first_transitions is 21.*num_inference_steps = 20"):
        check_together(SamplingConfig(), TrainingConfig(first_transitions=21))
    with pytest.raises(ValueError, match=r"transitions_per_trajectory is 13.*first_transitions = 12"):
        check_together(SamplingConfig(), TrainingConfig(first_transitions=12, transitions_per_trajectory=13))
    with pytest.raises(ValueError, match=r"sampling\.eta is 0"):
        check_together(SamplingConfig(eta=0.0), TrainingConfig())


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SamplingConfig().eta = 0.5  # type: ignore[misc]
    assert set(config.__all__) >= {section.__name__ for section in SECTIONS}
