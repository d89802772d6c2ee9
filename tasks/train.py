"""Train an epoch: pairs from judgements into a training attempt, then the training in a process of its own.

A separate process can be killed, gives its memory back, and is the same for one rank and for many. What it has finished
is in its checkpoints; a training that is started again goes on from the last one.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from d3po_core.preferences import PreferenceStatistics, judgements_to_pairs
from d3po_core.records import Pair
from d3po_core.training import default_micro_batch
from storage.commits import Commit
from storage.errors import ConfigurationChangedError
from storage.tables import PAIRS, read_rows, rows_digest, write_table
from tasks.artifacts import publish_pairs
from tasks.config import changed_fields
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.log import flow_run_id, logger
from tasks.policies import release
from tasks.pull import judgements_of

__all__ = ["TRAINING_FORMAT", "pairs_of", "train", "training_attempt"]

TRAINING_FORMAT = "d3po-training/1"


@task(name="train", cache_policy=NO_CACHE, persist_result=False)
def train(context: EpochContext, retrain: bool = False) -> str:
    """The epoch's training, started or continued; returns the digest of what it committed.

    Args:
        context: The epoch.
        retrain: Open a new attempt with the configuration as it is now, after one that failed or was stopped.
    """
    epoch = context.epoch
    if epoch.latest("train") is None:
        attempt = training_attempt(context, retrain)
        if flow_run_id() is not None:
            publish_pairs(context, attempt)
        release()  # the trainer has a network of its own
        _run_trainer(context, attempt)
    commit = epoch.latest("train")
    if commit is None:
        raise UserError(
            f"the training of epoch {context.number} ended without a result",
            remedy=f"d3po run CONFIG goes on from its last checkpoint; d3po status {run_folder(context.configuration)}",
        )
    return commit.digest


def training_attempt(context: EpochContext, retrain: bool = False) -> Commit:
    """The open training attempt; a new one where there is none or ``retrain`` asks for it.

    Raises:
        ConfigurationChangedError: The open attempt was begun with other training fields.
    """
    epoch = context.epoch
    existing, flow_run = epoch.latest("train-plan"), flow_run_id()
    # A flow run that was asked to begin again does so once, however often it is itself retried.
    if existing is not None and not (retrain and (flow_run is None or existing.details.get("flow_run") != flow_run)):
        frozen = json.loads(epoch.fetch(existing, "plan.json").read_text())["frozen"]
        changes = changed_fields(context.configuration.section_of_class("training"), frozen)
        if changes:
            raise ConfigurationChangedError(
                f"the training of epoch {context.number} was begun with other values:\n  " + "\n  ".join(changes),
                remedy="put these fields back, or d3po run CONFIG --retrain to begin a new attempt with them",
            )
        return existing
    pairs, statistics = judgements_to_pairs(judgements_of(context), context.configuration.training.votes)
    attempt = epoch.begin("train-plan")
    body = {
        "format": TRAINING_FORMAT,
        "frozen": context.configuration.section_of_class("training"),
        "micro_batch": context.configuration.training.micro_batch or default_micro_batch(_latent_shape(context)),
        "statistics": asdict(statistics),
        "metrics": statistics.metrics(),
        "training_processes": context.configuration.orchestration.training_processes,
    }
    (attempt.path / "plan.json").write_text(json.dumps(body, indent=1))
    write_table(attempt.path / "pairs.parquet", _rows(pairs), PAIRS)
    commit = epoch.commit(
        attempt,
        {"pairs": len(pairs), "flow_run": flow_run},
        {"pairs": rows_digest(_rows(pairs), PAIRS)},
        supersede=existing is not None,
    )
    _log_statistics(statistics, pairs)
    return commit


def _latent_shape(context: EpochContext) -> tuple[int, int, int]:
    """(C, H, W), as the shards' commits have it."""
    channels, height, width = context.epoch.latest(next(iter(context.plan["shards"]))).details["latent_shape"]
    return channels, height, width


def pairs_of(context: EpochContext, attempt: Commit) -> list[Pair]:
    """The pairs that a training attempt froze."""
    return [Pair(**row) for row in read_rows(context.epoch.fetch(attempt, "pairs.parquet"), PAIRS)]


def _run_trainer(context: EpochContext, attempt: Commit) -> None:
    """Run ``tasks.trainer`` and stream its lines; it is terminated when this task ends for whatever reason."""
    # An attempt keeps the number that it was begun with: sums over ranks depend on it.
    processes = json.loads(context.epoch.fetch(attempt, "plan.json").read_text())["training_processes"]
    command = [sys.executable, "-u", "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m"]
    command += ["tasks.trainer", "--epoch", str(context.number), "--attempt", attempt.attempt]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(context.configuration.orchestration.threads),
        "MKL_DYNAMIC": "FALSE",
        "D3PO_PARENT_PID": str(os.getpid()),
        "D3PO_CONFIGURATION": context.configuration.model_dump_json(),
    }
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    last_lines: list[str] = []
    explained: list[str] = []
    try:
        for line in process.stdout:
            logger().info(line.rstrip())
            last_lines = [*last_lines[-7:], line.rstrip()]
            # An explained error, with the lines that belong to it; torchrun says much more after it.
            if line.startswith("error: "):
                explained = [line.rstrip()]
            elif explained and line.startswith("  "):
                explained.append(line.rstrip())
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    if process.returncode != 0:
        raise _failure(context, process.returncode, explained[:20] or last_lines)


def _failure(context: EpochContext, code: int, explained: list[str]) -> UserError:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return UserError(
        f"the training of epoch {context.number} {how}:\n  " + "\n  ".join(explained),
        remedy="d3po run CONFIG goes on from the last checkpoint; --retrain begins again with changed training fields",
    )


def _rows(pairs: tuple[Pair, ...]) -> list[dict[str, Any]]:
    return [{field: getattr(pair, field) for field in Pair.__slots__} for pair in pairs]


def _log_statistics(statistics: PreferenceStatistics, pairs: tuple[Pair, ...]) -> None:
    log = logger()
    log.info("%d pairs from %d judgements: %s", len(pairs), statistics.judgements, statistics.metrics())
    for item in statistics.contradictions:
        log.warning(
            "%s judged %s twice and otherwise: %s counts, %s does not",
            item.judge,
            item.group_id,
            item.counted,
            item.earlier,
        )
    if not pairs:
        log.warning("no pair to train on: every comparison was a tie or undecided; the adapter stays as it was")
