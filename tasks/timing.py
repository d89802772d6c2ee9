"""How fast this device is with this model: a few real steps of sampling and of training, timed."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from d3po_core.devices import peak_megabytes, use_threads
from d3po_core.memory import forward_backward
from d3po_core.policy import Policy
from d3po_core.records import Trajectories
from storage.disk import sync_tree
from storage.files import digest_files
from storage.trajectories import write_shard
from tasks.config import Configuration
from tasks.generation.shards import to_arrays
from tasks.reports.figures import side_by_side
from tasks.reports.plots import Line, Panel, panel

__all__ = ["StepTimes", "drawing_seconds", "median_seconds", "time_steps"]

ROUNDS = 5
PANELS = 25
"""Of an epoch's curves and of its run's page, about; the first takes the plotting library's import as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds, each the median of a few rounds after one that warms up."""

    sampled_evaluation: float
    """An image at one denoising step, in a generation batch: without gradient, the adapter in the weights."""
    unmerged_evaluation: float
    """An image at one transition, in a micro-batch: without gradient, the adapter beside the weights."""
    decoded_image: float
    """x_0 to pixels."""
    stored_image: float
    """Its latents and its PNG on this machine's disk, digested and synced."""
    trained_evaluation: float
    """An image at one transition, forward and backward, in a micro-batch."""
    start: float
    """A process that trains: its imports, and the network read."""
    orchestration_import: float
    """What a flow's process imports beside: Prefect."""
    peak_megabytes: float
    """On a GPU what was allocated at most, else the process's peak resident memory; in 10^6 bytes."""


def time_steps(policy: Policy, configuration: Configuration, rows: int) -> StepTimes:
    """Time both phases on noise: what is in the latents makes no difference to the time. A process is started too.

    Args:
        policy: Of that configuration.
        configuration: What is to be run.
        rows: The micro-batch.
    """
    use_threads(policy.threads)
    sampling = configuration.sampling
    batch = sampling.groups_per_batch * sampling.group_size
    policy.use_gradient_checkpointing(configuration.training.gradient_checkpointing)
    if policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(policy.device)
    embeds = policy.encode([""])
    latents = torch.randn(batch, *policy.latent_shape).to(policy.device, policy.latent_dtype)

    @torch.no_grad()
    def sample() -> None:
        with policy.merged():
            policy.transition(latents, 0, embeds.expand(batch, -1, -1))

    @torch.no_grad()
    def pass_first() -> None:
        states = torch.zeros(rows, *policy.latent_shape, dtype=policy.latent_dtype)
        policy.transition(states, 0, policy.null_embeds.expand(rows, -1, -1))

    step, decoding = median_seconds(policy, sample), median_seconds(policy, lambda: policy.decode(latents))
    training = median_seconds(policy, lambda: forward_backward(policy, rows)) / rows
    unmerged = median_seconds(policy, pass_first) / rows
    peak = peak_megabytes(policy.device)
    return StepTimes(
        sampled_evaluation=step / batch,
        unmerged_evaluation=unmerged,
        decoded_image=decoding / batch,
        stored_image=median_seconds(policy, lambda: _store(policy, latents)) / batch,
        trained_evaluation=training,
        start=_start(configuration),
        orchestration_import=_process("import prefect.flows, prefect.tasks", {}),
        peak_megabytes=peak,
    )


def _store(policy: Policy, latents: torch.Tensor) -> None:
    """What a shard of these images takes on its way to the disk, in the folder for temporary files."""
    count, steps = len(latents), len(policy.schedule)
    path = latents[:, None].expand(-1, steps + 1, -1, -1, -1).cpu().contiguous()
    ids = tuple(f"t{number:06d}-0" for number in range(count))
    record = Trajectories(
        ids=ids,
        group_ids=tuple(id.partition("-")[0] for id in ids),
        prompts=("",) * count,
        latents=path,
        log_prob=torch.where(policy.schedule.trainable, 0.0, torch.nan).double().expand(count, -1).contiguous(),
        timesteps=policy.schedule.timesteps,
        trainable=policy.schedule.trainable,
        images=np.random.default_rng(0).integers(0, 256, (count, policy.image_size, policy.image_size, 3), np.uint8),
    )
    shard = to_arrays([record], count, {})
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder), shard.arrays, shard.images)
        digest_files(Path(folder))
        sync_tree(Path(folder))


def _start(configuration: Configuration) -> float:
    """A process that imports what the trainer does and reads the network."""
    code = (
        "import os; from tasks.training import trainer; from tasks.policies import policy_for; from tasks.config import Configuration; "
        "policy_for(Configuration.model_validate_json(os.environ['D3PO_CONFIGURATION']))"
    )
    return _process(code, {"D3PO_CONFIGURATION": configuration.model_dump_json()})


def _process(code: str, environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True)
    return time.perf_counter() - begun


def drawing_seconds(image_size: int, held_out: int) -> float:
    """What the pages of an epoch and of its run take to draw here: pictures before and after, and plots."""
    begun = time.perf_counter()
    if held_out:
        noise = np.random.default_rng(0).integers(0, 256, (held_out, image_size, image_size, 3), np.uint8)
        side_by_side({"before": list(noise), "after": list(noise)}, [""] * held_out)
    plot = Panel(title="", x_label="", lines=[Line(name="", x=range(8), y=range(8))])
    panel(plot)
    first = time.perf_counter() - begun
    return first + (PANELS - 1) * _median(lambda: panel(plot))


def median_seconds(policy: Policy, call: Callable[[], object]) -> float:
    """Of a few rounds after one that warms up, each until the device has done it."""

    def done() -> None:
        call()
        if policy.device.type == "cuda":
            torch.cuda.synchronize(policy.device)

    return _median(done)


def _median(call: Callable[[], object]) -> float:
    """One round alone may meet a garbage collection; the first warms up."""
    times = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return median(times[1:])
