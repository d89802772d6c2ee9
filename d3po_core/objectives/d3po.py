"""D3PO: −log σ(β (r_w − r_l)) at every transition. Source: D3PO Eq. 14, Algorithm 1; METHOD 2.

Departures from the published code, each a choice of the configuration: no clipping by default (Eq. 14 has none),
clips in log space (exp first gives NaN gradients in half precision), and around the sampler's ratio where the
reference is the pretrained model; soft targets; the mean over all pairs and transitions of a step instead of a step
per pair.
"""

import math
from typing import Literal

import torch
from torch.nn.functional import logsigmoid

from d3po_core.config import ObjectiveConfig
from d3po_core.objectives.base import GroupPairs, Metrics

__all__ = ["D3PO"]


class D3PO:
    """ℓ = −p log σ(β(r_w − r_l)) − (1−p) log σ(β(r_l − r_w)), with three ways of clipping r."""

    couples: Literal["transition", "trajectory"] = "transition"

    def __init__(self, config: ObjectiveConfig, dimensions: int) -> None:
        self.beta, self.ratio_clip = config.beta, config.ratio_clip
        self.reduction, self.reference = config.reduction, config.reference
        unit = dimensions if config.reduction == "sum" else 1
        self.upper = unit * math.log1p(config.ratio_clip_range)
        self.lower = unit * math.log1p(-config.ratio_clip_range)
        self.clip_range = None if config.ratio_clip == "none" else self.upper

    def __call__(
        self, logratio_KS: torch.Tensor, sampled_KS: torch.Tensor, pairs: GroupPairs, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``. Margin is β (r_w − r_l), unclipped."""
        w, l = pairs.preferred, pairs.dispreferred  # noqa: E741  the paper's letters
        r_w, r_l = logratio_KS[w], logratio_KS[l]
        # Winner's and loser's clipped log-ratios; with soft targets each image is also the loser's or winner's part.
        won, lost = self._clip_winner(logratio_KS, sampled_KS), self._clip_loser(logratio_KS, sampled_KS)
        target = pairs.target[:, None]
        as_said = self.beta * (won[w] - lost[l])
        reversed_ = self.beta * (won[l] - lost[w])
        terms = -target * logsigmoid(as_said) - (1 - target) * logsigmoid(reversed_)
        parts = {
            "train/loss": terms,
            "train/implicit_acc": r_w > r_l,
            "train/margin": self.beta * (r_w - r_l),
            "train/logratio_preferred": r_w,
            "train/logratio_dispreferred": r_l,
            "train/change_preferred": r_w - sampled_KS[w],
            "train/change_dispreferred": r_l - sampled_KS[l],
            "train/clip_frac_preferred": won[w] != r_w,
            "train/clip_frac_dispreferred": lost[l] != r_l,
        }
        metrics = {name: part.detach().double().sum() / count for name, part in parts.items()}
        return terms.sum() / count, metrics

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

    def state(self) -> dict[str, object]:
        """D3PO carries nothing from step to step."""
        return {}

    def load_state(self, state: dict[str, object]) -> None:
        """Nothing to continue from."""
