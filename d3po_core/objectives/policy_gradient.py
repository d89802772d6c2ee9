"""PPO's clipped surrogate, which DDPO and DPOK share. Source: Schulman et al., 2017, Eq. 7; METHOD 3."""

import torch

__all__ = ["clipped_policy_gradient"]


def clipped_policy_gradient(
    log_ratio_KS: torch.Tensor, advantage_KS: torch.Tensor, lower: float, upper: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """max(−A ρ, −A clip(ρ)) with ρ = exp(log-ratio), clipped in log space to [exp(lower), exp(upper)].

    Args:
        log_ratio_KS: log π_θ − log π_old, in the reduction's unit.
        advantage_KS: broadcast over the transitions where it is [K, 1].
        lower: of the log-ratio, in the same unit.
        upper: likewise.

    Returns:
        The terms [K, S], and what to report of them.
    """
    advantage = advantage_KS.expand_as(log_ratio_KS)
    # The larger of the two terms is the one whose ratio is clipped on the advantage's side. Chosen before exp: of the
    # maximum's other branch, exp may overflow, and 0 · inf is no gradient.
    held = torch.where(advantage >= 0, log_ratio_KS.clamp(max=upper), log_ratio_KS.clamp(min=lower))
    terms = -advantage * held.exp()
    parts = {
        "train/logratio": log_ratio_KS,
        "train/advantage": advantage,
        "train/advantage_size": advantage.abs(),
        "train/clip_frac": (log_ratio_KS < lower) | (log_ratio_KS > upper),
    }
    return terms, parts
