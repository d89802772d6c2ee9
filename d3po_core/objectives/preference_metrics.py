"""What every objective over pairs and log-ratios reports: loss alone says nothing (METHOD 2)."""

import torch

from d3po_core.group_data import GroupPairs

__all__ = ["preference_parts"]


def preference_parts(
    log_ratio_KS: torch.Tensor, sampled_KS: torch.Tensor, pairs: GroupPairs, beta: float
) -> dict[str, torch.Tensor]:
    """[P, S] each: implicit accuracy, margin β (r_w − r_l), both log-ratios, and both changes since sampling."""
    r_w, r_l = log_ratio_KS[pairs.preferred], log_ratio_KS[pairs.dispreferred]
    return {
        "train/implicit_acc": r_w > r_l,
        "train/margin": beta * (r_w - r_l),
        "train/logratio_preferred": r_w,
        "train/logratio_dispreferred": r_l,
        "train/change_preferred": r_w - sampled_KS[pairs.preferred],
        "train/change_dispreferred": r_l - sampled_KS[pairs.dispreferred],
    }
