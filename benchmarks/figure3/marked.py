"""Figure 4's kind: seven images a prompt, judges who mark the bad ones, and the marked rate epoch by epoch.

    python -m benchmarks.figure3.marked --out benchmarks/figure3/marked.json

A simulated judge marks what compresses worse than half of the pretrained model's own images do, and errs in one mark of
ten. D3PO learns from every pair of a marked and an unmarked image. The rate is over an epoch's own images, before it is
trained on; its standard error is the binomial one.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.in_memory import InMemory, groups_of, loaded, sampled, trained
from d3po_core import noise
from d3po_core.preferences import judgements_to_pairs
from d3po_core.records import Judgement, Trajectories
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.programmed import programmed_objective

EPOCHS, GROUPS, SIZE, ERROR_RATE = 5, 40, 7, 0.1


def configured(seed: int) -> Configuration:
    """The demo's configuration with groups of seven that are marked."""
    options = {
        "run": f"marked-{seed}",
        "seed": seed,
        "sampling.group_size": SIZE,
        "sampling.groups_per_batch": 9,
        "labels.screen": "mark",
        "prompts.groups_per_epoch": GROUPS,
        "training.groups_per_step": 5,
    }
    return load_configuration(
        "configs/demo.yaml", [part for field, value in options.items() for part in (f"--{field}", str(value))]
    )


def run(configuration: Configuration) -> list[dict[str, Any]]:
    """Each epoch's marked rate."""
    policy = loaded(configuration)
    threshold, state, found = None, None, []
    for epoch in range(EPOCHS):
        groups, embeds = groups_of(configuration, policy, epoch)
        batches = sampled(configuration, policy, groups, embeds, epoch)
        values = _values(configuration, batches)
        threshold = median(values.values()) if threshold is None else threshold
        marks = {id: _marked(configuration, epoch, id, value < threshold) for id, value in values.items()}
        rate = sum(marks.values()) / len(marks)
        found.append(
            {
                "epoch": epoch,
                "images": len(marks),
                "marked": round(rate, 4),
                "standard_error": round(math.sqrt(rate * (1 - rate) / len(marks)), 4),
            }
        )
        print(found[-1], flush=True)
        if epoch + 1 < EPOCHS:
            judgements = [_judgement(group.id, group.trajectory_ids(SIZE), marks) for group in groups]
            pairs, _ = judgements_to_pairs(judgements, configuration.training.votes)
            state = trained(configuration, policy, InMemory(batches, embeds), pairs, (), epoch, state).state
    return found


def _values(configuration: Configuration, batches: list[Trajectories]) -> dict[str, float]:
    objective = programmed_objective(configuration, "jpeg_compressibility")
    return {
        id: value
        for batch in batches
        for id, value in zip(batch.ids, objective(batch.images, list(batch.prompts)).tolist(), strict=True)
    }


def _marked(configuration: Configuration, epoch: int, id: str, bad: bool) -> bool:
    errs = noise.generator("judge", run_seed=configuration.seed, epoch=epoch, group=id).random() < ERROR_RATE
    return bad != errs


def _judgement(group: str, ids: tuple[str, ...], marks: dict[str, bool]) -> Judgement:
    return Judgement(
        id=f"simulated:{group}",
        group_id=group,
        judge="simulated",
        verdict="mark",
        trajectory_ids=ids,
        levels=tuple((-float(marks[id]),) for id in ids),
        updated_at="2026-01-01T00:00:00+00:00",
    )


def main() -> None:
    """One run, and whether the rate fell by more than two binomial standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = run(configured(arguments.seed))
    first, last = found[0], found[-1]
    error = math.hypot(first["standard_error"], last["standard_error"])
    fall = first["marked"] - last["marked"]
    print(f"the marked rate fell by {fall:.3f}, {fall / error:.1f} standard errors of the difference")
    if arguments.out:
        arguments.out.write_text(json.dumps({"seed": arguments.seed, "epochs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
