"""How much memory a computation takes at its peak, and how many evaluations fit into a micro-batch.

A micro-batch's size is part of what makes a training bit-identical, so it is chosen by bytes, which are the same each
time, and never by seconds, which are not.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from d3po_core.policy import Policy

__all__ = ["MOST_EVALUATIONS", "MicroBatch", "find_micro_batch", "forward_backward", "peak_bytes"]

MOST_EVALUATIONS = 64
"""More gains less than 2 % on the processors that were measured (benchmarks/README.md)."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A micro-batch's size and where it comes from."""

    evaluations: int
    """In one forward and backward."""
    bytes_each: int
    """What one more evaluation adds to the peak."""
    bytes_once: int
    """What does not depend on their number."""

    @property
    def bytes(self) -> int:
        """Its peak, above the loaded network."""
        return self.bytes_once + self.evaluations * self.bytes_each


def find_micro_batch(policy: Policy, budget: int) -> MicroBatch:
    """As many evaluations as fit into ``budget`` bytes above the loaded network: at least 1, at most 64.

    Measured by a forward and backward of one evaluation and of two.
    """
    forward_backward(policy, 1)  # what is set up once is not counted
    one, two = (peak_bytes(policy.device, partial(forward_backward, policy, count)) for count in (1, 2))
    each = max(1, two - one)
    once = max(0, one - each)
    return MicroBatch(max(1, min(MOST_EVALUATIONS, (budget - once) // each)), each, once)


def peak_bytes(device: torch.device, call: Callable[[], object]) -> int:
    """The most bytes of tensors that ``call`` holds at one moment, above what was held before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # The CPU's allocator keeps no count of its own; the profiler notes every allocation.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_bytes())["traceEvents"] if event["name"] == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        highest = max(highest, held)
    return highest


def forward_backward(policy: Policy, count: int) -> None:
    """What a micro-batch computes, on zeros: what is in the latents makes no difference to its bytes and seconds."""
    latents = torch.zeros(count, *policy.latent_shape, dtype=policy.latent_dtype)
    steps = torch.zeros(count, dtype=torch.int64)
    mean, _ = policy.transition(latents, steps, policy.null_embeds.expand(count, -1, -1))
    torch.autograd.grad(mean.sum(), list(policy.lora_parameters().values()))
