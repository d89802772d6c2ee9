"""The training process: ``python -m tasks.training.trainer``, alone or as the ranks of torchrun.

It reads the epoch's committed pairs and trajectories, commits checkpoints between optimizer steps and at last the
training itself. Its configuration comes in the environment (it holds no secrets). It ends by itself when the process
that started it dies, so that a rerun never meets a second trainer.
"""

import argparse
import os
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.startup import importing

with importing():
    import pandas  # noqa: F401  # pyarrow imports it with the first rows it takes: there, training waits for it
    import psutil
    import torch

    from d3po_core.checkpoint import CheckpointState
    from d3po_core.config import ObjectiveConfig
    from d3po_core.devices import peak_megabytes
    from d3po_core.errors import TrainingError
    from d3po_core.policy import Policy
    from d3po_core.training import train
    from storage.digests import content_digest
    from storage.errors import StorageError
    from storage.run import Run
    from storage.tables import METRICS, read_rows, write_table
    from tasks.config import Configuration
    from tasks.context import EpochContext
    from tasks.errors import UserError
    from tasks.policies import policy_at_start, starting_state
    from tasks.training.pretrained import needs_reference, stored_reference
    from tasks.training.source import StoredTrajectories
    from tasks.training.training_plan import pairs_of, rewards_of, training_plan

__all__ = ["main"]


class Metrics:
    """The rows of ``metrics.parquet``, 24 bytes each: they grow with the steps, and a row of Python objects takes ten times that."""

    def __init__(self) -> None:
        self._steps, self._names, self._values = array("q"), list[str](), array("d")

    def add(self, step: int, name: str, value: float) -> None:
        self._steps.append(step)
        self._names.append(sys.intern(name))
        self._values.append(value)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step, name, value in zip(self._steps, self._names, self._values, strict=True):
            yield {"step": step, "name": name, "value": value}


