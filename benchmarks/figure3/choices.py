"""What each choice does, with run seeds that the figure does not use: how the figure's settings were found.

    python -m benchmarks.figure3.choices --rows benchmarks/figure3/choices.jsonl

``first``: one setting changed at a time, for compressibility, from pairs of images and six updates an epoch. ``groups``:
for the other objectives, how many images of a prompt are compared. ``rates``: with what that led to, each method's
learning rate for the figure. ``strengths``: how strongly each method that has such a number is held to its reference.
``clips``: whether clipping D3PO's log-ratios helps, and what the published range does to DDPO. ``sharpness``: how
much more the better images weigh in reward-weighted. ``imitation``: whether what is best with one run seed is best with
the figure's five, for the supervised methods.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figure3.run import complete, finished
from benchmarks.figure3.settings import IMAGES, METHODS, Settings, settings_of

__all__ = ["PLANS", "tables"]


SEED, OBJECTIVE = 100, "compressibility"
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)

ONE_AT_A_TIME: list[tuple[str, str, Settings]] = [
    *(
        (method, f"learning rate {rate:g}", {"training": {"learning_rate": rate}})
        for rate in LEARNING_RATES
        for method in METHODS
    ),
    *(("d3po", f"first {count} transitions", {"training": {"first_transitions": count}}) for count in (5, 20)),
    ("d3po", "5 of the first 10 transitions", {"training": {"transitions_per_trajectory": 5}}),
    *(("d3po", f"{48 // pairs} updates an epoch", {"training": {"groups_per_step": pairs}}) for pairs in (4, 16, 48)),
]
"""(method, what is changed, the change)."""

GROUP_OBJECTIVES, GROUP_SEEDS = ("incompressibility", "symmetry"), (100, 101)
GROUP_CHOICES = [
    (2, 21, 1.5e-3),
    (2, 21, 3e-3),
    (4, 10, 1.5e-3),
    (4, 10, 3e-3),
    (8, 5, 1.5e-3),
    (8, 4, 1.5e-3),
    (8, 4, 3e-3),
]
"""(images of a prompt, prompts of an update, learning rate)."""

STRENGTH_BEFORE: dict[str, Any] = {"prdp": {"beta": 10.0}}
"""Of the methods whose strength was chosen last: what they were held by while the rest was chosen."""

STRENGTHS = [
    *(("d3po", "beta", value) for value in (0.1, 1.0, 10.0, 100.0)),
    *(("dpok", "kl_weight", value) for value in (0.01, 0.1, 1.0)),
    *(("prdp", "beta", value) for value in (1.0, 10.0, 100.0)),
]
"""(method, field of the objective, value)."""

SHARPNESS = [(beta, rate) for beta in (0.2, 20.0) for rate in (3e-4, 3e-3)]
"""Reward-weighted's β, in one over the reward's unit, and its learning rate. At the published 0.2 all weights are alike."""

CLIPS = ("published", "pessimistic")
"""D3PO's `ratio_clip`, at the range that clips anything here; the figure has none."""

NARROW, NARROWED = 1e-4, ("ddpo",)
"""The clip range of the published code, of a method whose range the figure widened to 1e-2."""

IMITATION, IMITATION_RATES = ("reward_weighted", "preferred_images"), (3e-3, 1e-2)
"""Tried at every seed of the figure, beside the rate that the figure has."""


def _before_strengths(method: str, changes: Settings) -> Settings:
    return settings_of(method, {"objective": STRENGTH_BEFORE.get(method, {}), **changes})


