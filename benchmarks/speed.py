"""The product against the published loop and against the floor, in one run, alternating; medians.

    python -m benchmarks.speed --rounds 5 --out benchmarks/speed.json

Each round does the three one after the other, so that whatever else the machine does meets all of them alike; the
ratios are medians over rounds of a round's own ratios. The product's training is the training process's own function
from reading the store to the committed adapter, its sampling is a shard's from the plan to the commit.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.floor import sampling_floor, sweep, training_floor
from benchmarks.opponent import Opponent, sample
from benchmarks.prepared import copied, planned, prepared
from d3po_core.policy import Policy
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.context import EpochContext
from tasks.generation.shards import write_generated
from tasks.policies import policy_for
from tasks.training import trainer
from tasks.training.source import StoredTrajectories
from tasks.training.training_plan import pairs_of, training_attempt

CASES = {
    "k = 2": {"size": 2, "groups": 16, "screen": "compare", "groups_per_step": 4},
    "k = 7, 3 marked": {"size": 7, "groups": 6, "screen": "mark", "groups_per_step": 4},
    "k = 2, an optimizer step per pair": {"size": 2, "groups": 16, "screen": "compare", "groups_per_step": 1},
}
OPPONENT_PAIRS = 4
SAMPLED_GROUPS = 32


def configured(
    config: Path, root: Path, overrides: list[str], size: int, groups: int, screen: str, groups_per_step: int
) -> Configuration:
    """The configuration with a case's sizes; all T transitions are trained on, as published."""
    whole = load_configuration(config, overrides)
    return whole.model_copy(
        update={
            "run": f"speed-{size}-{groups_per_step}",
            "storage": whole.storage.model_copy(update={"root": str(root)}),
            "prompts": whole.prompts.model_copy(update={"groups_per_epoch": groups}),
            "labels": whole.labels.model_copy(update={"screen": screen}),
            "sampling": whole.sampling.model_copy(
                update={"group_size": size, "groups_per_batch": max(1, whole.sampling.groups_per_batch * 2 // size)}
            ),
            "training": whole.training.model_copy(
                update={"first_transitions": None, "groups_per_step": groups_per_step}
            ),
        }
    )


def training(context: EpochContext, rounds: int) -> dict[str, Any]:
    """One case's seconds per pair-transition, by who."""
    policy, initial = policy_for(context.configuration), policy_for(context.configuration).lora_state()
    best = sweep(policy, train=True)
    attempt = training_attempt(context)
    pairs = pairs_of(context, attempt)
    groups = sorted({pair.group_id for pair in pairs})
    theirs = pairs[:OPPONENT_PAIRS]
    source = StoredTrajectories(context)
    trajectories = source.read(sorted({pair.group_id for pair in theirs}))
    embeds = dict(zip(("", *trajectories.prompts), source.prompt_embeds(["", *trajectories.prompts]), strict=True))
    images = len({name for pair in pairs for name in (pair.preferred, pair.dispreferred)})
    steps = int(trajectories.trainable.sum())
    needed = images * steps - (images - len(groups) if context.configuration.sampling.shared_initial_noise else 0)

    def ours() -> Callable[[], None]:
        own = copied(context, Path(tempfile.mkdtemp(dir=Path(context.run.root).parent)))
        policy.load_lora_state(initial)
        return lambda: trainer.run(own, attempt.attempt)

    def published() -> Callable[[], None]:
        policy.load_lora_state(initial)
        opponent = Opponent(policy)
        return lambda: opponent.train(trajectories, embeds, theirs)

    per = {
        "opponent": (published, len(theirs) * steps),
        "product": (ours, len(pairs) * steps),
        "floor": (lambda: lambda: training_floor(policy, needed, best), len(pairs) * steps),
    }
    return _alternate(per, rounds) | {"pairs": len(pairs), "evaluations": needed, "sweep_ms": best.milliseconds}


def sampling(context: EpochContext, rounds: int) -> dict[str, Any]:
    """Seconds per image, by who."""
    policy: Policy = policy_for(context.configuration)
    best = sweep(policy, train=False)
    size, groups = context.configuration.sampling.group_size, context.groups()
    steps, images = context.configuration.sampling.num_inference_steps, len(groups) * size
    needed = images * steps - (images - len(groups))
    prompts = [group.prompt for group in groups.values()][:20]

    def ours() -> Callable[[], None]:
        own = copied(context, Path(tempfile.mkdtemp(dir=Path(context.run.root).parent)))
        return lambda: [write_generated(own, name) for name in own.plan["shards"]]

    def published() -> Callable[[], None]:
        folder = Path(tempfile.mkdtemp(dir=Path(context.run.root).parent))
        return lambda: sample(policy, prompts, size, folder)

    def merged_floor() -> None:
        with policy.merged():
            sampling_floor(policy, needed, images, best)

    per = {
        "opponent": (published, len(prompts) * size),
        "product": (ours, images),
        "floor": (lambda: lambda: sampling_floor(policy, needed, images, best), images),
        "merged floor": (lambda: merged_floor, images),
    }
    return _alternate(per, rounds) | {"images": images, "sweep_ms": best.milliseconds}


def _alternate(per: dict[str, tuple[Callable[[], Callable[[], None]], int]], rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in per}
    for round_number in range(rounds + 1):
        for name, (make, units) in per.items():
            call = make()
            begun = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_number:  # the first warms up
                seconds[name].append((time.perf_counter() - begun) / units)
        if round_number:
            print({name: f"{values[-1] * 1e3:.1f} ms" for name, values in seconds.items()}, flush=True)

    def ratio(a: str, b: str) -> dict[str, float]:
        each = [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]
        return {"median": round(median(each), 3), "least": round(min(each), 3), "most": round(max(each), 3)}

    compared = [("opponent", "product"), ("opponent", "floor"), ("product", "floor"), ("product", "merged floor")]
    return {
        "milliseconds": {name: round(median(values) * 1e3, 2) for name, values in seconds.items()},
        **{f"{a}/{b}": ratio(a, b) for a, b in compared if b in seconds},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["sampling", *CASES])
    parser.add_argument("--out", type=Path)
    arguments, overrides = parser.parse_known_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            configuration = configured(arguments.config, Path(folder) / "runs", overrides, **case)
            if arguments.only in (None, "sampling") and "sampling" not in found:
                more = configuration.prompts.model_copy(update={"groups_per_epoch": SAMPLED_GROUPS})
                fresh = configuration.model_copy(update={"run": "speed-sampling", "prompts": more})
                found["sampling"] = sampling(planned(fresh), arguments.rounds)
                print(json.dumps({"sampling": found["sampling"]}, indent=1), flush=True)
            if arguments.only in (None, name):
                found[name] = training(prepared(configuration), arguments.rounds)
                print(json.dumps({name: found[name]}, indent=1), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
