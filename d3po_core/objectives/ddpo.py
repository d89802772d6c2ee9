"""DDPO with importance sampling: PPO's clipped policy gradient over denoising steps. Source: Black et al., 2024; METHOD 3.

    A = clip((R − mean_c) / (std_c + 1e-6), ±5),  ρ = π_θ / π_old,  loss = mean max(−A ρ, −A clip(ρ, 1 ± ε))

mean_c and std_c (of the population) are over the last rewards of the same prompt, this epoch's entered first; they
persist over epochs. Where a prompt has fewer than ``statistics_minimum``, the epoch's own mean and standard deviation
are used (published: of the batch).

Departures: clipped in log space; the mean is over all images and transitions of an optimizer step; guidance is trained
as it was sampled.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch

from d3po_core.config import ObjectiveConfig
from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, Stateless, clip_bounds, means
from d3po_core.objectives.policy_gradient import clipped_policy_gradient
from d3po_core.records import Reward

__all__ = ["DDPO"]


class DDPO(Stateless):
    """Carries each prompt's last rewards from epoch to epoch."""

    def __init__(self, config: ObjectiveConfig, dimensions: int) -> None:
        super().__init__(config, dimensions)
        assert config.ratio_clip_range is not None
        assert config.advantage_clip is not None
        assert config.statistics_size is not None
        assert config.statistics_minimum is not None
        self.reference = "epoch_start"
        self.lower, self.upper = clip_bounds(config.ratio_clip_range, self.unit)
        self.clip_range = self.upper
        self.advantage_clip = config.advantage_clip
        self.size, self.minimum = config.statistics_size, config.statistics_minimum
        self._rewards: dict[str, list[float]] = {}
        self._entered: int | None = None
        self._advantages: dict[str, float] = {}

    def begin(self, rewards: Sequence[Reward], epoch: int) -> None:
        """Enter the epoch's rewards, unless that was done before a resume, and fix the advantages."""
        if self._entered != epoch:
            for reward in sorted(rewards, key=lambda reward: reward.trajectory_id):
                kept = self._rewards.setdefault(reward.prompt, [])
                kept.append(reward.value)
                del kept[: -self.size]
            self._entered = epoch
        everything = np.array([reward.value for reward in rewards], dtype=np.float64)
        for reward in rewards:
            kept = self._rewards[reward.prompt]
            values = np.array(kept, dtype=np.float64) if len(kept) >= self.minimum else everything
            advantage = (reward.value - values.mean()) / (values.std() + 1e-6)
            self._advantages[reward.trajectory_id] = float(advantage.clip(-self.advantage_clip, self.advantage_clip))

    def idle(self, group: GroupData) -> Set[int]:
        """Images whose advantage is 0, as all are of a prompt whose rewards are one."""
        return {place for place, name in enumerate(group.ids) if self._advantages[name] == 0}

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``."""
        advantage_K1 = torch.tensor([self._advantages[name] for name in group.ids], dtype=torch.float64)[:, None]
        terms, parts = clipped_policy_gradient(change_KS, advantage_K1, self.lower, self.upper)
        return terms.sum() / count, means({"train/loss": terms, **parts}, count)

    def state(self) -> dict[str, Any]:
        """Each prompt's last rewards, and the epoch whose are the newest."""
        return {"kind": "ddpo", "rewards": self._rewards, "entered": self._entered}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``."""
        if state.get("kind") == "ddpo":
            self._rewards = {prompt: list(values) for prompt, values in state["rewards"].items()}
            self._entered = state["entered"]
