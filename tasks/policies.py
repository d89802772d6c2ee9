"""The policy of this process: loaded once, given the adapter that a task needs.

One policy per process and device: the adapter's state is the module's, so two tasks must not compute at once. The flows
call one after the other.
"""

import gc
import time

import torch

from d3po_core.checkpoint import CheckpointState
from d3po_core.devices import return_freed_memory, use_threads
from d3po_core.policy import Policy
from tasks.config import Configuration
from tasks.context import EpochContext
from tasks.log import logger

__all__ = ["policy_at_start", "policy_for", "release", "starting_state", "state_after"]

_loaded: tuple[str, Policy, dict[str, torch.Tensor]] | None = None
"""What it was loaded for, the policy, and its adapter as initialised."""


def policy_for(configuration: Configuration) -> Policy:
    """The process's policy with its adapter as initialised from the run seed."""
    global _loaded
    threads = configuration.orchestration.threads
    key = f"{threads} {configuration.model_dump_json(include={'model', 'sampling', 'lora', 'seed'})}"
    if _loaded is None or _loaded[0] != key:
        _loaded = None
        begun = time.perf_counter()
        policy = Policy.load(
            configuration.model,
            configuration.sampling,
            configuration.lora,
            threads=threads,
            lora_seed=configuration.seed,
        )
        _loaded = (key, policy, policy.lora_state())
        logger().info("the network was loaded in %.2f s", time.perf_counter() - begun)
    policy = _loaded[1]
    use_threads(threads)
    policy.load_lora_state(_loaded[2])
    return policy


def release() -> None:
    """Let the network go: another process is about to load its own."""
    global _loaded
    _loaded = None
    gc.collect()
    return_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def policy_at_start(context: EpochContext) -> Policy:
    """The policy that samples this epoch: the parent epoch's, or the pretrained model with a fresh adapter."""
    policy = policy_for(context.configuration)
    state = starting_state(context)
    if state is not None:
        policy.load_lora_state(state.lora)
    return policy


def starting_state(context: EpochContext) -> CheckpointState | None:
    """The parent epoch's sealed training state, which a fork has a copy of; None for the first epoch."""
    parent, epoch = context.plan["adapter_in"], context.epoch
    if parent is None:
        return None
    if "commit" in parent:
        return CheckpointState.load(epoch.fetch(epoch.latest(parent["commit"])))
    return state_after(context, parent["epoch"])


def state_after(context: EpochContext, number: int) -> CheckpointState:
    """The training state that epoch ``number`` ended with."""
    epoch = context.run.epoch(number)
    return CheckpointState.load(epoch.fetch(epoch.latest("train")))
