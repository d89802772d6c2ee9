"""The whole configuration: the method's sections and those of prompts, labels, storage, orchestration, evaluation.

One pydantic tree is the YAML file, the ``--section.field`` options of the command line, the deployment's parameters and
their JSON schema. Reading it imports neither torch nor Prefect.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from d3po_core.config import (
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    SamplingConfig,
    Section,
    TrainingConfig,
    check_together,
    frozen_by,
)
from d3po_core.objectives import specs
from d3po_core.programmed import OBJECTIVES
from d3po_core.programmed.config import ProgrammedConfig
from tasks.labels.screen import screen_of

__all__ = ["OF_A_PLAN", "Configuration", "StorageConfig", "field_classes", "objective_names"]

OF_A_PLAN = "of_a_plan"
"""In the validation's context: see ``parse_configuration``."""
OBJECTIVE_NAME = r"[a-z][a-z0-9_]{0,63}"


class PromptsConfig(Section):
    file: str = frozen_by("sampling")
    """UTF-8 text with one prompt a line, or CSV with a column ``prompt`` (others are left alone)."""
    groups_per_epoch: int = frozen_by("sampling", 16, ge=1)
    """Prompts, hence groups, of one epoch; taken in seeded order, none twice until all were used."""


class LabelsConfig(Section):
    source: Literal["people", "programmed"] = frozen_by("labels", "people")
    """Who judges: people in Label Studio, or a programmed objective that compares values."""
    screen: Literal["compare", "mark"] = frozen_by("labels", "compare")
    """compare: two images, the better one; mark: k images, the bad ones."""
    mark_choice: str = frozen_by("labels", "deformed", pattern=r"^[a-z][a-z0-9_ -]{0,30}$")
    """The word on the mark screen's choice."""
    instructions: str = frozen_by("labels", "", max_length=4000)
    """What the annotators read before they begin; empty: the screen's own text."""
    pixelated: bool = frozen_by("labels", False)
    """Enlarge with hard pixel edges, for images of a few dozen pixels."""
    judgements_per_group: int = frozen_by("labels", 1, ge=1)
    """Distinct people whose judgements settle a group, and who are shown each comparison with a known answer."""
    max_skips: int = frozen_by("labels", 2, ge=1)
    """Distinct people whose skips set a group aside."""
    repeat_fraction: float = frozen_by("labels", 0.0, ge=0.0, le=1.0)
    """Share of the groups, drawn by the seed, that one more person judges: agreement is known at this price even where
    one judgement settles a group."""
    gold: str | None = frozen_by("labels", None)
    """CSV of comparisons whose answer is known, with the columns ``prompt``, ``good`` and ``bad`` (images relative to
    the file, several separated by ``;``). They are shown like any other and never trained on."""
    gold_fraction: float = frozen_by("labels", 0.0, ge=0.0, le=0.5)
    """Share of the comparisons shown that have a known answer; where ``gold`` has fewer, each is shown several times."""
    gold_floor: float = frozen_by("free", 0.7, ge=0.0, le=1.0)
    """A person who tells a smaller share of the known answers rightly is warned about; their judgements still count."""
    objectives: tuple[str, ...] = frozen_by("labels", ("jpeg_compressibility",), min_length=1)
    """Programmed objectives: the judge of ``source: programmed``, and what simulated annotators go by. Of several, an
    image is better that is at least as good in all and better in one; otherwise it is a tie."""
    document_root: str | None = frozen_by("free", None)
    """Label Studio's local-files document root; empty: the storage root. Where images lie on S3, they are mirrored below it."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, values: Any) -> Any:
        """0.1.0 knew one objective, and its runs say so."""
        if not isinstance(values, dict) or "objective" not in values:
            return values
        return {"objectives": [values["objective"]]} | {name: it for name, it in values.items() if name != "objective"}


class StorageConfig(Section):
    root: str = frozen_by("free", "runs")
    """Where run folders live: a path or ``s3://bucket/prefix``."""
    public_url: str | None = frozen_by("free", None, pattern=r"^https?://")
    """At which people's browsers reach ``root`` (a file server, a bucket's website), for links in Prefect's pages;
    empty: links are files' own paths, which browsers open from the address bar only."""


