"""What an epoch costs, by arithmetic alone: network evaluations, judgements, bytes on disk. No model is loaded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.config import Configuration

__all__ = ["EpochCosts", "epoch_costs"]

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
BYTES_PER_PIXEL = 1.5
"""Of a PNG; measured on photographs and on the bundled model's pictures, which take less."""
REPORT_PICTURES = 4
"""Times that a held-out image, before and after, is in the report's files: alone, on sheets, in the page as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCosts:
    """An epoch in numbers. A network evaluation is one row through the UNet; guidance takes two an image."""

    images: int
    judgements: int
    pairs: int
    """At most: a group without a preference has none."""
    sampling_evaluations: int
    training_evaluations: int
    """With gradient, at most."""
    passes_without_gradient: int
    """Beside each of these: a first pass where the objective couples more than a micro-batch holds, the pretrained
    model's for a KL or for its denoising errors."""
    reference_evaluations: int
    """Of the pretrained model's log-probs, from a run's second epoch on."""
    held_out_evaluations: int
    """Before and after."""
    optimizer_steps: int
    checkpoints: int
    """At most, the last one included: the adapter and both moments of its optimizer."""
    groups: int
    held_out: int
    """Prompts that are sampled before and after."""
    trajectory_bytes: int
    """Of one trajectory: T+1 latents."""

    @property
    def latents_bytes(self) -> int:
        """Of all trajectories."""
        return self.images * self.trajectory_bytes

    def disk_megabytes(self, *, image_size: int, prompt_values: int, adapter_values: int) -> float:
        """What the epoch's folder takes, in 10^6 bytes.

        Args:
            image_size: Pixels of a side.
            prompt_values: float32 values of a prompt's embedding, at most one a group, and the empty one.
            adapter_values: float32 values of the adapter, exported once and three times in each checkpoint.
        """
        images = self.images + 2 * REPORT_PICTURES * self.held_out
        values = (self.groups + 1) * prompt_values + (1 + 3 * self.checkpoints) * adapter_values
        return (self.latents_bytes + images * BYTES_PER_PIXEL * image_size**2 + 4 * values) / 1e6


def epoch_costs(
    configuration: Configuration, latent_shape: Sequence[int], held_out: int = 0, micro_batch: int | None = None
) -> EpochCosts:
    """The arithmetic of one epoch.

    Args:
        configuration: What is to be run.
        latent_shape: C, H, W.
        held_out: Prompts that are sampled before and after.
        micro_batch: As found on the device; a group that exceeds it takes two passes.
    """
    sampling, training, labels = configuration.sampling, configuration.training, configuration.labels
    groups, size, steps = configuration.prompts.groups_per_epoch, sampling.group_size, sampling.num_inference_steps
    rows = 1 if sampling.guidance_scale == 1 else 2
    transitions = training.transitions_per_trajectory or training.first_transitions or steps
    objective = configuration.objective
    denoising = objective.spec.quantity == "denoising_error"
    # Images that share x_T share the first evaluation.
    saved = size - 1 if sampling.shared_initial_noise else 0
    evaluated = size * steps - saved
    trained = size * transitions - (
        0 if training.transitions_per_trajectory or denoising else saved
    )  # a subset may be without it
    two_passes = objective.spec.couples == "trajectory" or size > (micro_batch or training.micro_batch or size)
    held = objective.reference == "pretrained"
    optimizer_steps = training.inner_epochs * math.ceil(groups / training.groups_per_step)
    return EpochCosts(
        images=groups * size,
        judgements=groups * labels.judgements_per_group + round(groups * labels.repeat_fraction),
        pairs=groups * (1 if labels.screen == "compare" else (size // 2) * math.ceil(size / 2)),
        sampling_evaluations=rows * groups * evaluated,
        # Denoising losses are of the prompt's row alone, without guidance.
        training_evaluations=(1 if denoising else rows) * groups * trained * training.inner_epochs,
        passes_without_gradient=two_passes + bool(objective.kl_weight) + (denoising and held),
        reference_evaluations=rows * groups * evaluated if held and not denoising else 0,
        held_out_evaluations=2 * rows * held_out * steps,
        optimizer_steps=optimizer_steps,
        checkpoints=1 + (optimizer_steps - 1) // training.checkpoint_every,
        groups=groups,
        held_out=held_out,
        trajectory_bytes=(steps + 1) * math.prod(latent_shape) * BYTES[sampling.latent_dtype],
    )
