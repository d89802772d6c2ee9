"""Held-out images of a policy: fixed prompts, fixed noise (addresses without an epoch), programmed objectives.

Before and after an epoch see the same prompts and the same noise, so their difference is the adapter's alone and its
standard error is the paired one.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from d3po_core.drift import kl_to_pretrained, pixel_distance
from d3po_core.policy import Policy
from d3po_core.records import Trajectories
from d3po_core.rollout import rollout
from tasks.config import Configuration
from tasks.context import EpochContext
from tasks.evaluation.comparisons import Comparison, paired
from tasks.evaluation.names import group_of
from tasks.generation.prompts import read_prompts
from tasks.log import logger
from tasks.policies import policy_for, starting_state, state_after
from tasks.programmed import definitions, programmed_objective

__all__ = [
    "KL_PROMPTS",
    "LATENTS_AT_ONCE",
    "Drift",
    "HeldOut",
    "compare",
    "evaluate_epoch",
    "held_out",
    "objective_values",
]

EVALUATION_FORMAT = "d3po-evaluation/1"
KL_PROMPTS = 16
LATENTS_AT_ONCE = 64 * 1024
"""Values in the latents of one batch: 64 images of the bundled model, 4 of Stable Diffusion 1.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """One policy's held-out images and what the objectives say of them."""

    prompts: tuple[str, ...]
    images: np.ndarray
    """[N, height, width, 3] uint8."""
    values: dict[str, list[float]]
    """Objective → [N], higher is better."""
    units: dict[str, str]
    """Objective → what its values are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far an epoch's policy is from the pretrained model."""

    pixels: list[float]
    """[N] in [0, 1]: distance of each held-out image to the pretrained model's of the same noise."""
    kl: list[float]
    """[up to 16] nats, mean over C, H, W and over the transitions of each of the first held-out prompts."""


def evaluate_epoch(context: EpochContext) -> tuple[HeldOut, HeldOut, Drift]:
    """The held-out images before and after the epoch's training, and how far it is from the pretrained model by now.

    An epoch's "before" is what its parent ended with; it is computed again rather than trusted from a derived file.
    """
    configuration = context.configuration
    policy = policy_for(configuration)
    state = starting_state(context)
    if state is None:
        before = held_out(configuration, policy)
        pretrained = before.images
    else:
        pretrained = _images(configuration, policy)
        policy.load_lora_state(state.lora)
        before = held_out(configuration, policy)
    policy.load_lora_state(state_after(context, context.number).lora)
    after = held_out(configuration, policy)
    drift = Drift(pixels=pixel_distance(after.images, pretrained).tolist(), kl=_kl(configuration, policy))
    return before, after, drift


def compare(before: HeldOut, after: HeldOut) -> list[Comparison]:
    """Each objective's paired difference."""
    return [paired(name, unit, before.values[name], after.values[name]) for name, unit in before.units.items()]


def to_json(
    configuration: Configuration, comparisons: list[Comparison], before: HeldOut, after: HeldOut, drift: Drift
) -> str:
    """What the report keeps: every single value, so that other statistics can be made of it, and what they mean."""
    return json.dumps(
        {
            "format": EVALUATION_FORMAT,
            "objectives": definitions(configuration, configuration.evaluation.objectives),
            "comparisons": [asdict(item) for item in comparisons],
            "prompts": before.prompts,
            "before": before.values,
            "after": after.values,
            "drift": asdict(drift),
        },
        indent=1,
    )


def held_out(configuration: Configuration, policy: Policy) -> HeldOut:
    """The held-out prompts' images by this policy, and the configured objectives' values of them."""
    prompts = read_prompts(configuration.evaluation.prompts)
    images = _images(configuration, policy)
    return HeldOut(
        prompts=tuple(prompts),
        images=images,
        values={name: found.tolist() for name, found in objective_values(configuration, images, prompts).items()},
        units={name: programmed_objective(configuration, name).unit for name in configuration.evaluation.objectives},
    )


def _images(configuration: Configuration, policy: Policy) -> np.ndarray:
    begun = time.perf_counter()
    images = np.concatenate([batch.images for batch, _ in _sampled(configuration, policy)])
    logger().info("%d held-out images computed in %.2f s", len(images), time.perf_counter() - begun)
    return images


def _kl(configuration: Configuration, policy: Policy) -> list[float]:
    """Two network evaluations a transition: of a few prompts, which tell as much."""
    begun = time.perf_counter()
    found = [
        kl_to_pretrained(policy, batch, embeds) for batch, embeds in _sampled(configuration, policy, KL_PROMPTS, False)
    ]
    logger().info("the KL to the pretrained model computed in %.2f s", time.perf_counter() - begun)
    return np.concatenate(found).tolist()


def _sampled(
    configuration: Configuration, policy: Policy, most: int | None = None, images: bool = True
) -> Iterator[tuple[Trajectories, torch.Tensor]]:
    """One trajectory a held-out prompt, in batches, with their prompts' embeddings."""
    prompts = read_prompts(configuration.evaluation.prompts)[:most]
    groups = [group_of(index, prompt) for index, prompt in enumerate(prompts)]
    distinct = sorted({*prompts, ""})
    embeds = dict(zip(distinct, policy.encode(distinct), strict=True))
    size = max(1, LATENTS_AT_ONCE // math.prod(policy.latent_shape))
    batches = [groups[start : start + size] for start in range(0, len(groups), size)]
    # One image has its group's x_T whatever the groups of an epoch share: every method is measured on the same noise.
    one_each = configuration.sampling.model_copy(update={"group_size": 1, "shared_initial_noise": True})
    for batch in rollout(
        policy, batches, one_each, run_seed=configuration.seed, epoch=None, embeds=embeds, images=images
    ):
        yield batch, torch.stack([embeds[prompt] for prompt in batch.prompts])


def objective_values(
    configuration: Configuration, images: np.ndarray, prompts: Sequence[str], names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """What each configured objective (or each of ``names``) says of images: name → [N] float64, higher is better."""
    wanted = names or configuration.evaluation.objectives
    return {name: programmed_objective(configuration, name)(images, prompts) for name in wanted}
