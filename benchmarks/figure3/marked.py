"""Figure 4's kind: seven images a prompt, judges who mark the bad ones, and the marked rate epoch by epoch.

    python -m benchmarks.figure3.marked --rows benchmarks/figure3/marked.jsonl --plot benchmarks/figure3/marked.svg

A simulated judge marks what compresses worse than half of the pretrained model's own images do, and errs in a stated
share of the marks. D3PO learns from every pair of a marked and an unmarked image. The rate is over an epoch's own images,
before it is trained on; its standard error is the binomial one. Each run is a row, appended as it finishes: stopped at
any time, it goes on with what is missing.
"""

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figure3.plot import spread_line
from benchmarks.figure3.run import finished, kept
from benchmarks.figure3.settings import THREADS
from benchmarks.in_memory import InMemory, groups_of, loaded, sampled, trained
from d3po_core.preferences import judgements_to_pairs
from d3po_core.programmed.judges import SimulatedJudge
from d3po_core.records import Judgement, Trajectories
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.programmed import programmed_objective
from tasks.reports.plots import Panel, panels

__all__ = ["PLAN", "table"]

EPOCHS, GROUPS, SIZE, SEEDS = 5, 40, 7, range(5)
SETTINGS: dict[str, Any] = {"learning_rate": 3e-3, "first_transitions": 10, "error_rate": 0.1}
UPDATES = (4, 8)
"""Optimizer updates an epoch: what stands, and twice as many of half the prompts each."""
JUDGE = "judge"
PLAN = [
    *((updates, seed, JUDGE) for updates in UPDATES for seed in SEEDS),
    *((8, 0, other) for other in ("0", "1")),
]
"""(updates, run seed, judge) of every run. The last are one run with judges who err as often, elsewhere: what hangs on
which marks are wrong."""


def configured(updates: int, seed: int) -> Configuration:
    """The demo's configuration with groups of seven that are marked."""
    options = {
        "run": f"marked-{seed}",
        "seed": seed,
        "sampling.group_size": SIZE,
        "sampling.groups_per_batch": 9,
        "labels.screen": "mark",
        "prompts.groups_per_epoch": GROUPS,
        "training.groups_per_step": GROUPS // updates,
        "training.learning_rate": SETTINGS["learning_rate"],
        "training.first_transitions": SETTINGS["first_transitions"],
        "orchestration.threads": THREADS,
    }
    return load_configuration(
        "configs/demo.yaml", [part for field, value in options.items() for part in (f"--{field}", str(value))]
    )


def run(configuration: Configuration, judge_name: str) -> list[int]:
    """How many of each epoch's images are marked."""
    policy = loaded(configuration)
    threshold, state, found = None, None, []
    for epoch in range(EPOCHS):
        groups, embeds = groups_of(configuration, policy, epoch)
        batches = sampled(configuration, policy, groups, embeds, epoch)
        values = _values(configuration, batches)
        threshold = median(values.values()) if threshold is None else threshold
        judge = SimulatedJudge(
            name=judge_name, run_seed=configuration.seed, epoch=epoch, error_rate=SETTINGS["error_rate"]
        )
        judgements = []
        for group in groups:
            ids = group.trajectory_ids(SIZE)
            judgements.append(
                _judgement(group.id, ids, judge.mark_below(group.id, {id: values[id] for id in ids}, threshold))
            )
        pairs, statistics = judgements_to_pairs(judgements, configuration.training.votes)
        found.append(round(statistics.marked_rate * len(values)))
        if epoch + 1 < EPOCHS:
            state = trained(configuration, policy, InMemory(batches, embeds), pairs, (), epoch, state).state
    return found


def _values(configuration: Configuration, batches: list[Trajectories]) -> dict[str, float]:
    objective = programmed_objective(configuration, "jpeg_compressibility")
    return {
        id: value
        for batch in batches
        for id, value in zip(batch.ids, objective(batch.images, list(batch.prompts)).tolist(), strict=True)
    }


def _judgement(group: str, ids: tuple[str, ...], marked: Sequence[str]) -> Judgement:
    return Judgement(
        id=f"simulated:{group}",
        group_id=group,
        judge="simulated",
        verdict="mark",
        trajectory_ids=ids,
        levels=tuple((-float(id in marked),) for id in ids),
        updated_at="2026-01-01T00:00:00+00:00",
    )


def complete(rows: Path, plan: Iterable[tuple[int, int, str]]) -> None:
    """Run what has no row of (updates, seed, judge) yet; each is kept as it is made."""
    for updates, seed, judge in plan:
        key = {**SETTINGS, "updates": updates, "seed": seed, "judge": judge}
        row = kept(rows, key, lambda wanted=(updates, seed, judge): _row(*wanted))
        if row is not None:
            print(row, flush=True)


def _row(updates: int, seed: int, judge: str) -> dict[str, Any]:
    begun = time.perf_counter()
    marked = run(configured(updates, seed), judge)
    return {"marked": marked, "images": GROUPS * SIZE, "seconds": round(time.perf_counter() - begun, 1)}


def table(rows: Path) -> Iterator[str]:
    """A line a run: the rate by epoch, and by how much it fell."""
    yield f"| updates an epoch | run seed | judge | {' | '.join(f'epoch {n}' for n in range(EPOCHS))} | fell by (standard errors) |"
    yield "|---" * (EPOCHS + 4) + "|"
    order = {key: place for place, key in enumerate(PLAN)}
    for row in sorted(finished(rows), key=lambda row: order[_key(row)]):
        rates = " | ".join(f"{rate:.3f}" for rate in _rates(row))
        fall, errors = _fall(row)
        yield f"| {row['updates']} | {row['seed']} | {row['judge']} | {rates} | {fall:+.3f} ({errors:+.1f}) |"


def figure(rows: Path) -> bytes:
    """The rate by epoch, the mean over the run seeds with their spread: SVG."""
    lines = []
    for updates in UPDATES:
        own = [row for row in finished(rows) if row["updates"] == updates and row["judge"] == JUDGE]
        lines.append(spread_line(f"{updates} updates an epoch", range(EPOCHS), [_rates(row) for row in own]))
    return panels(
        [Panel(title="marked rate", x_label="epoch", y_label="of the epoch's images", lines=lines, share=True)]
    )


def _key(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["updates"], row["seed"], row["judge"]


def _rates(row: dict[str, Any]) -> list[float]:
    return [count / row["images"] for count in row["marked"]]


def _fall(row: dict[str, Any]) -> tuple[float, float]:
    """From the first epoch to the last, and in binomial standard errors of the difference."""
    first, *_, last = _rates(row)
    error = math.sqrt((first * (1 - first) + last * (1 - last)) / row["images"])
    return first - last, (first - last) / error


def main() -> None:
    """Every run that has no row yet, then the table and the figure of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    complete(arguments.rows, PLAN)
    print("\n".join(table(arguments.rows)))
    if arguments.plot:
        arguments.plot.write_bytes(figure(arguments.rows))


if __name__ == "__main__":
    main()
