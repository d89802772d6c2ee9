"""What each training objective is and needs, before torch is imported: its records, its fields, their defaults.

A further objective takes one file with a class and one entry here. The defaults are for log-probs reduced by ``mean``;
those in ``per_reduction`` have no meaning for ``sum`` and have to be given there (METHOD 2, "Units").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["OBJECTIVES", "Couples", "ObjectiveSpec", "spec_of"]

Couples = Literal["image", "transition", "trajectory"]
"""What has to be known of the policy for one coefficient: the image's own value there, those of its group's images at
that transition, or at all of them. What is known beforehand (rewards, advantages, weights) couples nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveSpec:
    """One objective's contract with the configuration and the training loop."""

    target: str
    """``module:Class``, imported when training begins."""
    title: str
    """Its name with its source, for people."""
    labels: Literal["pairs", "preferred", "rewards"]
    """What it learns from, and so which images are evaluated: those in a pair, the preferred ones, or all."""
    terms: Literal["pairs", "images", "image pairs", "groups"]
    """What the mean of its loss is over (times the transitions, unless it couples whole trajectories)."""
    quantity: Literal["log_prob", "denoising_error"] = "log_prob"
    """What it needs of the network: log-probs of the stored actions, or errors of predicting noise put on x_0."""
    couples: Couples = "transition"
    """What one term holds together, and so what one pass has to hold."""
    initial_noise: Literal["shared", "independent", "any"] = "any"
    """Whether the images of a group have to start from one x_T."""
    references: tuple[str, ...] = ()
    """Which policies it can be held to, the default first; none where the configuration has no say."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Every further field of ``objective`` that it reads."""
    per_reduction: tuple[str, ...] = ()
    """Fields whose default is for ``mean`` alone."""


_MEAN = {"reduction": "mean"}
_EITHER = ("epoch_start", "pretrained")

OBJECTIVES: dict[str, ObjectiveSpec] = {
    "d3po": ObjectiveSpec(
        target="d3po_core.objectives.d3po:D3PO",
        title="D3PO (Yang et al., CVPR 2024, Eq. 14)",
        labels="pairs",
        terms="pairs",
        initial_noise="shared",
        references=_EITHER,
        defaults={**_MEAN, "beta": 0.1, "ratio_clip": "none", "ratio_clip_range": 0.1},
        per_reduction=("beta",),
    ),
    "trajectory_dpo": ObjectiveSpec(
        target="d3po_core.objectives.trajectory_dpo:TrajectoryDPO",
        title="DPO over whole trajectories (D3PO, Eq. 5)",
        labels="pairs",
        terms="pairs",
        couples="trajectory",
        initial_noise="shared",
        references=_EITHER,
        defaults={**_MEAN, "beta": 0.1},
        per_reduction=("beta",),
    ),
    "ddpo": ObjectiveSpec(
        target="d3po_core.objectives.ddpo:DDPO",
        title="DDPO, importance-sampled (Black et al., ICLR 2024)",
        labels="rewards",
        terms="images",
        couples="image",
        defaults={
            **_MEAN,
            "ratio_clip_range": 1e-4,
            "advantage_clip": 5.0,
            "statistics_size": 32,
            "statistics_minimum": 16,
        },
    ),
    "dpok": ObjectiveSpec(
        target="d3po_core.objectives.dpok:DPOK",
        title="DPOK (Fan et al., NeurIPS 2023)",
        labels="rewards",
        terms="images",
        couples="image",
        defaults={**_MEAN, "ratio_clip_range": 1e-4, "reward_weight": 10.0, "kl_weight": 0.01},
        per_reduction=("kl_weight",),
    ),
    "prdp": ObjectiveSpec(
        target="d3po_core.objectives.prdp:PRDP",
        title="PRDP (Deng et al., CVPR 2024, Eqs. 16-21)",
        labels="rewards",
        terms="image pairs",
        couples="trajectory",
        initial_noise="independent",
        references=("pretrained",),
        defaults={**_MEAN, "beta": 1.0, "ratio_clip_range": 1e-2},
        per_reduction=("beta", "ratio_clip_range"),
    ),
    "reward_weighted": ObjectiveSpec(
        target="d3po_core.objectives.reward_weighted:RewardWeighted",
        title="reward-weighted denoising loss (Lee et al., 2023)",
        labels="rewards",
        terms="groups",
        quantity="denoising_error",
        couples="image",
        defaults={"beta": 0.2},
    ),
    "preferred_images": ObjectiveSpec(
        target="d3po_core.objectives.preferred_images:PreferredImages",
        title="denoising loss on the preferred images alone",
        labels="preferred",
        terms="images",
        quantity="denoising_error",
        couples="image",
    ),
    "diffusion_dpo": ObjectiveSpec(
        target="d3po_core.objectives.diffusion_dpo:DiffusionDPO",
        title="Diffusion-DPO (Wallace et al., CVPR 2024)",
        labels="pairs",
        terms="pairs",
        quantity="denoising_error",
        references=("pretrained",),
        defaults={"beta": 2000.0},
    ),
}


def spec_of(kind: str) -> ObjectiveSpec:
    """The objective of this name.

    Raises:
        ValueError: listing the names there are.
    """
    if kind not in OBJECTIVES:
        raise ValueError(f"There is no objective {kind!r}; there are {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[kind]
