"""The cost card against the epoch that it is about: `d3po plan`, then `d3po run --here`, alternating.

    python -m benchmarks.card --rounds 3 --out benchmarks/card.json

Programmed demo epochs, each in a run of its own; the whole command is timed, its process's start included, and the
stages by its log.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.whole_epochs import BIN, prefect_server, started, written
from tasks.config_reading import load_configuration

STAGES = ("generate", "train", "report", "starts of processes", "together, without the people")
TAKEN = {
    "generate": (r"trajectories computed in ([\d.]+) s", r"stored in ([\d.]+) s"),
    "train": (r"training took ([\d.]+) s",),
}


def foretold(config: Path, environment: dict[str, str]) -> dict[str, float]:
    """The card's seconds."""
    done = subprocess.run(
        [BIN / "d3po", "plan", str(config)], env=environment, check=True, capture_output=True, text=True
    )
    return {name: float(re.search(rf"{name} +([\d.]+) s\b", done.stdout)[1]) for name in STAGES}


def taken(config: Path, environment: dict[str, str]) -> dict[str, float]:
    """What the epoch's stages took; what is in no stage is starts of processes, and orchestration."""
    begun = time.perf_counter()
    process = started(config, environment)
    log, sealed, reported = [], 0.0, 0.0
    for line in process.stdout:
        log.append(line)
        if "is sealed: content" in line:
            sealed = time.perf_counter()
        elif "Task run 'report" in line:
            reported = time.perf_counter()
    whole = time.perf_counter() - begun
    if process.wait() != 0:
        raise RuntimeError(f"d3po run ended with {process.returncode}:\n{''.join(log)[-3000:]}")
    text = "".join(log)
    stages = {name: sum(_seconds(text, patterns)) for name, patterns in TAKEN.items()} | {"report": reported - sealed}
    return dict(zip(STAGES, (*stages.values(), whole - sum(stages.values()), whole), strict=True))


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
            rounds.append({stage: [round(each[stage], 1) for each in both.values()] for stage in STAGES})
            print(json.dumps(rounds[-1]), flush=True)
    ratios = {stage: round(median(each[stage][0] / each[stage][1] for each in rounds), 2) for stage in STAGES}
    print(json.dumps({"foretold / taken, median": ratios}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps({"median ratio": ratios, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
