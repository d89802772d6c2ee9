"""What every objective is given, and what it answers.

Letters: K images of one group, S transitions, P pairs. A log-ratio is log π_θ(a|s) − log π_ref(a|s) in nats, in the
    unit of the objective's reduction (mean or sum over C, H, W). For denoising objectives the same tables hold errors:
    e_θ − e_ref, the mean squared error of the noise prediction (of the reference where there is one).
"""

import math
from collections.abc import Mapping, Sequence, Set
from importlib import import_module
from typing import Any, Protocol

import torch

from d3po_core.config import ObjectiveConfig
from d3po_core.group_data import GroupData
from d3po_core.objectives.specs import ObjectiveSpec
from d3po_core.records import Reward

__all__ = ["Metrics", "Objective", "Stateless", "WithBeta", "clip_bounds", "get_objective", "means"]

Metrics = dict[str, torch.Tensor]


class Objective(Protocol):
    """A loss that depends on the network through one number per image and transition (and, with ``kl_weight``, a mean)."""

    spec: ObjectiveSpec
    unit: int
    """What a mean over C, H, W is multiplied by: 1, or C·H·W where the reduction is a sum."""
    reference: str | None
    """Whose log-probs the ratios are to: ``epoch_start`` or ``pretrained``; None where there is no reference."""
    clip_range: float | None
    """The smallest change of a log-ratio that the clipping can tell, in the reduction's unit; None without clipping."""
    kl_weight: float
    """Of KL(π_θ ‖ pretrained) at every evaluated transition; 0 for most."""

    def __call__(
        self, change_KS: torch.Tensor, sampled_KS: torch.Tensor, group: GroupData, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        """One group's part of the loss.

        Args:
            change_KS: float64, log-ratios (or errors) of the policy as it is, differentiable.
            sampled_KS: float64, of the policy that sampled: 0 where that is the reference.
            group: its pairs and rewards.
            count: terms of the *whole* optimizer step, over all groups and processes.

        Returns:
            The loss and the metrics of these terms, each already divided by ``count``: parts of a step, whatever
            micro-batch or process they were computed in, add up to the global mean.
        """

    def idle(self, group: GroupData) -> Set[int]:
        """The images [of K] that no coefficient but 0 can come of, whatever the network says: they are not evaluated.

        What is reported takes them as unmoved since they were sampled.
        """

    def begin(self, rewards: Sequence[Reward], epoch: int) -> None:
        """Called once before an epoch's first optimizer step, and again where a training is resumed."""

    def observe(self, groups: Sequence[GroupData]) -> torch.Tensor | None:
        """What this process's groups of a step add to the objective's state, to be summed over processes; or None."""

    def update(self, observed: torch.Tensor) -> None:
        """Take in the sum of what all processes observed, before the step's loss."""

    def state(self) -> dict[str, Any]:
        """What the objective carries from step to step and from epoch to epoch, as JSON; empty for most."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``; another objective's state is passed over."""


class Stateless:
    """What an objective without memory has in common with the others."""

    reference: str | None = None
    clip_range: float | None = None
    kl_weight: float = 0.0

    def __init__(self, config: ObjectiveConfig, dimensions: int) -> None:
        self.spec = config.spec
        self.unit = dimensions if config.reduction == "sum" else 1
        self.reference = config.reference

    def idle(self, group: GroupData) -> Set[int]:
        """None that is known beforehand."""
        return frozenset()

    def begin(self, rewards: Sequence[Reward], epoch: int) -> None:
        """Nothing to prepare."""

    def observe(self, groups: Sequence[GroupData]) -> torch.Tensor | None:
        """Nothing to learn from the data beside the loss."""
        return None

    def update(self, observed: torch.Tensor) -> None:
        """Nothing is observed."""

    def state(self) -> dict[str, Any]:
        """Nothing is carried from step to step."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to continue from."""


class WithBeta(Stateless):
    """Such an objective that has a β."""

    def __init__(self, config: ObjectiveConfig, dimensions: int) -> None:
        super().__init__(config, dimensions)
        assert config.beta is not None, "the configuration fills in the default of each field that a kind reads"
        self.beta = config.beta


def get_objective(config: ObjectiveConfig, dimensions: int) -> Objective:
    """The configured objective.

    Args:
        config: with β in the unit of its reduction.
        dimensions: D = C·H·W of a latent, which clips of summed log-ratios are multiplied by.
    """
    module, _, name = config.spec.target.partition(":")
    made: Objective = getattr(import_module(module), name)(config, dimensions)
    return made


def clip_bounds(clip_range: float, unit: int) -> tuple[float, float]:
    """log(1−ε) and log(1+ε) in the reduction's unit: the bounds of a log-ratio whose ratio stays in 1 ± ε."""
    return unit * math.log1p(-clip_range), unit * math.log1p(clip_range)


def means(parts: Mapping[str, torch.Tensor], count: int) -> Metrics:
    """This group's share of each metric's mean over the step."""
    return {name: part.detach().double().sum() / count for name, part in parts.items()}
