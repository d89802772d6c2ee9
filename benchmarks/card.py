"""The cost card against the epoch that it is about: `d3po plan`, then `d3po run --here`, alternating.

    python -m benchmarks.card --rounds 3 --out benchmarks/card.json

Programmed demo epochs, each in a run of its own; the whole command is timed, its process's start included, and the
stages by its log (judging by JPEG size takes next to nothing, and is in the rest). The card's peak memory is that of
the process that makes it, which samples and trains: held against the largest of the epoch's, the flow's or the
trainer's, each with its libraries and the network. On a GPU the card counts what is allocated there, and this does not.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.whole_epochs import BIN, prefect_server, started, written
from tasks.config_reading import load_configuration

STAGES = ("generate", "train", "report", "starts of processes", "together, without the people")
SIZES = ("on disk", "peak memory")
"""In 10^6 bytes."""
TAKEN = {
    "generate": (r"trajectories computed in ([\d.]+) s", r"stored in ([\d.]+) s"),
    "train": (r"training took ([\d.]+) s",),
}


def foretold(config: Path, environment: dict[str, str]) -> dict[str, float]:
    """The card's seconds and megabytes."""
    done = subprocess.run(
        [BIN / "d3po", "plan", str(config)], env=environment, check=True, capture_output=True, text=True
    )
    seconds = {name: float(re.search(rf"{name} +([\d.]+) s\b", done.stdout)[1]) for name in STAGES}
    megabytes = {name: re.search(rf"{name} +([\d.,]+) MB\b", done.stdout)[1] for name in SIZES}
    return seconds | {name: float(found.replace(",", "")) for name, found in megabytes.items()}


def taken(config: Path, environment: dict[str, str]) -> dict[str, float]:
    """What the epoch's stages took, and it whole; what is in no stage is starts of processes, and orchestration."""
    begun = time.perf_counter()
    process = started(config, environment)
    log, sealed, reported = [], 0.0, 0.0
    for line in process.stdout:
        log.append(line)
        if "is sealed: content" in line:
            sealed = time.perf_counter()
        elif "Task run 'report" in line:
            reported = time.perf_counter()
    peak = _ended(process)
    whole = time.perf_counter() - begun
    if process.returncode != 0:
        raise RuntimeError(f"d3po run ended with {process.returncode}:\n{''.join(log)[-3000:]}")
    text = "".join(log)
    stages = {name: sum(_seconds(text, patterns)) for name, patterns in TAKEN.items()} | {"report": reported - sealed}
    seconds = dict(zip(STAGES, (*stages.values(), whole - sum(stages.values()), whole), strict=True))
    return seconds | dict(zip(SIZES, (_megabytes(config), peak), strict=True))


def _ended(process: subprocess.Popen[str]) -> float:
    """Wait for it; the most that it, or any process it started and waited for, had resident at once, in 10^6 bytes."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _megabytes(config: Path) -> float:
    """Of the files in the run's first epoch."""
    run = load_configuration(config)
    epoch = Path(run.storage.root, run.run, "epochs", "0000")
    return sum(file.stat().st_size for file in epoch.rglob("*") if file.is_file()) / 1e6


def _seconds(text: str, patterns: tuple[str, ...]) -> list[float]:
    return [float(found) for pattern in patterns for found in re.findall(pattern, text)]


def main() -> None:
    """Print and write both, and their ratio, round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)) as environment:
        for number in range(arguments.rounds):
            named = load_configuration(arguments.config).model_copy(update={"run": f"card-{number}"})
            config = written(named, Path(folder))
            both = {"foretold": foretold(config, environment), "taken": taken(config, environment)}
            rounds.append({what: [round(each[what], 1) for each in both.values()] for what in (*STAGES, *SIZES)})
            print(json.dumps(rounds[-1]), flush=True)
    ratios = {what: round(median(each[what][0] / each[what][1] for each in rounds), 2) for what in rounds[0]}
    print(json.dumps({"foretold / taken, median": ratios}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps({"median ratio": ratios, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
