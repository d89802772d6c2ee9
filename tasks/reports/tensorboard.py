"""A run's scalars for TensorBoard: ``train/…`` by optimizer step over the whole run, ``data/…`` and ``eval/…`` by epoch."""

import io
from collections.abc import Iterator, Sequence

import numpy as np

from tasks.reports.history import EpochHistory

__all__ = ["EVENTS_FILE", "event_file"]

EVENTS_FILE = "tensorboard/events.out.tfevents.0.d3po"
"""One file, written again as a whole: TensorBoard's own name for it would have the time and the machine in it."""


def event_file(epochs: Sequence[EpochHistory]) -> bytes:
    """The bytes of the event file; equal for equal epochs, as no event has a time."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    stream = io.BytesIO()
    writer = RecordWriter(stream)
    writer.write(Event(file_version="brain.Event:2").SerializeToString())
    for name, value, step in _scalars(epochs):
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
        writer.write(Event(step=step, summary=summary).SerializeToString())
    return stream.getvalue()


def _scalars(epochs: Sequence[EpochHistory]) -> Iterator[tuple[str, float, int]]:
    step = 0
    for epoch in epochs:
        for name, values in epoch.trained.items():
            yield from ((name, value, step + place) for place, value in enumerate(values))
        step += max(map(len, epoch.trained.values()), default=0)
        yield from ((name, value, epoch.number) for name, value in epoch.data.items())
        for objective, after in epoch.after.items():
            yield f"eval/{objective}", float(np.mean(after)), epoch.number
        for measure, values in epoch.drift.items():
            yield f"drift/{measure}", float(np.mean(values)), epoch.number
