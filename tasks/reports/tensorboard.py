"""A run's scalars for TensorBoard: ``train/…`` by optimizer step over the whole run, ``data/…`` and ``eval/…`` by epoch."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.reports.history import EpochHistory

__all__ = ["EVENTS_FILE", "event_file"]

EVENTS_FILE = "tensorboard/events.out.tfevents.0.d3po"
"""One file, written again as a whole: TensorBoard's own name for it would have the time and the machine in it."""


def event_file(epochs: Sequence[EpochHistory]) -> bytes:
    """The bytes of the event file; equal for equal epochs."""
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory(prefix="d3po-tensorboard-") as folder:
        writer = SummaryWriter(folder)
        step = 0
        for epoch in epochs:
            for name, values in epoch.trained.items():
                for place, value in enumerate(values):
                    writer.add_scalar(name, value, step + place, walltime=0)
            step += max(map(len, epoch.trained.values()), default=0)
            for name, value in epoch.data.items():
                writer.add_scalar(name, value, epoch.number, walltime=0)
            for objective, after in epoch.after.items():
                writer.add_scalar(f"eval/{objective}", float(np.mean(after)), epoch.number, walltime=0)
            for measure, values in epoch.drift.items():
                writer.add_scalar(f"drift/{measure}", float(np.mean(values)), epoch.number, walltime=0)
        writer.close()
        [file] = Path(folder).iterdir()
        return file.read_bytes()
