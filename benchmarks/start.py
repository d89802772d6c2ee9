"""How long a process of ours takes from its start to its end, doing nothing: with the garbage collector and without.

    python -m benchmarks.start --out benchmarks/start.json

The flow's process and the trainer's import what they import, and end; alternating, the median.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ENTRIES = ("flows.epoch", "tasks.training.trainer")
AS_EVER = "import contextlib, tasks.startup; tasks.startup.importing = contextlib.nullcontext; "


def seconds(code: str) -> float:
    """A process's whole life."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {}
    for entry in ENTRIES:
        seconds(f"import {entry}")  # its files are read from the disk
        pairs = [(seconds(f"{AS_EVER}import {entry}"), seconds(f"import {entry}")) for _ in range(arguments.rounds)]
        ratios = [with_collector / without for with_collector, without in pairs]
        found[entry] = {
            "with the collector, s": round(median(pair[0] for pair in pairs), 2),
            "without, s": round(median(pair[1] for pair in pairs), 2),
            "ratio": {name: round(of(ratios), 2) for name, of in (("median", median), ("least", min), ("most", max))},
        }
        print(entry, found[entry], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
