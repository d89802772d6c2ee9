"""DPOK: policy gradient with a value baseline, and a true KL to the pretrained model. Source: Fan et al., 2023; METHOD 3.

    mean over images and transitions of  α max(−A ρ, −A clip(ρ, 1 ± ε)) + β KL_t,   A = R − V(x_t, c, t)
    KL_t = ‖μ_θ − μ_pre‖² / (2 σ_t²), reduced over C, H, W like the log-prob

The KL comes from the two means, never from two log-probs of one sample; the training loop adds it where the network is
evaluated (``kl_weight``), with an adapter-off forward at each evaluated state.

Departures: the published "KL" is the mean of (ε − ε_pre)² without 1/σ², so its weight is not ours; V is a ridge
regression on features of (x_t, c, t) (``value_function.py``) instead of a network trained beside the policy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from d3po_core.config import ObjectiveConfig
from d3po_core.group_data import GroupData
from d3po_core.objectives.base import Metrics, Stateless, clip_bounds, means
from d3po_core.objectives.policy_gradient import clipped_policy_gradient
from d3po_core.objectives.value_function import ValueFunction

__all__ = ["DPOK"]


class DPOK(Stateless):
    """Carries the value function's sums from step to step and from epoch to epoch."""

    def __init__(self, config: ObjectiveConfig, dimensions: int) -> None:
        super().__init__(config, dimensions)
        assert config.ratio_clip_range is not None
        assert config.reward_weight is not None
        assert config.kl_weight is not None
        self.reference = "epoch_start"
        self.lower, self.upper = clip_bounds(config.ratio_clip_range, self.unit)
        self.clip_range = self.upper
        self.reward_weight, self.kl_weight = config.reward_weight, config.kl_weight
        self.value = ValueFunction()

    def observe(self, groups: Sequence[GroupData]) -> torch.Tensor | None:
        """The value function's sums over these groups."""
        return self.value.sums(groups)

    def update(self, observed: torch.Tensor) -> None:
        """Fit V with a step's data before its advantages are taken."""
        self.value.add(observed)

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """See ``Objective``; the KL is not in this loss, but beside it."""
        value_KS = self.value(group)
        surrogate, parts = clipped_policy_gradient(change_KS, group.rewards[:, None] - value_KS, self.lower, self.upper)
        terms = self.reward_weight * surrogate
        error = (group.rewards[:, None] - value_KS) ** 2
        return terms.sum() / count, means({"train/loss": terms, "train/value_error": error, **parts}, count)

    def state(self) -> dict[str, Any]:
        """The value function's sums."""
        return {"kind": "dpok", **self.value.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``."""
        if state.get("kind") == "dpok":
            self.value.load_state(state)
