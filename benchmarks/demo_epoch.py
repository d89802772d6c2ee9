"""Does one demo epoch improve what its judges prefer? The demo's configuration over several run seeds.

    python -m benchmarks.demo_epoch --seeds 10 --out benchmarks/demo_epoch.json
    python -m benchmarks.demo_epoch --seeds 10 --error-rate 0.5 --out benchmarks/demo_epoch_control.json

The second is the control: judges who guess. What their adapters do to the objective is what training does by itself.

The same steps as ``make epoch`` (generation, simulated judges, pairs, training, held-out images before and after), in one
process and without the services; a judge answers the same with and without Label Studio. Overrides of the configuration
may follow, as everywhere: ``--training.learning_rate 1e-3``.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.in_memory import InMemory, groups_of, loaded, sampled, trained
from benchmarks.prepared import judged
from d3po_core.preferences import judgements_to_pairs
from d3po_core.programmed.judges import SimulatedJudge
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.evaluation.held_out import compare, held_out
from tasks.programmed import programmed_objective


def one_epoch(configuration: Configuration, error_rate: float) -> dict:
    """Run an epoch; its paired improvement and the seconds that each part took."""
    seed, clock = configuration.seed, time.perf_counter
    policy = loaded(configuration)
    times = [clock()]
    before = held_out(configuration, policy)
    times.append(clock())
    groups, embeds = groups_of(configuration, policy, 0)
    batches = sampled(configuration, policy, groups, embeds)
    times.append(clock())
    judge = SimulatedJudge(name="0", run_seed=seed, epoch=0, error_rate=error_rate)
    objectives = [programmed_objective(configuration, name) for name in configuration.labels.objectives]
    judgements = []
    for batch in batches:
        columns = [objective(batch.images, list(batch.prompts)).tolist() for objective in objectives]
        value_of = dict(zip(batch.ids, zip(*columns, strict=True), strict=True))
        for group in dict.fromkeys(batch.group_ids):
            own = {id: value for id, value in value_of.items() if id.rpartition("-")[0] == group}
            judgements.append(judged(group, own, judge, configuration))
    pairs, _ = judgements_to_pairs(judgements, configuration.training.votes)
    result = trained(configuration, policy, InMemory(batches, embeds), pairs)
    times.append(clock())
    [measured] = compare(before, held_out(configuration, policy))
    return {
        "seed": seed,
        "pairs": len(pairs),
        "before": measured.before,
        "after": measured.after,
        "difference": measured.difference,
        "standard_error": measured.standard_error,
        "improved": measured.difference > measured.standard_error,
        "optimizer_steps": result.steps,
        "metrics": {name: round(value, 5) for name, value in result.metrics.items()},
        "seconds": dict(zip(("evaluate", "generate", "train"), np.diff(times).round(1).tolist(), strict=True)),
    }


def main() -> None:
    """One row a seed, printed as it is finished and written at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--error-rate", type=float, default=0.1, help="as d3po annotate has it")
    parser.add_argument("--out", type=Path)
    arguments, overrides = parser.parse_known_args()
    rows = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        row = one_epoch(load_configuration(arguments.config, [*overrides, "--seed", str(seed)]), arguments.error_rate)
        rows.append(row)
        ratio = row["difference"] / row["standard_error"]
        print(
            f"seed {seed}: {row['before']:.4f} -> {row['after']:.4f}, {row['difference']:+.4f} ± "
            f"{row['standard_error']:.4f} ({ratio:+.1f} standard errors), {row['seconds']} {row['metrics']}",
            flush=True,
        )
    print(f"improved by more than one paired standard error: {sum(row['improved'] for row in rows)} of {len(rows)}")
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"error_rate": arguments.error_rate, "overrides": overrides, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
