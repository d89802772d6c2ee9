"""PRDP: regress the difference of two trajectories' log-ratios onto their reward difference. Source: Deng et al., 2024,
Eqs. 16-21; METHOD 3.

    ℓ = (Σ_t (r̂_a,t − r̂_b,t) − ΔR/β)²,   per pair max(ℓ, ℓ with every r̂_t clipped to r̂_old,t ± ε)

over all pairs of a prompt's images, which here start from noise of their own; r̂ is the log-ratio to the pretrained
model, old the policy that sampled.

Departures: the unit of r̂ is the configured reduction's (the paper: sum; its listing: the mean over t, β_sum = β / T);
the sum is over the transitions that are trained on; LoRA instead of all weights, by configuration.
"""

import torch

from d3po_core.config import ObjectiveConfig
from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, WithBeta, means

__all__ = ["PRDP"]


class PRDP(WithBeta):
    """One term for every two images of a group."""

    def __init__(self, config: ObjectiveConfig, dimensions: int) -> None:
        super().__init__(config, dimensions)
        assert config.ratio_clip_range is not None
        self.range = config.ratio_clip_range
        self.clip_range = self.range

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``."""
        a, b = torch.combinations(torch.arange(len(group.ids))).T
        wanted = (group.rewards[a] - group.rewards[b]) / self.beta
        clipped_KS = torch.maximum(torch.minimum(change_KS, sampled_KS + self.range), sampled_KS - self.range)
        total, total_clipped = change_KS.sum(dim=1), clipped_KS.sum(dim=1)
        plain = (total[a] - total[b] - wanted) ** 2
        clipped = (total_clipped[a] - total_clipped[b] - wanted) ** 2
        terms = torch.maximum(plain, clipped)
        difference = total[a] - total[b]
        parts = {
            "train/loss": terms,
            "train/implicit_acc": (difference > 0) == (wanted > 0),
            "train/wanted_difference": wanted.abs(),
            "train/found_difference": difference * wanted.sign(),
            "train/clip_frac": clipped > plain,
        }
        return terms.sum() / count, means(parts, count)
