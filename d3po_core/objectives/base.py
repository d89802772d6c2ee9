"""What every objective over log-ratios is given, and what it answers.

Letters: K images of one group, S transitions, P pairs. A log-ratio is log π_θ(a|s) − log π_ref(a|s) in nats, in the
    unit of the objective's reduction (mean or sum over C, H, W).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

__all__ = ["GroupPairs", "Objective"]

Metrics = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPairs:
    """The pairs of one group, by the rows of its log-ratios."""

    preferred: torch.Tensor
    """[P] int64, in [0, K)."""
    dispreferred: torch.Tensor
    """[P] int64, in [0, K)."""
    target: torch.Tensor
    """[P] float64: P(preferred ≻ dispreferred)."""


class Objective(Protocol):
    """A loss that depends on the network through log-ratios alone."""

    couples: Literal["transition", "trajectory"]
    """What one term of the loss holds together: a group's images at one transition, or over all of them."""
    reduction: Literal["mean", "sum"]
    """Of log-probs over C, H, W."""
    reference: Literal["epoch_start", "pretrained"]
    """Whose log-probs the ratios are to: stored ones in both cases."""
    clip_range: float | None
    """The smallest change of a log-ratio that the clipping can tell, in the reduction's unit; None without clipping."""

    def __call__(
        self, logratio_KS: torch.Tensor, sampled_KS: torch.Tensor, pairs: GroupPairs, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """One group's part of the loss.

        Args:
            logratio_KS: float64, of the policy as it is, differentiable.
            sampled_KS: float64, of the policy that sampled: 0 where that is the reference.
            pairs: the group's pairs.
            count: terms (pairs × transitions) of the *whole* optimizer step, over all groups and processes.

        Returns:
            The loss and the metrics of these terms, each already divided by ``count``: parts of a step, whatever
            micro-batch or process they were computed in, add up to the global mean.
        """

    def state(self) -> dict[str, object]:
        """What the objective carries from step to step, as JSON; empty for most."""

    def load_state(self, state: dict[str, object]) -> None:
        """Continue from ``state()``."""
