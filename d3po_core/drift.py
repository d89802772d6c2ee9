"""How far a policy has gone from the pretrained model, and how different its images of one prompt are.

Distances are plain: the root mean square of pixel differences, 0 for equal images and 1 for black against white. They
say that images differ, not that people would see it.

Letters: N images, n images of one prompt, h × w pixels.
"""

from itertools import combinations

import numpy as np
import torch

from d3po_core import ddim
from d3po_core.policy import Policy
from d3po_core.records import Trajectories

__all__ = ["kl_to_pretrained", "pairwise_distance", "pixel_distance"]


def pixel_distance(images_NhwC: np.ndarray, others_NhwC: np.ndarray) -> np.ndarray:
    """[N] float64 in [0, 1]: root mean square difference of each image to its counterpart, of 255.

    Raises:
        ValueError: where the images are of different numbers or sizes.
    """
    if images_NhwC.shape != others_NhwC.shape:
        raise ValueError(f"Expected images of equal shapes, found {images_NhwC.shape} and {others_NhwC.shape}.")
    difference = (images_NhwC.astype(np.float64) - others_NhwC.astype(np.float64)) / 255
    return np.sqrt((difference**2).mean(axis=(1, 2, 3)))


def pairwise_distance(images_nhwC: np.ndarray) -> float | None:
    """The mean distance over all pairs of one prompt's images; None for a single image."""
    pairs = list(combinations(range(len(images_nhwC)), 2))
    if not pairs:
        return None
    left, right = (images_nhwC[list(side)] for side in zip(*pairs, strict=True))
    return float(pixel_distance(left, right).mean())


@torch.no_grad()
def kl_to_pretrained(policy: Policy, trajectories: Trajectories, embeds_NLD: torch.Tensor) -> np.ndarray:
    """[N] KL(π ‖ π_pretrained) of one transition, mean over those with σ > 0, along the policy's own trajectories.

    From means, ‖μ − μ_pre‖² / (2σ²), in nats and as a mean over C, H, W like the log-probs; times C·H·W it is the sum.
    Two network evaluations a transition. Source: METHOD 3, DPOK.

    Raises:
        ValueError: where no transition has a density (η = 0).
    """
    steps = [int(step) for step in trajectories.trainable.nonzero().flatten()]
    if not steps:
        raise ValueError("No transition has a density (η = 0), so there is no KL to measure.")
    total = torch.zeros(len(trajectories), dtype=torch.float64)
    for step in steps:
        states = trajectories.latents[:, step]
        mean, sigma = policy.transition(states, step, embeds_NLD)
        with policy.reference():
            pretrained, _ = policy.transition(states, step, embeds_NLD)
        total += ddim.kl(mean, pretrained, sigma).cpu()
    return (total / len(steps)).numpy()
