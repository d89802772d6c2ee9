"""D3PO: −log σ(β (r_w − r_l)) at every transition. Source: D3PO Eq. 14, Algorithm 1; METHOD 2.

Departures from the published code, each a choice of the configuration: no clipping by default (Eq. 14 has none),
clips in log space (exp first gives NaN gradients in half precision), and around the sampler's ratio where the
reference is the pretrained model; soft targets; the mean over all pairs and transitions of a step instead of a step
per pair.
"""

import torch

from d3po_core.config import ObjectiveConfig
from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, WithBeta, clip_bounds, means
from d3po_core.objectives.preferences import preference_loss, preference_parts

__all__ = ["D3PO"]


class D3PO(WithBeta):
    """ℓ = −p log σ(β(r_w − r_l)) − (1−p) log σ(β(r_l − r_w)), with three ways of clipping r."""

    def __init__(self, config: ObjectiveConfig, dimensions: int) -> None:
        super().__init__(config, dimensions)
        assert config.ratio_clip_range is not None
        self.ratio_clip = config.ratio_clip
        self.lower, self.upper = clip_bounds(config.ratio_clip_range, self.unit)
        self.clip_range = None if config.ratio_clip == "none" else self.upper

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``. Margin is β (r_w − r_l), unclipped."""
        pairs = group.pairs
        w, l = pairs.preferred, pairs.dispreferred  # noqa: E741  the paper's letters
        # Winner's and loser's clipped log-ratios; with soft targets each image is also the loser's or winner's part.
        won, lost = self._clip_winner(change_KS, sampled_KS), self._clip_loser(change_KS, sampled_KS)
        terms = preference_loss(self.beta * (won[w] - lost[l]), pairs.target, self.beta * (won[l] - lost[w]))
        parts = {
            "train/loss": terms,
            **preference_parts(change_KS, sampled_KS, pairs, self.beta),
            "train/clip_frac_preferred": won[w] != change_KS[w],
            "train/clip_frac_dispreferred": lost[l] != change_KS[l],
        }
        return terms.sum() / count, means(parts, count)

    def _clip_winner(self, r: torch.Tensor, sampled: torch.Tensor) -> torch.Tensor:
        if self.ratio_clip == "none":
            return r
        change = r - sampled
        if self.ratio_clip == "published":
            return torch.where(self._inside(change), r, sampled + change.detach().clamp(self.lower, self.upper))
        return torch.where(change <= self.upper, r, sampled + self.upper)

    def _clip_loser(self, r: torch.Tensor, sampled: torch.Tensor) -> torch.Tensor:
        if self.ratio_clip != "pessimistic":
            return self._clip_winner(r, sampled)
        return torch.where(r - sampled >= self.lower, r, sampled + self.lower)

    def _inside(self, change: torch.Tensor) -> torch.Tensor:
        return (change >= self.lower) & (change <= self.upper)
