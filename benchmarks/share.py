"""What orchestration and storage take of a demo epoch: everything but computing, starts of processes, and drawing.

    python -m benchmarks.share --out benchmarks/share.json

A programmed epoch by `d3po run CONFIG --here` against a Prefect server of its own; its log says where the seconds went.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.whole_epochs import prefect_server, started, written
from tasks.config_reading import load_configuration

COMPUTING = (
    r"computed in ([\d.]+) s",
    r"encoded in ([\d.]+) s",
    r"computing ([\d.]+) s",
)
BESIDE = (r"found in ([\d.]+) s", r"drawn in ([\d.]+) s")
STARTING = (r"started in ([\d.]+) s", r"loaded in ([\d.]+) s", r"loading ([\d.]+) s")
STORING = r"stored in ([\d.]+) s"
READING_WRITING = (r"reading ([\d.]+) s", r"writing ([\d.]+) s")
BEGINNING = "Beginning flow run"


def measure(folder: Path, config: Path, name: str, environment: dict[str, str]) -> dict[str, Any]:
    """One epoch's seconds: all of the flow run, and its parts by the log."""
    configuration = load_configuration(config).model_copy(update={"run": name})
    process = started(written(configuration, folder), environment)
    log, begun, ended = [], time.time(), 0.0
    for line in process.stdout:
        log.append(f"{time.time():.2f} {line}")
        begun = time.time() if BEGINNING in line else begun
        ended = time.time()
    (folder / f"{name}.log").write_text("".join(log))
    if process.wait() != 0:
        raise RuntimeError(f"d3po run ended with {process.returncode}:\n{''.join(log)[-3000:]}")
    seconds, text = ended - begun, "".join(log)
    computing, starting, beside = (_sum(text, patterns) for patterns in (COMPUTING, STARTING, BESIDE))
    storing = [float(found) for found in re.findall(STORING, text)]
    # All shards but the last are stored while the next is computed, and take that time from it: count it as storing.
    computing -= sum(storing[:-1])
    rest = seconds - computing - starting - beside
    return {
        "flow run": round(seconds, 2),
        "computing": round(computing, 2),
        "starts of processes, networks read": round(starting, 2),
        "finding the micro-batch, drawing the report": round(beside, 2),
        "orchestration and storage": round(rest, 2),
        "of these storing shards, reading and writing of training": round(
            sum(storing) + _sum(text, READING_WRITING), 2
        ),
        "share of computing": round(rest / computing, 4),
    }


def _sum(text: str, patterns: tuple[str, ...]) -> float:
    return sum(float(found) for pattern in patterns for found in re.findall(pattern, text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--log", action="store_true", help="print each epoch's log with times")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)) as environment:
        found = []
        for number in range(arguments.rounds):
            found.append(measure(Path(folder), arguments.config, f"share-{number}", environment))
            if arguments.log:
                print(Path(folder, f"share-{number}.log").read_text())
            print(found[-1], flush=True)
    summary = {name: round(median(each[name] for each in found), 4) for name in found[0]}
    print(json.dumps(summary, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps({"median": summary, "rounds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
