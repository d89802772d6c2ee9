"""DPO with the whole trajectory as the segment: −log σ(β Σ_t (r_w,t − r_l,t)). Source: D3PO Eq. 5; METHOD 3.

The paper passes it over, as it would take over 100 GB; by two passes it takes one micro-batch's memory, exactly (by
one, where a group's trajectories fit into it). The sum is over the transitions that are trained on.
"""

import torch

from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, WithBeta, means
from d3po_core.objectives.preferences import preference_loss, preference_parts

__all__ = ["TrajectoryDPO"]


class TrajectoryDPO(WithBeta):
    """One term a pair; the metrics' log-ratios are sums over the transitions too."""

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``."""
        pairs, total_K1 = group.pairs, change_KS.sum(dim=1, keepdim=True)
        z = self.beta * (total_K1[pairs.preferred] - total_K1[pairs.dispreferred])
        terms = preference_loss(z, pairs.target)
        parts = preference_parts(total_K1, sampled_KS.sum(dim=1, keepdim=True), pairs, self.beta)
        return terms.sum() / count, means({"train/loss": terms, **parts}, count)
