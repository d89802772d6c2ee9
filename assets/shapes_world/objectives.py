"""Programmed objectives of the shapes world, for `kind: python` (see `configs/demo.yaml`). Higher is better.

Each takes pictures, uint8 [n, 64, 64, 3], and their n prompts, and returns n numbers.
"""

from collections.abc import Sequence

import numpy as np

from assets.shapes_world.classifier import agreement
from assets.shapes_world.world import COLOURS, SIZE, parse_prompt

NEAR = 70.0
"""How far a pixel of the shape may be from the named colour, in RGB levels; no background comes that near."""
FEWEST = 20
"""Pixels below which there is no shape to speak of; the smallest that the world draws has about 200."""
FARTHEST = SIZE / 2 * 2**0.5
"""Pixels from the middle to a corner: the value of a picture without its shape."""


def shapes_agreement(pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Return the classifier's probability, 0..1, that a picture shows its prompt's colour and shape, [n]."""
    return agreement(pictures, list(prompts))


def centredness(pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Return minus the distance in pixels from the middle of the named colour's pixels to the picture's, [n]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    distances = []
    for picture, prompt in zip(pictures, prompts, strict=True):
        colour = np.array(COLOURS[parse_prompt(prompt)[0]], float)
        shape = np.linalg.norm(picture - colour, axis=-1) < NEAR
        seen = shape.sum() >= FEWEST
        distances.append(np.hypot(x[shape].mean(), y[shape].mean()) if seen else FARTHEST)
    return -np.array(distances)


def symmetry(pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Return minus the mean absolute difference, in levels of 255, between a picture and its mirror image, [n]."""
    levels = pictures.astype(np.int16)
    return 0.0 - np.abs(levels - levels[:, :, ::-1]).mean(axis=(1, 2, 3))  # not -0.0
