"""How large the micro-batches of a training are: as configured, or as many evaluations as the memory budget allows."""

import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from d3po_core.memory import find_micro_batch
from d3po_core.policy import Policy
from storage.epoch import Epoch
from tasks.config import Configuration
from tasks.generation.shards import prompt_embeds
from tasks.log import logger
from tasks.policies import policy_for

__all__ = ["micro_batch"]


def micro_batch(configuration: Configuration, epoch: Epoch | None = None) -> int:
    """The configured micro-batch, or the largest that fits into the memory budget; the log says which and why.

    Args:
        configuration: With the network to be trained.
        epoch: Whose stored embedding spares loading the text encoder.
    """
    training = configuration.training
    if training.micro_batch is not None:
        logger().info("micro-batch: %d network evaluations, as configured", training.micro_batch)
        return training.micro_batch
    policy = policy_for(configuration)
    if epoch is not None:
        policy.use_null_embeds(prompt_embeds(epoch, [""])[""])
    begun = time.perf_counter()
    policy.use_gradient_checkpointing(training.gradient_checkpointing)
    budget = (
        training.memory_budget_mb * 10**6 if training.memory_budget_mb else _half_of_the_memory(configuration, policy)
    )
    found = find_micro_batch(policy, budget)
    logger().info(
        "micro-batch: %d network evaluations, %.0f MB above the loaded network (%.1f MB each; budget %.0f MB), found in %.2f s",
        found.evaluations,
        found.bytes / 1e6,
        found.bytes_each / 1e6,
        budget / 1e6,
        time.perf_counter() - begun,
    )
    return found.evaluations


def _half_of_the_memory(configuration: Configuration, policy: Policy) -> int:
    """Half of what a training process has for itself: a GPU that is its own, or its part of what it shares."""
    processes = configuration.orchestration.training_processes
    if policy.device.type == "cuda":
        own = configuration.model.device in ("auto", "cuda")
        return torch.cuda.get_device_properties(policy.device).total_memory // 2 // (1 if own else processes)
    limits = [psutil.virtual_memory().total]
    with suppress(OSError, ValueError):  # in a container; "max" is no number
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits) // 2 // processes
