"""The product against the published loop and against the floor, in one run, alternating; medians.

    python -m benchmarks.speed --rounds 5 --out benchmarks/speed.json
    python -m benchmarks.speed --only sweep --model.dtype bfloat16    # an evaluation's time
    python -m benchmarks.speed --only sweep --sizes 64 --model.compile blocks

Each round does the three one after the other, so that whatever else the machine does meets all of them alike; the
ratios are medians over rounds of a round's own ratios. The product's training is the training process's own function
from reading the store to the committed adapter, its sampling is two shards' from
the prompts' encoding to the commit, the first being stored while the second is computed.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.floor import SIZES, Best, laid_out, sampling_floor, sweep, training_floor
from benchmarks.opponent import Opponent, sample
from benchmarks.prepared import copied, planned, prepared
from d3po_core.policy import Policy
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.context import EpochContext
from tasks.generation.generate import write_prompt_embeds
from tasks.generation.shards import commit_shard, compute_shard
from tasks.policies import policy_for
from tasks.training import trainer
from tasks.training.attempt import training_attempt
from tasks.training.source import StoredTrajectories
from tasks.training.training_plan import pairs_of

CASES = {
    "k = 2": {"size": 2, "groups": 16, "screen": "compare", "groups_per_step": 4},
    "k = 7, 3 marked": {"size": 7, "groups": 6, "screen": "mark", "groups_per_step": 4},
    "k = 2, an optimizer step per pair": {"size": 2, "groups": 16, "screen": "compare", "groups_per_step": 1},
    "k = 7, 3 marked, an optimizer step per group": {"size": 7, "groups": 6, "screen": "mark", "groups_per_step": 1},
    "k = 2, 5 of 20 transitions": {
        **{"size": 2, "groups": 16, "screen": "compare", "groups_per_step": 4},
        "transitions_per_trajectory": 5,
    },
}
"""The last one evaluates less than the mathematics of all transitions needs: it is still counted by all of them."""
OPPONENT_PAIRS = 4
OPPONENT_THREADS = (1, 2)
"""Batches of one gain little by a second thread, or lose; the faster of the two is compared."""
SAMPLED_GROUPS = 128
"""A demo epoch's: two shards."""