def first_settings(method: str, changes: Settings | None = None) -> Settings:
    """Those that were changed one at a time: 96 images an epoch in pairs (PRDP: fours), six updates."""
    size = 4 if method == "prdp" else 2
    groups = 96 // size
    base: Settings = {
        "training": {"groups_per_step": groups // 6},
        "sampling": {"group_size": size, "groups_per_batch": 32},
        "prompts": {"groups_per_epoch": groups},
    }
    changed = {name: {**fields, **(changes or {}).get(name, {})} for name, fields in base.items()}
    settings = _before_strengths(method, changed)
    settings["objective"] = {k: value for k, value in settings["objective"].items() if k != "statistics_minimum"}
    return settings


def group_settings(size: int, prompts: int, rate: float) -> Settings:
    """D3PO's, by how many images of a prompt are compared with each other, at the figure's number of images."""
    return settings_of(
        "d3po",
        {
            "training": {"groups_per_step": prompts, "learning_rate": rate},
            "sampling": {"group_size": size, "groups_per_batch": 64 // size},
            "prompts": {"groups_per_epoch": IMAGES // size},
        },
    )


def rate_settings(method: str, rate: float) -> Settings:
    """The figure's, with another learning rate; the strengths as they were then."""
    return _before_strengths(method, {"training": {"learning_rate": rate}})


def strength_settings(method: str, name: str, value: float) -> Settings:
    """The figure's, with another strength."""
    return settings_of(method, {"objective": {name: value}})


def clip_settings(clip: str) -> Settings:
    """The figure's D3PO, its log-ratios clipped."""
    return settings_of("d3po", {"objective": {"ratio_clip": clip, "ratio_clip_range": 1e-2}})


def sharpness_settings(beta: float, rate: float) -> Settings:
    """The figure's reward-weighted, with another β and learning rate."""
    return settings_of(
        "reward_weighted", {"objective": {"beta": beta} if beta != 0.2 else {}, "training": {"learning_rate": rate}}
    )


def narrow_settings(method: str) -> Settings:
    """The figure's, clipped as published."""
    return settings_of(method, {"objective": {"ratio_clip_range": NARROW}})


PLANS: dict[str, list[tuple[str, Settings, str, int]]] = {
    "first": [(method, first_settings(method, changes), OBJECTIVE, SEED) for method, _, changes in ONE_AT_A_TIME],
    "groups": [
        ("d3po", group_settings(*choice), objective, seed)
        for choice in GROUP_CHOICES
        for objective in GROUP_OBJECTIVES
        for seed in GROUP_SEEDS
    ],
    "rates": [(method, rate_settings(method, rate), OBJECTIVE, SEED) for rate in LEARNING_RATES for method in METHODS],
    "strengths": [(method, strength_settings(method, *held), OBJECTIVE, SEED) for method, *held in STRENGTHS],
    "clips": [
        *(("d3po", clip_settings(clip), OBJECTIVE, SEED) for clip in CLIPS),
        *((method, narrow_settings(method), OBJECTIVE, SEED) for method in NARROWED),
    ],
    "sharpness": [("reward_weighted", sharpness_settings(*choice), OBJECTIVE, SEED) for choice in SHARPNESS],
    "imitation": [
        (method, rate_settings(method, rate), OBJECTIVE, seed)
        for rate in IMITATION_RATES
        for method in IMITATION
        for seed in range(5)
    ],
}
"""Part → (method, settings, objective, seed) of its runs."""


def tables(rows: Path) -> Iterator[str]:
    """What the held-out prompts gained, and how many paired standard errors that is."""
    there = finished(rows)

    def gain(*key: Any) -> str:
        for row in there:
            if (row["method"], row["settings"], row["objective"], row["seed"]) == key:
                return _gain(row)
        return "–"

    found = {
        (method, choice): gain(method, first_settings(method, changes), OBJECTIVE, SEED)
        for method, choice, changes in ONE_AT_A_TIME
    }
    yield from _table(
        ["learning rate", *(f"{rate:g}" for rate in LEARNING_RATES)],
        [[method, *(found.pop((method, f"learning rate {rate:g}")) for rate in LEARNING_RATES)] for method in METHODS],
    )
    yield from _table(["3e-3, but", "gain"], [[f"{method}: {choice}", own] for (method, choice), own in found.items()])
    columns = [(objective, seed) for objective in GROUP_OBJECTIVES for seed in GROUP_SEEDS]
    yield from _table(
        [
            "images of a prompt",
            "prompts an update",
            "learning rate",
            *(f"{name}, seed {seed}" for name, seed in columns),
        ],
        [
            [f"{size}", f"{prompts}", f"{rate:g}", *(gain("d3po", group_settings(*choice), *cell) for cell in columns)]
            for choice in GROUP_CHOICES
            for size, prompts, rate in [choice]
        ],
    )
    yield from _table(
        ["learning rate, eight images of a prompt", *(f"{rate:g}" for rate in LEARNING_RATES)],
        [
            [method, *(gain(method, rate_settings(method, rate), OBJECTIVE, SEED) for rate in LEARNING_RATES)]
            for method in METHODS
        ],
    )
    yield from _table(
        ["held to its reference, eight images of a prompt", "gain"],
        [
            [f"{method}: {name} {value:g}", gain(method, strength_settings(method, name, value), OBJECTIVE, SEED)]
            for method, name, value in STRENGTHS
        ],
    )
    yield from _table(
        ["D3PO, log-ratios clipped at ±0.01", "gain"],
        [[clip, gain("d3po", clip_settings(clip), OBJECTIVE, SEED)] for clip in CLIPS],
    )
    yield from _table(
        ["clipped at ±1e-4 as published, eight images of a prompt", "gain"],
        [[method, gain(method, narrow_settings(method), OBJECTIVE, SEED)] for method in NARROWED],
    )
    yield from _table(
        ["reward-weighted, learning rate", "β 0.2", "β 20"],
        [
            [
                f"{rate:g}",
                *(
                    gain("reward_weighted", sharpness_settings(beta, rate), OBJECTIVE, SEED)
                    for beta in dict.fromkeys(beta for beta, _ in SHARPNESS)
                ),
            ]
            for rate in dict.fromkeys(rate for _, rate in SHARPNESS)
        ],
    )
    yield from _table(
        ["five run seeds", "learning rate", "mean gain", "each seed's (its standard errors)"],
        [
            [
                method,
                f"{rate:g}",
                f"{statistics.mean(row['difference'] for row in own):+.3f}",
                ", ".join(map(_gain, own)),
            ]
            for method in IMITATION
            for rate in IMITATION_RATES
            for own in [sorted(_of(there, method, rate_settings(method, rate)), key=lambda row: row["seed"])]
        ],
    )


def _of(rows: list[dict[str, Any]], method: str, settings: Settings) -> list[dict[str, Any]]:
    """The rows of the figure's seeds with these settings."""
    key = {"method": method, "settings": settings, "objective": OBJECTIVE}
    return [row for row in rows if key.items() <= row.items() and row["seed"] != SEED]


def _gain(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.3f} ({row['difference'] / row['standard_error']:+.1f})"


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"\n| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Every choice that has no row yet, then the tables of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--parts", nargs="+", choices=list(PLANS), default=list(PLANS))
    arguments = parser.parse_args()
    plan = [run for part in arguments.parts for run in PLANS[part] if run[0] in arguments.methods]
    complete(arguments.rows, plan)
    print("\n".join(tables(arguments.rows)))


if __name__ == "__main__":
    main()
