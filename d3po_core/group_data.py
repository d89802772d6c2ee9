"""One group's part of an optimizer step: what is evaluated, and what is known of its images.

Letters: K images of the group, S transitions (for denoising objectives: S draws of a noise level), P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

__all__ = ["Draws", "GroupData", "GroupPairs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPairs:
    """The pairs of one group, by the rows of its tables."""

    preferred: torch.Tensor
    """[P] int64, in [0, K)."""
    dispreferred: torch.Tensor
    """[P] int64, in [0, K)."""
    target: torch.Tensor
    """[P] float64: P(preferred ≻ dispreferred)."""

    @classmethod
    def none(cls) -> "GroupPairs":
        """No pair at all."""
        empty = torch.empty(0, dtype=torch.int64)
        return cls(preferred=empty, dispreferred=empty, target=empty.double())


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Noise that is put on x_0 for a denoising objective; all images of a group get the same."""

    timesteps: torch.Tensor
    """[S] int64, of the training timesteps."""
    noise: torch.Tensor
    """[S, C, H, W] float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupData:
    """K images, S transitions."""

    ids: tuple[str, ...]
    """[K] trajectory ids."""
    latents: torch.Tensor
    """[K, T+1, C, H, W]; with ``draws`` the last is all that is read."""
    embeds: torch.Tensor
    """[L, D] float32: the prompt."""
    transitions: tuple[int, ...]
    """[S] denoising steps."""
    stored: torch.Tensor
    """[K, S] float64: log-probs of the policy that sampled; 0 with ``draws``."""
    reference: torch.Tensor
    """[K, S] float64: log-probs (with ``draws``: errors) of the reference; 0 where there is none."""
    pairs: GroupPairs
    rewards: torch.Tensor
    """[K] float64; NaN where there is none."""
    same_start: bool
    """All images started from one x_T."""
    draws: Draws | None = None

    def states(self, place: int) -> int:
        """How many different states the images are in before this of the S transitions."""
        return 1 if self.same_start and self.draws is None and self.transitions[place] == 0 else len(self.ids)

    def at(self, places: Sequence[int]) -> "GroupData":
        """The group with some of its S transitions only."""
        return replace(
            self,
            transitions=tuple(self.transitions[place] for place in places),
            stored=self.stored[:, places],
            reference=self.reference[:, places],
            draws=None
            if self.draws is None
            else Draws(timesteps=self.draws.timesteps[places], noise=self.draws.noise[places]),
        )
