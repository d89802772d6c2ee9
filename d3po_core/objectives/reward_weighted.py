"""Reward-weighted: the denoising loss on the model's own images, weighted by exp(β R) / Z over a prompt's samples.

Source: Lee et al., 2023; DDPO's comparison (β = 0.2); METHOD 3. Departures: Z is over the group, the images of a
prompt that were sampled together; each image is noised once in each of T equal parts of the noise levels per inner
epoch (the same parts and noise for a group's images), so that the loss of one epoch is over all levels evenly.
"""

import torch

from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, WithBeta, means

__all__ = ["RewardWeighted"]


class RewardWeighted(WithBeta):
    """The weights of a group's images add up to 1."""

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``; the table holds denoising errors."""
        weight_K1 = torch.softmax(self.beta * group.rewards, dim=0)[:, None]
        terms = weight_K1 * change_KS
        parts = {"train/loss": terms, "train/largest_weight": weight_K1.max().expand(change_KS.shape[1])}
        return terms.sum() / count, means(parts, count)
