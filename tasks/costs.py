"""What an epoch costs, by arithmetic alone: network evaluations, judgements, bytes on disk. No model is loaded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.config import Configuration
from tasks.labels.gold import known_answers

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
    """That settle the groups; the epoch waits for these."""
    known_answer_judgements: int
    """Of comparisons with a known answer, shown among the others; the epoch does not wait for them."""
    pairs: int
    """At most: a group without a preference has none."""
    sampling_evaluations: int
    training_evaluations: int
    """With gradient, at most."""
    busiest_process: float
    """The share of them that the process with the most has: whole groups of each step are dealt in turn."""
    first_passes: int
    """1 where the objective couples more than a micro-batch holds: a pass without gradient beside each evaluation with
    it, but for the first optimizer step's, whose log-probs are stored."""
    pretrained_passes: int
    """The pretrained model's beside each: for a KL, or for its denoising errors."""
    reference_evaluations: int
    """Of the pretrained model's log-probs, from a run's second epoch on."""
    held_out_evaluations: int
    """Before and after."""
    pretrained_held_out_evaluations: int
    """The pretrained model's, which the drift is from, where it is not the one before: from a run's second epoch on."""
    optimizer_steps: int
    checkpoints: int
    """At most, the last one included: the adapter and both moments of its optimizer."""
    groups: int
    held_out: int
    """Prompts that are sampled before and after."""
    trajectory_bytes: int
    """Of one trajectory: T+1 latents."""

    @property
    def passes_without_gradient(self) -> int:
        """Beside each training evaluation, at most."""
        return self.first_passes + self.pretrained_passes

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
        micro_batch: As found on the device; what the objective couples takes two passes where it is more than that.
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
    # Not every image of a group has won a comparison.
    learned_from = size - 1 if objective.spec.labels == "preferred" else size
    trained = learned_from * transitions - (
        0 if training.transitions_per_trajectory or denoising else saved
    )  # a subset may be without it
    coupled = {"image": 1, "transition": learned_from, "trajectory": trained}[objective.spec.couples]
    two_passes = coupled > (micro_batch or training.micro_batch or coupled)
    held = objective.reference == "pretrained"
    optimizer_steps = training.inner_epochs * math.ceil(groups / training.groups_per_step)
    return EpochCosts(
        images=groups * size,
        judgements=groups * labels.judgements_per_group + round(groups * labels.repeat_fraction),
        known_answer_judgements=known_answers(labels, groups) * labels.judgements_per_group,
        pairs=groups * _pairs_of_a_group(configuration),
        sampling_evaluations=rows * groups * evaluated,
        # Denoising losses are of the prompt's row alone, without guidance.
        training_evaluations=(1 if denoising else rows) * groups * trained * training.inner_epochs,
        busiest_process=_busiest_process(
            groups, training.groups_per_step, configuration.orchestration.training_processes
        ),
        first_passes=int(two_passes),
        pretrained_passes=bool(objective.kl_weight) + (denoising and held),
        reference_evaluations=rows * groups * evaluated if held and not denoising else 0,
        held_out_evaluations=2 * rows * held_out * steps,
        pretrained_held_out_evaluations=rows * held_out * steps,
        optimizer_steps=optimizer_steps,
        checkpoints=1 + (optimizer_steps - 1) // training.checkpoint_every,
        groups=groups,
        held_out=held_out,
        trajectory_bytes=(steps + 1) * math.prod(latent_shape) * BYTES[sampling.latent_dtype],
    )


def _pairs_of_a_group(configuration: Configuration) -> int:
    """At most."""
    labels, size = configuration.labels, configuration.sampling.group_size
    if labels.source == "people" and labels.screen == "compare":
        return 1
    one_judge = labels.judgements_per_group == 1 and not labels.repeat_fraction
    # Marks part a group in two, and so do majorities of them: whoever is better than one image is worse than none. A
    # programme may put all images in order, and of several people's marks split votes are pairs as well.
    if labels.source == "people" and (one_judge or configuration.training.votes == "majority"):
        return (size // 2) * math.ceil(size / 2)
    return size * (size - 1) // 2


def _busiest_process(groups: int, groups_per_step: int, processes: int) -> float:
    whole, rest = divmod(groups, groups_per_step)
    return (whole * math.ceil(groups_per_step / processes) + math.ceil(rest / processes)) / groups
