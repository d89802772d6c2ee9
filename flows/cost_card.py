"""``d3po plan``: what an epoch will cost, before anything of it runs."""

from collections.abc import Iterator

from d3po_core.policy import Policy
from tasks.config import Configuration
from tasks.costs import EpochCosts, epoch_costs
from tasks.evaluation.held_out import KL_PROMPTS
from tasks.generation.prompts import read_prompts
from tasks.policies import policy_for
from tasks.timing import StepTimes, drawing_seconds, time_steps
from tasks.training.micro_batch import micro_batch

__all__ = ["cost_card", "disk_megabytes"]


def cost_card(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """(what, how much), by arithmetic and by a few timed steps on this device."""
    held_out = len(read_prompts(configuration.evaluation.prompts)) if configuration.evaluation.prompts else 0
    policy = policy_for(configuration)
    rows = micro_batch(configuration)
    costs = epoch_costs(configuration, policy.latent_shape, held_out, rows)
    times = time_steps(policy, configuration, rows)
    yield "images", f"{costs.images:,}"
    yield "judgements to collect", f"{costs.judgements:,}" if configuration.labels.source == "people" else "none"
    yield "pairs at most", f"{costs.pairs:,}"
    yield "optimizer steps at most", f"{costs.optimizer_steps:,}"
    yield "network evaluations, sampling", f"{costs.sampling_evaluations:,}"
    yield "… training, with gradient", f"{costs.training_evaluations:,}"
    if costs.passes_without_gradient:
        without = costs.training_evaluations * costs.passes_without_gradient
        yield "… training, without gradient", f"{without:,}"
    if costs.reference_evaluations:
        yield "… the pretrained model's log-probs (from the second epoch on)", f"{costs.reference_evaluations:,}"
    yield "… held-out images, before and after", f"{costs.held_out_evaluations:,}"
    yield "on disk", f"{disk_megabytes(policy, costs):,.1f} MB"
    yield "peak memory", f"{times.peak_megabytes:,.0f} MB ({policy.device.type})"
    drawing = drawing_seconds(policy.image_size, held_out)
    for what, seconds in _seconds(configuration, costs, times, held_out, drawing).items():
        yield what, _duration(seconds)


def disk_megabytes(policy: Policy, costs: EpochCosts) -> float:
    """What an epoch of this policy puts on the disk, in 10^6 bytes."""
    return costs.disk_megabytes(
        image_size=policy.image_size,
        prompt_values=policy.encode([""]).numel(),
        adapter_values=sum(parameter.numel() for parameter in policy.lora_parameters().values()),
    )


def _seconds(
    configuration: Configuration, costs: EpochCosts, times: StepTimes, held_out: int, drawing: float
) -> dict[str, float]:
    rows = 1 if configuration.sampling.guidance_scale == 1 else 2
    # The flow's process starts once more when people have judged; the training has a process of its own, without Prefect.
    flows = 2 if configuration.labels.source == "people" else 1
    starts = flows * (times.start + times.orchestration_import) + times.start
    kl = 3 * min(held_out, KL_PROMPTS) * configuration.sampling.num_inference_steps * times.sampled_evaluation
    stages = {
        "generate": costs.sampling_evaluations / rows * times.sampled_evaluation
        + costs.images * (times.decoded_image + times.stored_image),
        "train": costs.training_evaluations
        / rows
        * (times.trained_evaluation + costs.passes_without_gradient * times.sampled_evaluation),
        "the pretrained model's log-probs (from the second epoch on)": costs.reference_evaluations
        / rows
        * times.sampled_evaluation,
        "report": costs.held_out_evaluations / rows * times.sampled_evaluation
        + 2 * held_out * times.decoded_image
        + kl
        + drawing,
        "starts of processes": starts,
    }
    needed = {what: seconds for what, seconds in stages.items() if seconds}
    return needed | {"together, without the people": sum(needed.values())}


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"
