"""Every random number's address.

A random number belongs to an address (what it is for, run seed, epoch, group, image, step), never to the order in which
numbers were drawn: batching, sharding, workers and retries change nothing. The address, in a canonical spelling, is
hashed by SHA-256; its first 128 bits are the key of a counter-based generator (Philox), whose float32 normals are used.
torch's CPU generator would keep only 32 bits of a seed: ten epochs of real size would meet thousands of repeats.

This module does not decide what shares noise: that is in the addresses its callers spell.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["NoiseAddress", "generator", "normal"]

_spelled = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseAddress:
    """Where a stream of random numbers lives. A part that is None is left out (and differs from any number)."""

    domain: str
    """What the numbers are for: ``x_T``, ``step``, ``order``, ``transitions``, ``judge``, ``lora`` …"""
    run_seed: int
    epoch: int | None = None
    """None for what all epochs share, e.g. the evaluation: before and after see the same noise."""
    group: int | str | None = None
    """A group's index, or another name of one stream (a judge's group id, a parameter's name)."""
    image: int | str | None = None
    """The image of a group, None where the group shares the numbers (x_T); for judges, the judge."""
    step: int | None = None
    """The denoising step, or the inner epoch of an order."""

    def __str__(self) -> str:
        return _spelled({"address": 1, **{name: getattr(self, name) for name in self.__slots__}})

    @property
    def key(self) -> int:
        """[0, 2^128): the Philox key."""
        return int.from_bytes(hashlib.sha256(str(self).encode("ascii")).digest()[:16], "big")

    def generator(self) -> np.random.Generator:
        """A fresh generator at the beginning of this address's stream."""
        return np.random.Generator(np.random.Philox(key=self.key))

    def normal(self, shape: Sequence[int]) -> np.ndarray:
        """Standard normals, float32, of this shape: always the beginning of the stream."""
        return self.generator().standard_normal(tuple(shape), dtype=np.float32)


def normal(
    shape: Sequence[int],
    domain: str,
    *,
    run_seed: int,
    epoch: int | None = None,
    group: int | str | None = None,
    image: int | str | None = None,
    step: int | None = None,
) -> np.ndarray:
    """Standard normals, float32, at one address."""
    return NoiseAddress(domain=domain, run_seed=run_seed, epoch=epoch, group=group, image=image, step=step).normal(
        shape
    )


def generator(
    domain: str,
    *,
    run_seed: int,
    epoch: int | None = None,
    group: int | str | None = None,
    image: int | str | None = None,
    step: int | None = None,
) -> np.random.Generator:
    """A generator at one address: for permutations, subsets and simulated judges."""
    address = NoiseAddress(domain=domain, run_seed=run_seed, epoch=epoch, group=group, image=image, step=step)
    return address.generator()
