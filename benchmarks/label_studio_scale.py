"""Planning, pushing and pulling an epoch of many groups through a real Label Studio: seconds and memory.

    python -m benchmarks.label_studio_scale --groups 30000 --out benchmarks/label_studio_scale.json

Starts a Label Studio of its own (SQLite), measures an epoch of 300 groups and one of ``--groups``, and checks that the
pulled judgements are the ones that were given. Each step is the product's own function in a process of its own, whose
peak of resident memory the kernel keeps. Trajectories and people's answers are synthetic and not timed.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.large_epoch import (
    answer_everything,
    answers_read_alike,
    judgements_given,
    judgements_pulled,
    write_shards,
)
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.context import EpochContext, create_run, open_run
from tasks.generation.plan import make_plan
from tasks.labels.first_look import CAREFUL_UP_TO, too_few_answers
from tasks.labels.pull import labels_complete, labels_progress, pull
from tasks.labels.push import push
from tests.support.label_studio import DATABASE, LabelStudioServer, running_label_studio

FEW = 300
GROUPS_PER_SHARD = 320


def main() -> None:
    """Print and write what each step took, by number of groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=30000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder, running_label_studio(Path(folder) / "label-studio") as server:
        os.environ |= {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.api_key}
        for groups in (FEW, arguments.groups):
            found[groups] = measured(configured(server.document_root, groups), server)
            print(json.dumps({groups: found[groups]}, indent=1), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def configured(root: Path, groups: int) -> Configuration:
    """The demo's configuration with so many groups, each with a prompt of its own."""
    prompts = root / f"prompts-{groups}.txt"
    prompts.write_text("".join(f"picture number {number}\n" for number in range(groups)))
    return load_configuration(
        "configs/demo.yaml",
        [
            *("--run", f"scale-{groups}", "--storage.root", str(root)),
            *("--prompts.file", str(prompts), "--prompts.groups_per_epoch", str(groups)),
            *("--orchestration.groups_per_shard", str(GROUPS_PER_SHARD)),
        ],
    )


def measured(configuration: Configuration, server: LabelStudioServer) -> dict[str, Any]:
    """Every step's seconds and memory, of one new run."""
    context = EpochContext(configuration=configuration, run=create_run(configuration), number=0)
    steps = {"plan": in_own_process(plan_step, configuration)}
    write_shards(context)
    steps["push"] = in_own_process(push_step, configuration)
    steps["first look"] = in_own_process(first_look_step, configuration)
    answer_everything(context, server.connect(seconds=60), server.data / DATABASE)
    steps["progress"] = in_own_process(progress_step, configuration)
    steps["pull"] = in_own_process(pull_step, configuration)
    export = context.epoch.fetch(context.epoch.latest("pull"), "export.json.gz")
    pulled = judgements_pulled(context)
    if len(pulled) != configuration.prompts.groups_per_epoch or pulled != judgements_given(context):
        raise AssertionError("the pulled judgements are not the ones that were given")
    if not answers_read_alike(export):
        raise AssertionError("the answers that were written to the database do not read like those through the API")
    return {"steps": steps, "judgements": len(pulled), "export_mb": round(export.stat().st_size / 1e6, 2)}


def plan_step(context: EpochContext) -> None:
    make_plan(context)


def push_step(context: EpochContext) -> None:
    push.fn(context)


def first_look_step(context: EpochContext) -> None:
    answers = too_few_answers(context, datetime(2026, 1, 1, 9, 31, tzinfo=UTC))
    if (answers is None) != (len(context.groups()) <= CAREFUL_UP_TO):
        raise AssertionError(f"nobody has answered, and a first look says {answers}")


def progress_step(context: EpochContext) -> None:
    if not labels_complete(context, labels_progress(context)):
        raise AssertionError("every group was answered, and some count as open")


def pull_step(context: EpochContext) -> None:
    pull.fn(context)


def in_own_process(step: Callable[[EpochContext], None], configuration: Configuration) -> dict[str, float]:
    """Seconds and memory of a step in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed, step, configuration).result()


def _timed(step: Callable[[EpochContext], None], configuration: Configuration) -> dict[str, float]:
    context = EpochContext(configuration=configuration, run=open_run(configuration), number=0)
    imported = _peak_mb()
    begun = time.perf_counter()
    step(context)
    return {"seconds": round(time.perf_counter() - begun, 2), "imports_mb": imported, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    """The most resident memory that this process had; ``getrusage`` counts in what forked it."""
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(kilobytes) * 1024 / 1e6, 1)


if __name__ == "__main__":
    main()