class Attempt:
    """One training attempt as the loop's callbacks see it: metrics gathered, checkpoints committed."""

    def __init__(self, context: EpochContext, attempt: str) -> None:
        self.context, self.attempt = context, attempt
        self.metrics = Metrics()
        self._damaged: set[str] = set()

    def resume(self) -> CheckpointState | None:
        """The last committed checkpoint that is whole, and the metrics up to it; damaged ones are made again."""
        prefix = f"checkpoint-{self.attempt}-"
        names = sorted(name for name in self.context.epoch.commit_numbers() if name.startswith(prefix))
        for name in reversed(names):
            try:
                folder = self.context.epoch.fetch(self.context.epoch.latest(name))
                state, metrics = CheckpointState.load(folder), read_rows(Path(folder, "metrics.parquet"), METRICS)
            except (StorageError, ValueError) as damage:
                print(f"checkpoint {name} is passed over: {damage}", flush=True)
                self._damaged.add(name)
                continue
            for row in metrics:
                self.metrics.add(**row)
            print(f"resuming from checkpoint {name}", flush=True)
            return state
        return None

    def on_metrics(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.metrics.add(step, name, float(value))
        shown = "  ".join(f"{name.partition('/')[2]} {value:.5g}" for name, value in values.items())
        print(f"optimizer step {step}: {shown}", flush=True)

    def on_checkpoint(self, state: CheckpointState) -> None:
        self._commit(f"checkpoint-{self.attempt}-{state.step:06d}", state)

    def finish(self, state: CheckpointState) -> None:
        self._commit("train", state, {"train_attempt": self.attempt})

    def _commit(self, name: str, state: CheckpointState, details: dict | None = None) -> None:
        staged = self.context.epoch.begin(name, f"training/{self.attempt}/final" if name == "train" else None)
        state.save(staged.path)
        write_table(staged.path / "metrics.parquet", self.metrics, METRICS)
        self.context.epoch.commit(staged, details, _content(state), supersede=name in self._damaged)


def _content(state: CheckpointState) -> dict[str, str]:
    """What of a training is content: the adapter's and the optimizer's tensors, by name and bytes."""
    moments = {f"exp_avg/{name}": value for name, value in state.exp_avg.items()}
    moments |= {f"exp_avg_sq/{name}": value for name, value in state.exp_avg_sq.items()}
    return {
        "adapter": content_digest({name: value.numpy() for name, value in state.lora.items()}),
        "optimizer": content_digest({name: value.numpy() for name, value in moments.items()}),
    }


def _untrained(context: EpochContext, policy: Policy) -> CheckpointState:
    """The state of a first epoch in which there was nothing to train on."""
    lora = policy.lora_state()
    # Tensors of their own for each moment: safetensors stores none twice.
    first, second = ({name: torch.zeros_like(value) for name, value in lora.items()} for _ in range(2))
    return CheckpointState(
        lora=lora,
        exp_avg=first,
        exp_avg_sq=second,
        optimizer_steps=0,
        step=0,
        steps_total=0,
        inner_epoch=0,
        objective_state={},
        run_seed=context.configuration.seed,
        epoch=context.number,
        settings={},
    )


def run(context: EpochContext, attempt_id: str) -> None:
    """Train, from the last checkpoint if there is one, and commit."""
    first_rank = int(os.environ.get("RANK", "0")) == 0
    begun = time.perf_counter()
    epoch = context.epoch
    attempt = Attempt(context, attempt_id)
    plan = next(commit for commit in epoch.history("train-plan") if commit.attempt == attempt_id)
    configuration = context.configuration
    loading = time.perf_counter()
    policy = policy_at_start(context)
    loading = time.perf_counter() - loading
    frozen = training_plan(epoch, plan)
    source, pairs, rewards = StoredTrajectories(context), pairs_of(context, plan), rewards_of(context, plan)
    if not pairs and not rewards:
        if first_rank:
            attempt.finish(starting_state(context) or _untrained(context, policy))
        return
    result = train(
        policy,
        source,
        pairs,
        _objective(context),
        configuration.training.model_copy(update={"micro_batch": frozen["micro_batch"]}),
        run_seed=configuration.seed,
        epoch=context.number,
        rewards=rewards,
        resume=attempt.resume(),
        initial_state=starting_state(context),
        reference_log_probs=stored_reference(context),
        data_metrics=frozen["metrics"],
        on_checkpoint=attempt.on_checkpoint,
        on_metrics=attempt.on_metrics,
    )
    if first_rank:
        attempt.finish(result.state)
        spent = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result.seconds.items())
        print(f"training took {time.perf_counter() - begun:.2f} s: loading {loading:.2f} s, {spent}", flush=True)
        print(f"the trainer's peak memory: {peak_megabytes(policy.device):.0f} MB", flush=True)


def _objective(context: EpochContext) -> ObjectiveConfig:
    """As configured; in a run's first epoch the pretrained model is the policy that sampled, whose log-probs are known."""
    objective = context.configuration.objective
    if objective.reference is None or objective.spec.quantity != "log_prob" or needs_reference(context):
        return objective
    return objective.model_copy(update={"reference": "epoch_start"})


def main() -> int:
    """Parse the arguments, train, and explain what went wrong in lines that begin with ``error:``."""
    parser = argparse.ArgumentParser(description="train one epoch (started by the pipeline)")
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--attempt", required=True)
    arguments = parser.parse_args()
    if os.environ.get("RANK", "0") == "0":
        print(f"the trainer started in {time.time() - float(os.environ['D3PO_STARTED_AT']):.2f} s", flush=True)
    _end_with_parent()
    configuration = Configuration.model_validate_json(os.environ["D3PO_CONFIGURATION"])
    context = EpochContext(
        configuration=configuration,
        run=Run.open(configuration.storage.root, configuration.run),
        number=arguments.epoch,
    )
    try:
        run(context, arguments.attempt)
    except (StorageError, UserError, TrainingError, ValueError) as error:
        print(f"error: {error}", flush=True)
        return 2
    return 0


def _end_with_parent() -> None:
    number = os.environ.get("D3PO_PARENT_PID")
    if number is None:
        return
    parent = psutil.Process(int(number))

    def watch() -> None:
        # It may be gone between the two questions. A killed parent can stay a zombie for as long as nobody reaps it.
        with suppress(psutil.NoSuchProcess):
            while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Everything is committed or explained. Tearing the interpreter down would take two seconds more, for nothing.
    os._exit(status)
