"""The training losses: small functions over the same records, one file each."""

from d3po_core.config import ObjectiveConfig
from d3po_core.objectives.base import GroupPairs, Objective
from d3po_core.objectives.d3po import D3PO

__all__ = ["D3PO", "GroupPairs", "Objective", "get_objective"]


def get_objective(config: ObjectiveConfig, dimensions: int) -> Objective:
    """The configured objective.

    Args:
        config: with β in the unit of its reduction.
        dimensions: D = C·H·W of a latent, which clips of summed log-ratios are multiplied by.
    """
    return D3PO(config, dimensions)
