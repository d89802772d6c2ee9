"""Train an epoch, in a process of its own.

A separate process can be killed, gives its memory back, and is the same for one rank and for many. What it has finished
is in its checkpoints; a training that is started again goes on from the last one.
"""

import os
import subprocess
import sys
import time

from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.commits import Commit
from tasks.artifacts import publish_pairs
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.log import flow_run_id, logger
from tasks.policies import release
from tasks.programmed import release as release_objectives
from tasks.training.attempt import training_attempt
from tasks.training.training_plan import training_plan

__all__ = ["train"]


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
        # The trainer has a network of its own.
        release_objectives()
        release()
        _run_trainer(context, attempt)
    commit = epoch.latest("train")
    if commit is None:
        raise UserError(
            f"the training of epoch {context.number} ended without a result",
            remedy=f"d3po run CONFIG goes on from its last checkpoint; d3po status {run_folder(context.configuration)}",
        )
    return commit.digest


def _run_trainer(context: EpochContext, attempt: Commit) -> None:
    """Run ``tasks.training.trainer`` and stream its lines; it is terminated when this task ends for whatever reason."""
    # An attempt keeps the number that it was begun with: sums over ranks depend on it.
    processes = training_plan(context.epoch, attempt)["training_processes"]
    command = [sys.executable, "-u", "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m"]
    command += ["tasks.training.trainer", "--epoch", str(context.number), "--attempt", attempt.attempt]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(context.configuration.orchestration.threads),
        "MKL_DYNAMIC": "FALSE",
        "D3PO_PARENT_PID": str(os.getpid()),
        "D3PO_STARTED_AT": str(time.time()),
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
