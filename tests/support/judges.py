"""Programmed objectives as somebody's own module has them (``kind: python``)."""

from collections.abc import Sequence

import numpy as np

__all__ = ["brightest", "darkest"]


def brightest(images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    assert len(images) == len(prompts)
    return images.astype(float).mean(axis=(1, 2, 3))


def darkest(images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    return -brightest(images, prompts)
