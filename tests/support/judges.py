"""Programmed objectives as somebody's own module has them (``kind: python``)."""

import time
from collections.abc import Sequence

import numpy as np

__all__ = ["brightest", "darkest", "slow"]


def brightest(images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    assert len(images) == len(prompts)
    return images.astype(float).mean(axis=(1, 2, 3))


def darkest(images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    return -brightest(images, prompts)


def slow(images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """A fiftieth of a second a picture."""
    time.sleep(0.02 * len(images))
    return brightest(images, prompts)
