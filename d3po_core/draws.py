"""The noise that a denoising objective puts on x_0: a level from each of T equal parts of the training timesteps.

The parts stand for the T denoising steps, so that ``first_transitions`` and ``transitions_per_trajectory`` mean the same
for every objective: the noisiest parts, and a seeded subset. All images of a group get the same levels and noise.
"""

import numpy as np
import torch

from d3po_core import noise
from d3po_core.group_data import Draws
from d3po_core.policy import Policy

__all__ = ["draw_noise"]


def draw_noise(
    policy: Policy, group: str, transitions: tuple[int, ...], inner_epoch: int, *, run_seed: int, epoch: int
) -> Draws:
    """A group's noise levels and noise in one inner epoch, by its address alone."""
    total, parts = len(policy.schedule.training_alpha), len(policy.schedule)
    timesteps, values = [], []
    for step in transitions:
        generator = noise.generator(
            "denoising", run_seed=run_seed, epoch=epoch, group=group, image=f"inner {inner_epoch}", step=step
        )
        low, high = total * (parts - 1 - step) // parts, total * (parts - step) // parts
        timesteps.append(int(generator.integers(low, high)))
        values.append(generator.standard_normal(policy.latent_shape, dtype=np.float32))
    return Draws(timesteps=torch.tensor(timesteps), noise=torch.from_numpy(np.stack(values)))
