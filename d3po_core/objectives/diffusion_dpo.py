"""Diffusion-DPO: −log σ(−(β/2) [(e_θ^w − e_ref^w) − (e_θ^l − e_ref^l)]). Source: Wallace et al., 2024, Eq. 14; METHOD 3.

e is the mean squared error of the noise prediction at a noise level that both images share, with the same noise. It
needs no trajectory, so it trains on image pairs from elsewhere too. Departures: noise levels are drawn one from each
of T equal parts; soft targets.
"""

import torch

from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, WithBeta, means
from d3po_core.objectives.preferences import preference_loss

__all__ = ["DiffusionDPO"]


class DiffusionDPO(WithBeta):
    """One term a pair and noise level."""

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``; the table holds denoising errors less the reference's."""
        pairs = group.pairs
        rise_w, rise_l = change_KS[pairs.preferred], change_KS[pairs.dispreferred]
        z = -self.beta / 2 * (rise_w - rise_l)
        terms = preference_loss(z, pairs.target)
        parts = {
            "train/loss": terms,
            "train/implicit_acc": rise_w < rise_l,
            "train/margin": z,
            "train/error_rise_preferred": rise_w,
            "train/error_rise_dispreferred": rise_l,
        }
        return terms.sum() / count, means(parts, count)
