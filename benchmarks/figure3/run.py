"""Runs of the figure, one row each, appended as they finish: stopped at any time, it goes on with what is missing.

    python -m benchmarks.figure3.run --rows benchmarks/figure3/rows.jsonl

Each run: epochs of generating, programmed preferences or rewards, and training, in one process and in memory, by the
core's own functions; then the held-out prompts before and after, with the same noise.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure3.settings import EPOCHS, METHODS, OBJECTIVES, Settings, configured, figure_settings
from benchmarks.in_memory import InMemory, groups_of, loaded, sampled, trained
from d3po_core.preferences import judgements_to_pairs
from d3po_core.programmed.judges import programmed_judgement
from d3po_core.records import Judgement, Reward, Trajectories
from tasks.config import Configuration
from tasks.evaluation.held_out import compare, held_out
from tasks.programmed import programmed_objective

PLAN = [
    *product(METHODS, ("compressibility", "symmetry"), range(5)),
    *product(("d3po", "ddpo"), ("incompressibility",), range(5)),
]
"""(method, objective, seed) of every run of the figure."""


def run(configuration: Configuration, epochs: int = EPOCHS) -> dict[str, Any]:
    """One run's row: the reward of each epoch's own images, and the held-out prompts' before and after."""
    begun = time.perf_counter()
    policy = loaded(configuration)
    before = held_out(configuration, policy)
    curve, metrics, state = [], [], None
    for epoch in range(epochs):
        groups, embeds = groups_of(configuration, policy, epoch)
        batches = sampled(configuration, policy, groups, embeds, epoch)
        judgements, rewards = _judged(configuration, batches)
        curve.append([reward.value for reward in rewards])
        pairs, _ = judgements_to_pairs(judgements, configuration.training.votes)
        result = trained(configuration, policy, InMemory(batches, embeds), pairs, rewards, epoch, state)
        state = result.state
        metrics.append({name: round(value, 6) for name, value in result.metrics.items() if name.startswith("train/")})
    (measured,) = compare(before, held_out(configuration, policy))
    return {
        "reward": [round(float(np.mean(values)), 5) for values in curve],
        "before": measured.before,
        "after": measured.after,
        "difference": measured.difference,
        "standard_error": measured.standard_error,
        "metrics": metrics,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _judged(configuration: Configuration, batches: list[Trajectories]) -> tuple[list[Judgement], list[Reward]]:
    (name,) = configuration.labels.objectives
    judgements, rewards = [], []
    for batch in batches:
        values = programmed_objective(configuration, name)(batch.images, list(batch.prompts)).tolist()
        rewards += [
            Reward(trajectory_id=id, group_id=group, prompt=prompt, value=value)
            for id, group, prompt, value in zip(batch.ids, batch.group_ids, batch.prompts, values, strict=True)
        ]
    by_group: dict[str, list[Reward]] = {}
    for reward in rewards:
        by_group.setdefault(reward.group_id, []).append(reward)
    for group, own in by_group.items():
        ids = [reward.trajectory_id for reward in own]
        judgements.append(
            programmed_judgement(group, ids, {name: [reward.value for reward in own]}, "2026-01-01T00:00:00+00:00")
        )
    return judgements, rewards


def finished(rows: Path) -> list[dict[str, Any]]:
    """The rows there are."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def kept(rows: Path, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Append the row of ``key`` as it is made; None where there is one already."""
    if any(key.items() <= row.items() for row in finished(rows)):
        return None
    row = {**key, **make()}
    with rows.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def complete(rows: Path, plan: Iterable[tuple[str, Settings, str, int]]) -> None:
    """Run what has no row yet of (method, settings, objective, seed); each row is kept as it is made."""
    for method, settings, objective, seed in plan:
        key = {"method": method, "objective": objective, "seed": seed, "settings": settings}
        row = kept(rows, key, lambda wanted=(settings, objective, seed): run(configured(*wanted)))
        if row is None:
            continue
        sigma = row["difference"] / row["standard_error"]
        print(
            f"{method} {objective} seed {seed}: {row['reward']}, held-out {row['difference']:+.4f} "
            f"({sigma:+.1f} standard errors), {row['seconds']} s",
            flush=True,
        )


def main() -> None:
    """Every run of the plan that has no row with these settings yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    arguments = parser.parse_args()
    # Seed by seed, so that what is there at any time compares all methods.
    plan = [
        (method, figure_settings(method, objective), objective, seed)
        for method, objective, seed in sorted(PLAN, key=lambda one: one[2])
        if method in arguments.methods and objective in arguments.objectives and seed in arguments.seeds
    ]
    complete(arguments.rows, plan)


if __name__ == "__main__":
    main()
