"""The programmed objectives of this process, by their names in the configuration: each loaded once, when first used."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d3po_core.programmed import OBJECTIVES, ProgrammedObjective
from d3po_core.programmed.command import CommandWorker
from d3po_core.programmed.loading import load_objective
from tasks.config import Configuration, objective_names
from tasks.errors import UserError

__all__ = [
    "ObjectiveTimes",
    "definitions",
    "objective_unit",
    "programmed_objective",
    "release",
    "time_objective",
    "try_objectives",
]

TIMED_PICTURES = 4
"""Of a batch that is timed: few, as a picture may take seconds."""

_loaded: dict[str, ProgrammedObjective] = {}
"""By name, section and device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveTimes:
    """Seconds that a programmed objective takes here."""

    loading: float
    """Once in a process, until it can say what it thinks of a picture."""
    picture: float
    """Of a small batch."""


def programmed_objective(configuration: Configuration, name: str) -> ProgrammedObjective:
    """The objective of this name: a built-in one, or one of the section ``programmed``.

    Raises:
        UserError: There is none; the message has the names there are.
        ObjectiveError: It cannot be loaded.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    if name not in configuration.programmed:
        raise UserError(
            f"there is no programmed objective {name!r}; there are {', '.join(objective_names(configuration))}",
            remedy="choose one of these, or describe yours in the configuration's section programmed: docs/objectives.md",
        )
    section = configuration.programmed[name]
    key = f"{name} {configuration.model.device} {section.model_dump_json()}"
    if key not in _loaded:
        _loaded[key] = load_objective(name, section, configuration.model.device)
    return _loaded[key]


def objective_unit(configuration: Configuration, name: str) -> str:
    """What an objective's values are, for people, without loading it; empty where only it would know."""
    if name in OBJECTIVES:
        return OBJECTIVES[name].unit
    return str(getattr(configuration.programmed.get(name), "unit", ""))


def try_objectives(configuration: Configuration, image_size: int, prompt: str) -> Iterator[tuple[str, str]]:
    """Load each objective there is and let it look at one blank picture: its name, and what it said.

    Nothing is kept loaded, as it may be hours until it is needed.

    Args:
        configuration: Whose objectives.
        image_size: Height and width of the pictures that the model makes, in pixels.
        prompt: One of the run's.

    Raises:
        ObjectiveError: One cannot be loaded, fails, or says no finite number.
    """
    blank = np.full((1, image_size, image_size, 3), 127, dtype=np.uint8)
    used = dict.fromkeys((*configuration.labels.objectives, *configuration.evaluation.objectives))
    for name in (*used, *(name for name in configuration.programmed if name not in used)):
        objective = programmed_objective(configuration, name)
        [value] = objective(blank, [prompt], ["blank"])
        yield name, f"{value:.4g} for a blank picture ({objective.unit}, higher is better)"
        release()


def time_objective(configuration: Configuration, name: str, image_size: int, prompt: str) -> ObjectiveTimes:
    """Load one objective, and let it look at one blank picture and at a few more. It is not kept loaded.

    Args:
        configuration: With its section.
        name: The objective's.
        image_size: Height and width of the pictures that the model makes, in pixels.
        prompt: One of the run's.

    Raises:
        ObjectiveError: It cannot be loaded, fails, or says no finite number.
    """
    blank = np.full((TIMED_PICTURES, image_size, image_size, 3), 127, dtype=np.uint8)
    begun = time.perf_counter()
    objective = programmed_objective(configuration, name)
    objective(blank[:1], [prompt], ["blank"])
    first = time.perf_counter()
    objective(blank, [prompt] * TIMED_PICTURES)
    picture = (time.perf_counter() - first) / TIMED_PICTURES
    release()
    return ObjectiveTimes(loading=max(0.0, first - begun - picture), picture=picture)


def definitions(configuration: Configuration, names: tuple[str, ...]) -> dict[str, dict | str]:
    """What each name means, for the record: its section, or that it is built in."""
    return {
        name: configuration.programmed[name].model_dump(mode="json") if name in configuration.programmed else "built in"
        for name in names
    }


def release() -> None:
    """Let every loaded objective go, and end their commands: another process is about to need the memory."""
    for objective in _loaded.values():
        if isinstance(objective.function, CommandWorker):
            objective.function.close()
    _loaded.clear()
