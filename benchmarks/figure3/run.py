"""Runs of the figure, one row each, appended as they finish: stopped at any time, it goes on with what is missing.

    python -m benchmarks.figure3.run --rows benchmarks/figure3/rows.jsonl

Each run: epochs of generating, programmed preferences or rewards, and training, in one process and in memory, by the
core's own functions; then the held-out prompts before and after, with the same noise.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figure3.settings import EPOCHS, METHODS, OBJECTIVES, configured, settings_of
from benchmarks.prepared import InMemory
from d3po_core.checkpoint import CheckpointState
from d3po_core.policy import Policy
from d3po_core.preferences import judgements_to_pairs
from d3po_core.programmed.judges import programmed_judgement
from d3po_core.records import Group, Judgement, Reward, Trajectories
from d3po_core.reference import reference_log_probs
from d3po_core.rollout import rollout
from d3po_core.training import train
from tasks.config import Configuration
from tasks.evaluation import compare, held_out
from tasks.programmed import programmed_objective
from tasks.prompts import epoch_prompts, read_prompts

PLAN = [
    *product(METHODS, ("compressibility",), range(5)),
    *product(("d3po", "ddpo"), ("incompressibility",), range(5)),
]
"""(method, objective, seed) of every run of the figure."""


def run(configuration: Configuration, epochs: int = EPOCHS) -> dict[str, Any]:
    """One run's row: the reward of each epoch's own images, and the held-out prompts' before and after."""
    begun = time.perf_counter()
    policy = Policy.load(
        configuration.model,
        configuration.sampling,
        configuration.lora,
        threads=configuration.orchestration.threads,
        lora_seed=configuration.seed,
    )
    before = held_out(configuration, policy)
    curve, metrics, state = [], [], None
    for epoch in range(epochs):
        groups, embeds = groups_of(configuration, policy, epoch)
        batches = list(sampled(configuration, policy, groups, embeds, epoch))
        judgements, rewards = _judged(configuration, batches)
        curve.append([reward.value for reward in rewards])
        state, found = trained(configuration, policy, InMemory(batches, embeds), judgements, rewards, epoch, state)
        metrics.append({name: round(value, 6) for name, value in found.items() if name.startswith("train/")})
        policy.load_lora_state(dict(state.lora))
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


def groups_of(configuration: Configuration, policy: Policy, epoch: int) -> tuple[list[Group], dict[str, torch.Tensor]]:
    count = configuration.prompts.groups_per_epoch
    prompts = epoch_prompts(
        read_prompts(configuration.prompts.file), seed=configuration.seed, used=epoch * count, count=count
    )
    distinct = sorted({*prompts, ""})
    embeds = dict(zip(distinct, policy.encode(distinct), strict=True))
    return [Group(id=f"g{index:06d}", index=index, prompt=prompt) for index, prompt in enumerate(prompts)], embeds


def sampled(
    configuration: Configuration, policy: Policy, groups: list[Group], embeds: dict[str, torch.Tensor], epoch: int
) -> Iterator[Trajectories]:
    size = configuration.sampling.groups_per_batch
    batches = [groups[first : first + size] for first in range(0, len(groups), size)]
    return rollout(policy, batches, configuration.sampling, run_seed=configuration.seed, epoch=epoch, embeds=embeds)


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


def trained(
    configuration: Configuration,
    policy: Policy,
    source: InMemory,
    judgements: list[Judgement],
    rewards: list[Reward],
    epoch: int,
    state: CheckpointState | None,
) -> tuple[CheckpointState, dict[str, float]]:
    pairs, _ = judgements_to_pairs(judgements, configuration.training.votes)
    held = None
    if configuration.objective.reference == "pretrained" and configuration.objective.spec.quantity == "log_prob":
        held = reference_log_probs(policy, source, sorted({reward.group_id for reward in rewards}))
    result = train(
        policy,
        source,
        pairs,
        configuration.objective,
        configuration.training,
        run_seed=configuration.seed,
        epoch=epoch,
        rewards=rewards,
        reference_log_probs=held,
        initial_state=state,
    )
    return result.state, dict(result.metrics)


def finished(rows: Path) -> list[dict[str, Any]]:
    """The rows there are."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def main() -> None:
    """Every run of the plan that has no row with these settings yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    arguments = parser.parse_args()
    # Seed by seed, so that what is there at any time compares all methods.
    for method, objective, seed in sorted(PLAN, key=lambda one: one[2]):
        wanted = method in arguments.methods and objective in arguments.objectives and seed in arguments.seeds
        key = {"method": method, "objective": objective, "seed": seed, "settings": settings_of(method)}
        if not wanted or any(key.items() <= row.items() for row in finished(arguments.rows)):
            continue
        row = {**key, **run(configured(method, objective, seed))}
        with arguments.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        sigma = row["difference"] / row["standard_error"]
        print(
            f"{method} {objective} seed {seed}: {row['reward']}, held-out {row['difference']:+.4f} ({sigma:+.1f} standard errors), {row['seconds']} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
