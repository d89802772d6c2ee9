"""V(x_t, c, t), the reward to expect of a state: ridge regression on a few features, exact and without a learning rate.

Its sufficient statistics are sums over the states seen so far, so that processes add theirs up, a resume continues them
to the bit, and the fit does not depend on the order of the data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from d3po_core import noise
from d3po_core.group_data import GroupData

__all__ = ["ValueFunction"]

TEXT_FEATURES = 16
RIDGE = 1e-3
"""Of the features' second moments, which are means over the states seen."""


class ValueFunction:
    """Features: 1, t, t²; mean and standard deviation of each latent channel, also times t; the prompt, projected."""

    def __init__(self) -> None:
        self._sums: torch.Tensor | None = None
        self._weights: torch.Tensor | None = None

    def sums(self, groups: Sequence[GroupData]) -> torch.Tensor | None:
        """Σ (φ, R)(φ, R)ᵀ over these groups' states: [F+1, F+1] float64; None where there are none."""
        rows = []
        for group in groups:
            rewards = group.rewards.repeat_interleave(len(group.transitions))[:, None]
            rows.append(torch.cat([_features(group).flatten(0, 1), rewards], dim=1))
        if not rows:
            return None
        joined = torch.cat(rows)
        return joined.T @ joined

    def add(self, sums: torch.Tensor) -> None:
        """Take in further states and fit again."""
        self._sums = sums if self._sums is None else self._sums + sums
        self._fit()

    def __call__(self, group: GroupData) -> torch.Tensor:
        """[K, S] float64: V at each of a group's states; 0 before anything was seen."""
        if self._weights is None:
            return torch.zeros_like(group.stored)
        return _features(group) @ self._weights

    def state(self) -> dict[str, Any]:
        """The sums, as JSON."""
        return {"sums": None if self._sums is None else self._sums.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``."""
        if state["sums"] is not None:
            self._sums = torch.tensor(state["sums"], dtype=torch.float64)
            self._fit()

    def _fit(self) -> None:
        assert self._sums is not None
        seen = float(self._sums[0, 0])  # the first feature is 1
        moments = self._sums / max(seen, 1.0)
        size = len(moments) - 1
        ridge = RIDGE * torch.eye(size, dtype=torch.float64)
        ridge[0, 0] = 0.0  # the mean reward is not shrunk
        self._weights = torch.linalg.solve(moments[:size, :size] + ridge, moments[:size, size])


def _features(group: GroupData) -> torch.Tensor:
    """[K, S, F] float64."""
    steps = list(group.transitions)
    states = group.latents[:, steps].double().flatten(3)
    channels = torch.cat([states.mean(dim=3), states.std(dim=3)], dim=2)
    time = torch.tensor(steps, dtype=torch.float64) / max(group.latents.shape[1] - 1, 1)
    time = time[None, :, None].expand(*channels.shape[:2], 1)
    width = group.embeds.shape[-1]
    projection = noise.normal((width, TEXT_FEATURES), "value", run_seed=0) / width**0.5
    text = group.embeds.double().cpu().mean(dim=0) @ torch.from_numpy(projection).double()
    text = text.expand(*channels.shape[:2], TEXT_FEATURES)
    return torch.cat([torch.ones_like(time), time, time**2, channels, channels * time, text], dim=2)
