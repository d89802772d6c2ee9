"""The records that the core's modules hand each other: frozen, with their shapes.

Letters: N images, B rows of a network batch, T denoising steps, C latent channels, H × W latent size, L prompt tokens,
D text width. A record holds what was computed, never how or where it is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:  # Judgements and pairs are read by processes that never compute: they need not wait for torch.
    import torch

__all__ = ["Group", "Judgement", "Pair", "Reward", "Trajectories", "TrajectorySource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One prompt and its k trajectories, before they are generated."""

    id: str
    """``g000123``: unique within the epoch and stable."""
    index: int
    """The group's part of every noise address."""
    prompt: str

    def trajectory_ids(self, group_size: int) -> tuple[str, ...]:
        """The ids of the group's trajectories: ``g000123-0`` … in image order."""
        return tuple(f"{self.id}-{image}" for image in range(group_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """Denoising trajectories of whole groups, with the log-probs that the sampling policy gave its own actions."""

    ids: tuple[str, ...]
    """[N] trajectory ids, whole groups, in id order."""
    group_ids: tuple[str, ...]
    """[N] the group of each."""
    prompts: tuple[str, ...]
    """[N] the prompt of each."""
    latents: "torch.Tensor"
    """[N, T+1, C, H, W] in the latent dtype, CPU: x_T … x_0, exactly the values that went into the next step."""
    log_prob: "torch.Tensor"
    """[N, T] float64: log π(x_{t-1} | x_t) in nats, mean over C, H, W; NaN where the step is not trainable."""
    timesteps: "torch.Tensor"
    """[T] int64, falling."""
    trainable: "torch.Tensor"
    """[T] bool: σ > 0 at that step, so that there is a density to train on."""
    images: np.ndarray | None = None
    """[N, height, width, 3] uint8 RGB of the decoded x_0; None when they were not asked for."""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int]) -> "Trajectories":
        """These rows, in this order, without images."""
        rows = list(rows)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            group_ids=tuple(self.group_ids[row] for row in rows),
            prompts=tuple(self.prompts[row] for row in rows),
            latents=self.latents[rows],
            log_prob=self.log_prob[rows],
            images=None,
        )


class TrajectorySource(Protocol):
    """Where the training loop reads from; the store implements it one layer up."""

    def read(self, group_ids: Sequence[str]) -> Trajectories:
        """The trajectories of these groups, in the order asked, without images."""

    def prompt_embeds(self, prompts: Sequence[str]) -> "torch.Tensor":
        """[len(prompts), L, D] float32 text-encoder output; ``""`` is the unconditional prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one judge, a person or a programme, said of one group: parsed and validated."""

    id: str
    """Where it came from, e.g. ``ls:4711`` (the annotation) or ``programmed:jpeg_size:g000001``."""
    group_id: str
    judge: str
    """``user:7`` (Label Studio's number, never a name) or ``programmed:jpeg_size``."""
    verdict: str
    """``prefer``, ``tie``, ``both_bad``, ``mark`` or ``programmed``."""
    trajectory_ids: tuple[str, ...]
    """[k] what was judged."""
    levels: tuple[tuple[float, ...], ...]
    """[k][objectives] higher is better. A person's judgement has one column: 1 and 0 for a preference, 0 for unmarked
    and -1 for marked images, equal values for ties; a programmed one has the value of each objective."""
    updated_at: str
    """ISO 8601 time in UTC; of one judge's several judgements of a group the latest counts."""
    seconds: float | None = None
    """How long the judge looked, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two trajectories of one group with the votes on them."""

    group_id: str
    preferred: str
    dispreferred: str
    target: float
    """P(preferred ≻ dispreferred) in [0.5, 1]: 1 for a majority, a share of votes for soft targets."""
    votes_preferred: int
    votes_tie: int
    votes_dispreferred: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """One image's reward, for the methods that need a number and not a comparison."""

    trajectory_id: str
    group_id: str
    prompt: str
    value: float
    """In the objective's own unit, higher is better."""
