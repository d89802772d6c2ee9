"""The images of an evaluation's candidates: fixed prompts, fixed noise, kept as parts that need not be made twice.

Image i of a prompt has a start x_T of its own, the same for every candidate and every η; the steps' noise is the same
for every candidate. No address has an epoch in it.
"""

import io
import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from d3po_core.drift import kl_to_pretrained
from d3po_core.policy import Policy
from d3po_core.records import Group, Trajectories
from d3po_core.rollout import rollout
from storage.evaluation import Evaluation, Part
from tasks.config import Configuration
from tasks.errors import UserError
from tasks.evaluation.candidates import Candidate, policy_of
from tasks.evaluation.held_out import LATENTS_AT_ONCE
from tasks.evaluation.names import BASE, group_of, images_name
from tasks.log import logger
from tasks.reports.figures import png

__all__ = ["generate_images", "images_by_group"]


def generate_images(
    evaluation: Evaluation, configuration: Configuration, candidate: Candidate, eta: float, prompts: list[str]
) -> Part:
    """The candidate's images at this η: the ones that are there and whole, else made now.

    With them, in the part's details, the KL to the pretrained model by image id: of each prompt's first image, where
    η > 0 and the candidate is not the pretrained model.

    Raises:
        UserError: There are images under this name, of another adapter.
    """
    name = images_name(candidate.name, eta)
    existing = evaluation.part(name)
    if existing is not None:
        if existing.details["digest"] != candidate.digest:
            raise UserError(
                f"{evaluation.location} has images of another adapter under the name {candidate.name} "
                f"({existing.details['source']}, now {candidate.source})",
                remedy="give it another name (--adapter NAME=…), or the evaluation another --name",
            )
        return existing
    begun = time.perf_counter()
    policy, making = policy_of(configuration, candidate, eta), evaluation.begin(name)
    embeds = dict(zip(distinct := sorted({*prompts, ""}), policy.encode(distinct), strict=True))
    count, kl = configuration.evaluation.images_per_prompt, {}
    sampling = configuration.sampling.model_copy(
        update={"group_size": count, "shared_initial_noise": False, "eta": eta}
    )
    groups = [group_of(index, prompt) for index, prompt in enumerate(prompts)]
    at_once = max(1, LATENTS_AT_ONCE // math.prod(policy.latent_shape) // count)
    batches = [groups[start : start + at_once] for start in range(0, len(groups), at_once)]
    made = 0
    for generated in rollout(policy, batches, sampling, run_seed=configuration.seed, epoch=None, embeds=embeds):
        for id, image in zip(generated.ids, generated.images, strict=True):
            evaluation.add(making, f"{id}.png", png(image))
        if candidate.name != BASE and bool(generated.trainable.any()):
            kl |= _kl_of_first_images(policy, generated, embeds, count)
        made += len(generated)
    logger().info(
        "%d images of %s at η = %g computed in %.2f s", made, candidate.name, eta, time.perf_counter() - begun
    )
    return evaluation.finish(making, {"digest": candidate.digest, "source": candidate.source, "kl": kl})


def images_by_group(evaluation: Evaluation, part: Part, groups: list[Group], count: int) -> Iterator[np.ndarray]:
    """[count, height, width, 3] uint8 of each group, one after the other."""
    for group in groups:
        yield np.stack(
            [
                np.asarray(Image.open(io.BytesIO(evaluation.read_part(part, f"{id}.png"))).convert("RGB"))
                for id in group.trajectory_ids(count)
            ]
        )


def _kl_of_first_images(
    policy: Policy, generated: Trajectories, embeds: dict[str, torch.Tensor], count: int
) -> dict[str, float]:
    first = generated.select(range(0, len(generated), count))
    values = kl_to_pretrained(policy, first, torch.stack([embeds[prompt] for prompt in first.prompts]))
    return dict(zip(first.ids, values.tolist(), strict=True))
