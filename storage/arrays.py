"""The records that shards are written from and read into: numpy arrays with their shapes and their checks.

Letters: n trajectories, T denoising steps, C × H × W latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["STORED_DTYPES", "TrajectoryArrays", "problem_of"]

STORED_DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}
"""How each latent dtype lies in an array: numpy and zarr know no bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrajectoryArrays:
    """Denoising trajectories of whole groups as arrays."""

    ids: tuple[str, ...]
    """[n] ``g000123-0`` …"""
    group_ids: tuple[str, ...]
    """[n] the group of each."""
    prompts: tuple[str, ...]
    """[n] the prompt of each."""
    latents: NDArray[Any]
    """[n, T+1, C, H, W] x_T … x_0 in ``latents_dtype``; bfloat16 as a uint16 view."""
    latents_dtype: str
    """``float32``, ``float16`` or ``bfloat16``."""
    log_prob: NDArray[Any]
    """[n, T] float64 nats, mean over C, H, W; NaN exactly where the step is not trainable."""
    timesteps: NDArray[Any]
    """[T] int64, falling."""
    trainable: NDArray[Any]
    """[T] bool: σ > 0 at that step."""
    seeds: Mapping[str, str] = field(default_factory=dict)
    """The noise addresses of each trajectory, by id, where they are known."""

    def __post_init__(self) -> None:
        n, steps = len(self.ids), len(self.timesteps)
        if len(set(self.ids)) != n or n == 0:
            raise ValueError(f"Expected one or more different trajectory ids, got {self.ids}")
        if self.latents_dtype not in STORED_DTYPES:
            raise ValueError(f"latents_dtype is one of {sorted(STORED_DTYPES)}, got {self.latents_dtype!r}")
        _expect("length of group_ids", (len(self.group_ids),), (n,))
        _expect("length of prompts", (len(self.prompts),), (n,))
        _expect("number of axes of latents [n, T+1, C, H, W]", (self.latents.ndim,), (5,))
        _expect("first axes of latents [n, T+1, …]", self.latents.shape[:2], (n, steps + 1))
        _expect("shape of log_prob [n, T]", self.log_prob.shape, (n, steps))
        _expect("shape of trainable [T]", self.trainable.shape, (steps,))
        for name, dtype in {
            "latents": STORED_DTYPES[self.latents_dtype],
            "log_prob": "float64",
            "timesteps": "int64",
            "trainable": "bool",
        }.items():
            if getattr(self, name).dtype != np.dtype(dtype):
                raise ValueError(f"{name} is of dtype {dtype}, got {getattr(self, name).dtype}")

    def __len__(self) -> int:
        return len(self.ids)


def problem_of(arrays: TrajectoryArrays) -> str | None:
    """Why these values cannot be right; None if they can."""
    is_bfloat16 = arrays.latents_dtype == "bfloat16"
    absent = (arrays.latents & 0x7FFF) > 0x7F80 if is_bfloat16 else np.isnan(arrays.latents)
    bad = np.atleast_1d(absent.any(axis=(1, 2, 3, 4)))
    if bad.any():
        return f"latents of {_named(arrays.ids, bad)} are NaN"
    bad = np.atleast_1d((np.isfinite(arrays.log_prob) != arrays.trainable).any(axis=1))
    if bad.any():
        return f"log-probs of {_named(arrays.ids, bad)} are not finite exactly where the step is trainable"
    return None


def _named(ids: Sequence[str], chosen: NDArray[Any]) -> str:
    names = [id_ for id_, bad in zip(ids, chosen, strict=True) if bad]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _expect(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != expected:
        raise ValueError(f"{name}: expected {expected}, got {tuple(found)}")