class OrchestrationConfig(Section):
    groups_per_shard: int = frozen_by("sampling", 16, ge=1)
    """Groups that are committed and read together."""
    threads: int = frozen_by("free", 2, ge=1)
    """CPU threads of each computing process; results are bit-identical only for equal numbers."""
    training_processes: int = frozen_by("free", 1, ge=1)
    """Ranks of the training (torchrun)."""
    shard_retries: int = frozen_by("free", 1, ge=0)
    """How often Prefect retries a shard by itself."""
    notify: str | None = frozen_by("free", None, pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")
    """A Prefect notification block, ``kind/name`` (``slack-webhook/team``), that is told once of each of these:
    judgements are wanted (with the link), they are complete, a flow run failed or crashed, the epoch is sealed."""


class EvaluationConfig(Section):
    prompts: str | None = frozen_by("free", None)
    """Held-out prompts for the before/after figures; empty: no evaluation."""
    objectives: tuple[str, ...] = frozen_by("free", ("jpeg_compressibility",))
    """Programmed objectives that are measured on the held-out images: built-in ones, or names in ``programmed``."""
    images_per_prompt: int = frozen_by("free", 4, ge=1)
    """Images of each held-out prompt that ``d3po evaluate`` makes of each candidate."""
    etas: tuple[float, ...] = frozen_by("free", (1.0, 0.0), min_length=1)
    """The η that ``d3po evaluate`` samples with, each in [0, 1]; 0 is deterministic given x_T."""


class ExperimentConfig(Section):
    epochs: int = frozen_by("free", 5, ge=1)
    """How many epochs the run is to have when ``d3po experiment`` ends."""
    target_objective: str | None = frozen_by("free", None)
    """One of evaluation.objectives; with ``target``, the experiment stops early."""
    target: float | None = frozen_by("free", None)
    """Stop after the epoch whose held-out images have at least this mean of the target objective."""


class Configuration(Section):
    """One run: everything that decides what is computed, and where."""

    run: str = frozen_by("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """The run's name, which is its folder's name."""
    seed: int = frozen_by("run", 0, ge=0, lt=2**63)
    """The run seed: part of every random number's address."""
    model: ModelConfig
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    prompts: PromptsConfig
    labels: LabelsConfig = Field(default_factory=LabelsConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    programmed: dict[str, ProgrammedConfig] = frozen_by("free", {})
    """Further programmed objectives of this run, by the names that ``labels.objectives`` and ``evaluation.objectives``
    may then use; each has a ``kind`` and that kind's fields: docs/objectives.md."""
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    experiment: ExperimentConfig = Field(default_factory=ExperimentConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    orchestration: OrchestrationConfig = Field(default_factory=OrchestrationConfig)

    @field_validator("run", mode="before")
    @classmethod
    def _run_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _parts_fit_together(self, info: ValidationInfo) -> "Configuration":
        if not (info.context and info.context.get(OF_A_PLAN)):
            check_together(self.sampling, self.training)
            self._objective_fits()
        if not all(0 <= eta <= 1 for eta in self.evaluation.etas):
            raise ValueError(f"evaluation.etas is {list(self.evaluation.etas)}, expected values from 0 to 1")
        if self.labels.source == "people" and self.labels.screen == "compare" and self.sampling.group_size != 2:
            raise ValueError(
                f"labels.screen is compare, which shows 2 images, but sampling.group_size is {self.sampling.group_size}. "
                "Set sampling.group_size: 2, or labels.screen: mark"
            )
        self._target_is_measured()
        if (self.labels.gold is None) != (self.labels.gold_fraction == 0.0):
            raise ValueError(
                f"labels.gold is {self.labels.gold!r} and labels.gold_fraction {self.labels.gold_fraction:g}: known "
                "answers need both, a file and a share above 0. Set both, or neither"
            )
        _check_objectives(self)
        if self.labels.source == "people":
            screen_of(self.labels, self.sampling.group_size)
        return self

    def _objective_fits(self) -> None:
        kind, spec = self.objective.kind, self.objective.spec
        shared = self.sampling.shared_initial_noise
        if spec.initial_noise != "any" and shared != (spec.initial_noise == "shared"):
            raise ValueError(
                f"objective.kind {kind} is defined for images {'of one x_T' if not shared else 'that each start from noise of their own'}. "
                f"Set sampling.shared_initial_noise: {str(not shared).lower()}"
            )
        if spec.labels == "rewards" and self.labels.source == "people":
            pairwise = ", ".join(name for name, other in specs.OBJECTIVES.items() if other.labels != "rewards")
            raise ValueError(
                f"objective.kind {kind} needs a reward for each image, and people's comparisons give none. Set "
                f"labels.source: programmed, or an objective that learns from preferences: {pairwise}"
            )
        if spec.labels == "rewards" and len(self.labels.objectives) != 1:
            raise ValueError(
                f"objective.kind {kind} needs one reward for each image, but labels.objectives has "
                f"{len(self.labels.objectives)}: {', '.join(self.labels.objectives)}. Name one, or use an objective that "
                "learns from preferences, which are by Pareto over several"
            )

    def _target_is_measured(self) -> None:
        name, measured = self.experiment.target_objective, self.evaluation.objectives
        if (name is None) != (self.experiment.target is None):
            raise ValueError("experiment.target and experiment.target_objective belong together. Set both or neither")
        if name is not None and (name not in measured or self.evaluation.prompts is None):
            raise ValueError(
                f"experiment.target_objective is {name}, which is not measured on held-out prompts. Set "
                f"evaluation.prompts, and evaluation.objectives with {name} (now {', '.join(measured)})"
            )

    def section_of_class(self, frozen: str) -> dict[str, Any]:
        """The fields of one class of change, flat: ``{"sampling.group_size": 2, …}``, JSON-compatible."""
        values = self.model_dump(mode="json")
        return {path: _lookup(values, path) for path, kind in field_classes(type(self)) if kind == frozen}


def objective_names(configuration: Configuration) -> list[str]:
    """The programmed objectives there are: the built-in ones and this run's."""
    return [*sorted(OBJECTIVES), *sorted(configuration.programmed)]


def _check_objectives(configuration: Configuration) -> None:
    known = objective_names(configuration)
    for name in configuration.programmed:
        if name in OBJECTIVES or not re.fullmatch(OBJECTIVE_NAME, name):
            raise ValueError(
                f"programmed.{name} cannot be called so: expected a name in small letters, digits and underscores that is "
                f"none of the built-in {', '.join(sorted(OBJECTIVES))}"
            )
    for field, names in (
        ("labels.objectives", configuration.labels.objectives),
        ("evaluation.objectives", configuration.evaluation.objectives),
    ):
        for name in names:
            if name not in known:
                raise ValueError(f"{field}: there is no programmed objective {name!r}; there are {', '.join(known)}")
        if len(set(names)) < len(names):
            raise ValueError(f"{field} names an objective twice: {', '.join(names)}")


def field_classes(model: type[Section], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each leaf field of a configuration with its class of change.

    Raises:
        TypeError: A field belongs to no class.
    """
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from field_classes(field.annotation, f"{prefix}{name}.")
            continue
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or "frozen_by" not in extra:
            raise TypeError(f"{prefix}{name} says no class of change")
        yield f"{prefix}{name}", str(extra["frozen_by"])


def _lookup(values: Mapping[str, Any], path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values
