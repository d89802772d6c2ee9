"""The processes that train together. accelerate gives the device and the collectives; nothing is prepared or sharded
by it.

A process that fails makes the others fail with its message at the next ``together``, instead of waiting for it for
ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import Accelerator

from d3po_core.errors import TrainingError

__all__ = ["Ranks"]


class Ranks:
    """This process among the others (torchrun's), or alone."""

    def __init__(self, device: torch.device, accelerator: Accelerator | None = None) -> None:
        # mixed_precision stays off: the policy's own autocast is the same when sampling and training.
        self._accelerator = accelerator or Accelerator(cpu=device.type == "cpu", mixed_precision="no")
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: tuple[str, ...]) -> list[int]:
        """The places in ``items`` that are this process's own: dealt in turn."""
        return list(range(self.rank, len(items), self.count))

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of this tensor over all processes."""
        if self.count == 1:
            return tensor
        summed = tensor.contiguous().clone()
        dist.all_reduce(summed, op=dist.ReduceOp.SUM)
        return summed

    def gather(self, value: object) -> list:
        """Every process's value, in order of rank."""
        if self.count == 1:
            return [value]
        values: list = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work that all processes finish, or all fail: leaving it waits for the others and shares their failure."""
        failure: BaseException | None = None
        try:
            yield
        except Exception as problem:
            failure = problem
        reports = self.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, report in enumerate(reports):
            if report is not None:
                raise TrainingError(f"Process {rank} of {self.count} failed, so all stop: {report}")