def configured(
    config: Path,
    root: Path,
    overrides: list[str],
    size: int,
    groups: int,
    screen: str,
    groups_per_step: int,
    transitions_per_trajectory: int | None = None,
) -> Configuration:
    """The configuration with a case's sizes; all T transitions are trained on, as published."""
    whole = load_configuration(config, overrides)
    return whole.model_copy(
        update={
            "run": f"speed-{size}-{groups_per_step}-{transitions_per_trajectory}",
            "storage": whole.storage.model_copy(update={"root": str(root)}),
            "prompts": whole.prompts.model_copy(update={"groups_per_epoch": groups}),
            "labels": whole.labels.model_copy(update={"screen": screen}),
            "sampling": whole.sampling.model_copy(
                update={"group_size": size, "groups_per_batch": max(1, whole.sampling.groups_per_batch * 2 // size)}
            ),
            "training": whole.training.model_copy(
                update={
                    "first_transitions": None,
                    "groups_per_step": groups_per_step,
                    "transitions_per_trajectory": transitions_per_trajectory,
                }
            ),
        }
    )


def training(context: EpochContext, rounds: int, best: Best) -> dict[str, Any]:
    """One case's seconds per pair-transition, by who."""
    policy, initial = policy_for(context.configuration), policy_for(context.configuration).lora_state()
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

    def published(threads: int) -> Callable[[], None]:
        policy.load_lora_state(initial)
        opponent = Opponent(policy)
        return lambda: _with_threads(threads, lambda: opponent.train(trajectories, embeds, theirs))

    def floor() -> None:
        with laid_out(policy, best):
            training_floor(policy, needed, best)

    per = {
        **{f"opponent, {n} threads": (partial(published, n), len(theirs) * steps) for n in OPPONENT_THREADS},
        "product": (ours, len(pairs) * steps),
        "floor": (lambda: floor, len(pairs) * steps),
    }
    return _alternate(per, rounds) | {"pairs": len(pairs), "evaluations": needed}


def sampling(context: EpochContext, rounds: int, best: Best) -> dict[str, Any]:
    """Seconds per image, by who."""
    policy: Policy = policy_for(context.configuration)
    size, groups = context.configuration.sampling.group_size, context.groups()
    steps, images = context.configuration.sampling.num_inference_steps, len(groups) * size
    needed = images * steps - (images - len(groups))
    prompts = [group.prompt for group in groups.values()][:20]

    def ours() -> Callable[[], None]:
        own = copied(context, Path(tempfile.mkdtemp(dir=Path(context.run.root).parent)))

        def generated() -> None:
            write_prompt_embeds(own, supersede=True)
            with ThreadPoolExecutor(1) as storing:  # as the flow does: one shard is stored while the next is computed
                stored = [
                    storing.submit(commit_shard, own, name, compute_shard(own, name)) for name in own.plan["shards"]
                ]
            for shard in stored:
                shard.result()

        return generated

    def published(threads: int) -> Callable[[], None]:
        folder = Path(tempfile.mkdtemp(dir=Path(context.run.root).parent))
        return lambda: _with_threads(threads, lambda: sample(policy, prompts, size, folder))

    def floor() -> None:
        with laid_out(policy, best), policy.merged():
            sampling_floor(policy, needed, images, best)

    def floor_beside() -> None:
        with laid_out(policy, best):
            sampling_floor(policy, needed, images, best)

    per = {
        **{f"opponent, {n} threads": (partial(published, n), len(prompts) * size) for n in OPPONENT_THREADS},
        "product": (ours, images),
        "floor": (lambda: floor, images),
        "floor, the adapter computed beside the weights": (lambda: floor_beside, images),
    }
    return _alternate(per, rounds) | {"images": images}


def _with_threads(threads: int, call: Callable[[], None]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        call()
    finally:
        torch.set_num_threads(before)


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

    faster = min((name for name in seconds if name.startswith("opponent")), key=lambda name: median(seconds[name]))

    def ratio(a: str, b: str) -> dict[str, float]:
        each = [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]
        return {"median": round(median(each), 3), "least": round(min(each), 3), "most": round(max(each), 3)}

    return {
        "milliseconds": {name: round(median(values) * 1e3, 2) for name, values in seconds.items()},
        "opponent/product": ratio(faster, "product"),
        "opponent/floor": ratio(faster, "floor"),
        "product/floor": ratio("product", "floor"),
        "rounds_ms": {name: [round(value * 1e3, 2) for value in values] for name, values in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["sweep", "sampling", *CASES])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="the batches that the sweep tries")
    parser.add_argument("--out", type=Path)
    arguments, overrides = parser.parse_known_args()
    policy = policy_for(load_configuration(arguments.config, overrides))
    bests = {train: sweep(policy, train, arguments.sizes) for train in (True, False)}
    found: dict[str, Any] = {
        f"sweep, {what}, ms an evaluation": bests[train].milliseconds
        for train, what in ((True, "training"), (False, "sampling"))
    }
    print(json.dumps(found, indent=1), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            configuration = configured(arguments.config, Path(folder) / "runs", overrides, **case)
            if arguments.only in (None, "sampling") and "sampling" not in found:
                more = configuration.prompts.model_copy(update={"groups_per_epoch": SAMPLED_GROUPS})
                fresh = configuration.model_copy(update={"run": "speed-sampling", "prompts": more})
                found["sampling"] = sampling(planned(fresh), arguments.rounds, bests[False])
                print(json.dumps({"sampling": found["sampling"]}, indent=1), flush=True)
            if arguments.only in (None, name):
                found[name] = training(prepared(configuration), arguments.rounds, bests[True])
                print(json.dumps({name: found[name]}, indent=1), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
