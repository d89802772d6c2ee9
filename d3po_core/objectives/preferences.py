"""What the objectives over pairs share: the loss with soft targets, and what is reported, as loss alone says nothing
(METHOD 2).
"""

import torch
from torch.nn.functional import logsigmoid

from d3po_core.group_data import GroupPairs

__all__ = ["preference_loss", "preference_parts"]


def preference_loss(
    z_PS: torch.Tensor, target_P: torch.Tensor, reversed_PS: torch.Tensor | None = None
) -> torch.Tensor:
    """−p log σ(z) − (1−p) log σ(z'), [P, S].

    Args:
        z_PS: the margin as the judges said.
        target_P: p = P(preferred ≻ dispreferred).
        reversed_PS: z', the margin the other way round; −z where nothing is clipped.
    """
    p = target_P[:, None]
    return -p * logsigmoid(z_PS) - (1 - p) * logsigmoid(-z_PS if reversed_PS is None else reversed_PS)


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
