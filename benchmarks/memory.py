"""Speed against memory: micro-batches with and without checkpointing, and the published loop, each in a fresh process.

    python -m benchmarks.memory --out benchmarks/memory.json

Data: two groups of two images, T transitions each, held in memory by both; the product passes over them four times, a
step each. The peak is what tensors take at one moment
above the loaded model (so the published loop's second network counts); the resident memory's is beside it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.in_memory import InMemory, first_preferred, loaded, one_prompt, sampled
from benchmarks.opponent import Opponent
from d3po_core.devices import peak_megabytes
from d3po_core.memory import peak_bytes
from d3po_core.policy import Policy
from d3po_core.records import Pair, Trajectories
from d3po_core.training import train
from tasks.config import Configuration
from tasks.config_reading import load_configuration

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 5
GROUPS, INNER_EPOCHS = 2, 4


def measure(configuration: Configuration, micro_batch: int, checkpointing: bool) -> dict[str, Any]:
    """One setting's milliseconds and megabytes; ``micro_batch`` 0 is the published loop."""
    policy = loaded(configuration)
    groups, embeds = one_prompt(policy, GROUPS)
    (trajectories,) = sampled(configuration, policy, groups, embeds, images=False)
    pairs = [first_preferred(group) for group in groups]
    transitions = len(pairs) * int(trajectories.trainable.sum())
    make = profiled = _published(policy, trajectories, embeds, pairs)
    if micro_batch:
        own = {"micro_batch": micro_batch, "gradient_checkpointing": checkpointing, "inner_epochs": INNER_EPOCHS}
        make = _product(policy, configuration, trajectories, embeds, pairs, own | {"first_transitions": None})
        # As many transitions as fill a micro-batch have the peak of all: profiling each allocation is slow.
        few = min(len(policy.schedule), max(2, micro_batch // 2))
        own |= {"first_transitions": few, "inner_epochs": 2}
        profiled = _product(policy, configuration, trajectories, embeds, pairs, own)
        transitions *= INNER_EPOCHS
    at_rest = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    make()()
    resident = peak_megabytes(torch.device("cpu")) - at_rest / 1e6
    seconds = []
    for _ in range(ROUNDS):
        call = make()
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    del call
    return {
        "micro_batch": micro_batch,
        "checkpointing": checkpointing,
        "ms": round(median(seconds) / transitions * 1e3, 1),
        "tensors_mb": round(peak_bytes(policy.device, lambda: profiled()()) / 1e6, 1),
        "resident_mb": round(resident, 1),
    }


def _published(
    policy: Policy, trajectories: Trajectories, embeds: dict[str, Any], pairs: list[Pair]
) -> Callable[[], Callable[[], object]]:
    """Makes the second network, then one pass over the pairs."""
    initial = policy.lora_state()

    def make() -> Callable[[], object]:
        policy.load_lora_state(initial)
        opponent = Opponent(policy)
        return lambda: opponent.train(trajectories, embeds, pairs)

    return make


def _product(
    policy: Policy,
    configuration: Configuration,
    trajectories: Trajectories,
    embeds: dict[str, Any],
    pairs: list[Pair],
    fields: dict[str, Any],
) -> Callable[[], Callable[[], object]]:
    """A training of several steps: the first alone has its coefficients for nothing."""
    settings = configuration.training.model_copy(update={"groups_per_step": GROUPS, **fields})
    initial = policy.lora_state()

    def call() -> None:
        policy.load_lora_state(initial)
        source = InMemory([trajectories], embeds)
        train(policy, source, pairs, configuration.objective, settings, run_seed=0, epoch=0)

    return lambda: call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--one", type=int, help="measure this micro-batch alone; 0 is the published loop")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments, overrides = parser.parse_known_args()
    if arguments.one is not None:
        configuration = load_configuration(arguments.config, overrides)
        print(json.dumps(measure(configuration, arguments.one, arguments.checkpointing)))
        return
    found = []
    for checkpointing, micro_batch in [(False, 0), *product((False, True), MICRO_BATCHES)]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.memory",
            "--config",
            str(arguments.config),
            "--one",
            str(micro_batch),
        ]
        command += ["--checkpointing"] * checkpointing + overrides
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        found.append(json.loads(lines[-1]))
        print(found[-1], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
