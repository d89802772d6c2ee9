"""What each method of the figure is run with: the same images, optimizer updates and transitions for all of them."""

from typing import Any

from tasks.config import Configuration
from tasks.config_reading import load_configuration

__all__ = [
    "EPOCHS",
    "IMAGES",
    "METHODS",
    "OBJECTIVES",
    "THREADS",
    "UPDATES",
    "Settings",
    "configured",
    "settings_of",
]

EPOCHS, IMAGES, UPDATES, TRANSITIONS = 5, 128, 4, 10
"""Of one run: epochs, images an epoch, optimizer updates an epoch, transitions of a trajectory (the first of 20)."""

THREADS = 1
"""So that two processes share two cores: a row is the same to the last bit however many run beside it."""

Settings = dict[str, dict[str, Any]]
"""Section -> field -> value."""

COMMON: dict[str, Any] = {"group_size": 8, "groups_per_batch": 8}

METHODS: dict[str, Settings] = {
    "d3po": {
        "objective": {"kind": "d3po", "beta": 10.0},
        "training": {"learning_rate": 3e-3},
    },
    "ddpo": {
        "objective": {"kind": "ddpo", "ratio_clip_range": 1e-2, "statistics_minimum": 8},
        "training": {"learning_rate": 3e-3},
        "sampling": {"shared_initial_noise": False},
    },
    "dpok": {
        "objective": {"kind": "dpok", "ratio_clip_range": 1e-2, "reward_weight": 10.0, "kl_weight": 0.1},
        "training": {"learning_rate": 3e-3},
        "sampling": {"shared_initial_noise": False},
    },
    "prdp": {
        "objective": {"kind": "prdp", "beta": 1.0, "ratio_clip_range": 1e-2},
        "training": {"learning_rate": 3e-3},
        "sampling": {"shared_initial_noise": False},
    },
    "reward_weighted": {
        "objective": {"kind": "reward_weighted"},
        "training": {"learning_rate": 3e-3},
        "sampling": {"shared_initial_noise": False},
    },
    "preferred_images": {
        "objective": {"kind": "preferred_images"},
        "training": {"learning_rate": 3e-4},
    },
}
"""Method -> the sections of the configuration in which it differs."""

OF_AN_OBJECTIVE: dict[tuple[str, str], Settings] = {
    ("reward_weighted", "compressibility"): {"objective": {"beta": 20.0}},
}
"""What is in the unit of the reward: with β 0.2, the default, kilobytes hardly weigh and levels do."""

OBJECTIVES = {
    "compressibility": "jpeg_compressibility",
    "incompressibility": "jpeg_incompressibility",
    "symmetry": "symmetry",
}
"""What is rewarded, by its name in the figure."""


def settings_of(method: str, changes: Settings | None = None) -> Settings:
    """Everything that decides a run but its objective and seed, as a row keeps it; ``changes`` are by section."""
    own = METHODS[method]
    sampling = {**COMMON, **own.get("sampling", {})}
    groups = IMAGES // sampling["group_size"]
    settings = {
        "objective": own["objective"],
        "training": {"groups_per_step": groups // UPDATES, "first_transitions": TRANSITIONS, **own["training"]},
        "sampling": sampling,
        "prompts": {"groups_per_epoch": groups},
    }
    return {name: {**fields, **(changes or {}).get(name, {})} for name, fields in settings.items()}


def figure_settings(method: str, objective: str) -> Settings:
    """The figure's own."""
    return settings_of(method, OF_AN_OBJECTIVE.get((method, objective)))


def configured(settings: Settings, objective: str, seed: int) -> Configuration:
    """The demo's configuration with a run's settings, judged by a programme."""
    sections: dict[str, Any] = load_configuration("configs/demo.yaml").model_dump(mode="json", exclude_none=True)
    for name, fields in settings.items():
        sections[name] = fields if name == "objective" else {**sections[name], **fields}
    sections["labels"] |= {"source": "programmed", "objectives": [OBJECTIVES[objective]], "screen": "compare"}
    sections["evaluation"]["objectives"] = [OBJECTIVES[objective]]
    sections["orchestration"]["threads"] = THREADS
    return load_configuration({**sections, "run": f"figure3-{settings['objective']['kind']}-{objective}", "seed": seed})
