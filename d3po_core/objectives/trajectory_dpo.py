"""DPO with the whole trajectory as the segment: −log σ(β Σ_t (r_w,t − r_l,t)). Source: D3PO Eq. 5; METHOD 3.

The paper passes it over, as it would take over 100 GB; by two passes it takes one micro-batch's memory, exactly. The
sum is over the transitions that are trained on.
"""

import torch
from torch.nn.functional import logsigmoid

from d3po_core.config import ObjectiveConfig
from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, Stateless, means
from d3po_core.objectives.preference_metrics import preference_parts

__all__ = ["TrajectoryDPO"]


class TrajectoryDPO(Stateless):
    """One term a pair; the metrics' log-ratios are sums over the transitions too."""

    def __init__(self, config: ObjectiveConfig, dimensions: int) -> None:
        super().__init__(config, dimensions)
        assert config.beta is not None
        self.beta = config.beta

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``."""
        pairs, total_K1 = group.pairs, change_KS.sum(dim=1, keepdim=True)
        z = self.beta * (total_K1[pairs.preferred] - total_K1[pairs.dispreferred])
        target = pairs.target[:, None]
        terms = -target * logsigmoid(z) - (1 - target) * logsigmoid(-z)
        parts = preference_parts(total_K1, sampled_KS.sum(dim=1, keepdim=True), pairs, self.beta)
        return terms.sum() / count, means({"train/loss": terms, **parts}, count)
