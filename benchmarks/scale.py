"""Does memory stay flat, and does a trajectory cost the same, from a hundred trajectories to ten thousand?

    python -m benchmarks.scale --out benchmarks/scale.json

Whole programmed epochs by `d3po run CONFIG --here` against a Prefect server of their own: T = 4, of which the first two
transitions are trained on, in shards and optimizer steps of 10 groups, five of them for 100 trajectories: one shard is
computed while another is stored at every size, so that what is compared is not one shard with two, and no step is
smaller than the others. A small run is over in seconds, so it is measured several times. Resident memory is sampled five
times a second, of the flow's process (generate, then judge) and of the training process, and its peak taken in each tenth
of the time too; the peak of a whole training is what the trainer says. What a trajectory costs comes from the times of the
shards' commits and of the trainer's steps, in tenths of the run.
"""

import argparse
import itertools
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import psutil

from benchmarks.whole_epochs import prefect_server, started, written
from d3po_core.config import TrainingConfig
from storage.run import Run
from tasks.config_reading import load_configuration

SIZES = (100, 100, 100, 100, 100, 1_000, 10_000)
AT_ONCE = 20
"""Trajectories of a shard, and of an optimizer step: 10 groups of two."""


def measure(folder: Path, config: Path, trajectories: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run one epoch of this size; megabytes of each stage, and milliseconds a trajectory in tenths."""
    own = _configuration(folder, config, trajectories)
    log = (folder / f"{trajectories}.log").open("w+")
    process = started(own, environment)
    steps: list[float] = []
    reader = threading.Thread(target=_read, args=(process, log, steps))
    reader.start()
    samples = list(_samples(psutil.Process(process.pid)))
    reader.join()
    if process.wait() != 0:
        log.seek(0)
        raise RuntimeError(f"d3po run ended with {process.returncode}:\n{log.read()[-3000:]}")
    epoch = Run.open(str(folder / "runs"), f"scale-{trajectories}").epoch(0)
    stored = sorted(_seconds(commit.time) for name, commit in epoch.latest_all().items() if name.startswith("shard-"))
    judged = _seconds(epoch.latest("pull").time)
    return {
        "trajectories": trajectories,
        "megabytes": {
            "generate": _peak(samples, "flow", 0, stored[-1]),
            "judge": _peak(samples, "flow", stored[-1], judged + 0.5),
            "train": _said_peak(log),
            "flow, meanwhile and to the end": _peak(samples, "flow", judged + 0.5, time.time()),
        },
        "megabytes in tenths": {
            "generate": _peaks(samples, "flow", stored[0], stored[-1]),
            "train": _peaks(samples, "train", steps[0], steps[-1]),
        },
        "generate, ms a trajectory": _tenths(stored, trajectories),
        "train, ms a trajectory": _tenths(steps, trajectories),
        "all but the first, ms a trajectory": {
            "generate": _mean(stored, trajectories),
            "train": _mean(steps, trajectories),
        },
        "seconds": round(samples[-1][0] - samples[0][0], 1),
    }


def _configuration(folder: Path, config: Path, trajectories: int) -> Path:
    whole = load_configuration(config)
    training = TrainingConfig(
        learning_rate=1e-4, groups_per_step=AT_ONCE // 2, first_transitions=2, checkpoint_every=100
    )
    changed = whole.model_copy(
        update={
            "run": f"scale-{trajectories}",
            "sampling": whole.sampling.model_copy(update={"num_inference_steps": 4, "groups_per_batch": AT_ONCE // 2}),
            "orchestration": whole.orchestration.model_copy(update={"groups_per_shard": AT_ONCE // 2}),
            "prompts": whole.prompts.model_copy(update={"groups_per_epoch": trajectories // 2}),
            "evaluation": whole.evaluation.model_copy(update={"prompts": None}),
            "training": training,
        }
    )
    return written(changed, folder)


def _read(process: subprocess.Popen, log, steps: list[float]) -> None:
    for line in process.stdout:
        log.write(line)
        if "optimizer step" in line:
            steps.append(time.time())


def _samples(flow: psutil.Process) -> Iterator[tuple[float, str, float]]:
    """(time, which process, resident megabytes) until the flow's process ends."""
    while True:
        try:
            if flow.status() == psutil.STATUS_ZOMBIE:
                return
            yield time.time(), "flow", flow.memory_info().rss / 1e6
            for child in flow.children(recursive=True):
                if "tasks.training.trainer" in " ".join(child.cmdline()):
                    yield time.time(), "train", child.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            if not flow.is_running():
                return
        time.sleep(0.2)


def _said_peak(log: TextIO) -> float:
    """The trainer's own word: it ends right after its largest moment, which samples may miss."""
    log.seek(0)
    (megabytes,) = re.findall(r"the trainer's peak memory: (\d+) MB", log.read())
    return float(megabytes)


def _peak(samples: list[tuple[float, str, float]], who: str, begin: float, end: float) -> float:
    return round(max((size for at, name, size in samples if name == who and begin <= at <= end), default=0.0), 1)


def _peaks(samples: list[tuple[float, str, float]], who: str, begin: float, end: float) -> list[float]:
    """The peak in each tenth of the time: does it grow, or is there a level?"""
    marks = [begin + (end - begin) * part / 10 for part in range(11)]
    peaks = [_peak(samples, who, *between) for between in itertools.pairwise(marks)]
    return [peak for peak in peaks if peak]  # a short run has tenths in which nobody looked


def _tenths(times: list[float], trajectories: int) -> list[float]:
    """Milliseconds a trajectory in up to ten stretches of the run; what comes before the first mark is not counted."""
    parts = min(10, len(times) - 1)
    marks = [round(part * (len(times) - 1) / parts) for part in range(parts + 1)] if parts else []
    return [_cost(times, before, after, trajectories) for before, after in itertools.pairwise(marks)]


def _mean(times: list[float], trajectories: int) -> float:
    """Milliseconds a trajectory over everything after the first mark."""
    return _cost(times, 0, len(times) - 1, trajectories)


def _cost(times: list[float], before: int, after: int, trajectories: int) -> float:
    """Between two marks, each set when so many trajectories more are done, the last with what was left."""
    done = min((after + 1) * AT_ONCE, trajectories) - (before + 1) * AT_ONCE
    return round((times[after] - times[before]) / done * 1e3, 2)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)) as environment:
        for place, size in enumerate(arguments.sizes):
            own = Path(folder, str(place))
            own.mkdir()
            found.append(measure(own, arguments.config, size, environment))
            print(json.dumps(found[-1], indent=1), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
