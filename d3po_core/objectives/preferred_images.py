"""Preferred images only: supervised fine-tuning on the images that won a comparison, each with weight 1.

Source: the comparison of D3PO's Table 1; METHOD 3. Noise levels as in ``reward_weighted``.
"""

import torch

from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, Stateless, means

__all__ = ["PreferredImages"]


class PreferredImages(Stateless):
    """The mean denoising error of the preferred images."""

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``; the table holds denoising errors."""
        return change_KS.sum() / count, means({"train/loss": change_KS}, count)
