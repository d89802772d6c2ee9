"""``d3po plan``: what an epoch will cost, before anything of it runs."""

import os
from collections.abc import Iterator, Mapping, Sequence

from d3po_core.policy import Policy
from tasks.config import Configuration
from tasks.costs import EpochCosts, epoch_costs
from tasks.evaluation.held_out import KL_PROMPTS
from tasks.generation.prompts import read_prompts
from tasks.policies import policy_for
from tasks.programmed import ObjectiveTimes, time_objective
from tasks.timing import StepTimes, drawing_seconds, time_steps
from tasks.training.micro_batch import micro_batch

__all__ = ["cost_card", "disk_megabytes"]

LATER = "(from the second epoch on)"


def cost_card(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """(what, how much), by arithmetic and by a few timed steps on this device."""
    held_out = len(read_prompts(configuration.evaluation.prompts)) if configuration.evaluation.prompts else 0
    policy = policy_for(configuration)
    rows = micro_batch(configuration)
    costs = epoch_costs(configuration, policy.latent_shape, held_out, rows)
    times = time_steps(policy, configuration, rows)
    yield "images", f"{costs.images:,}"
    yield from _judgements(configuration, costs)
    yield "pairs at most", f"{costs.pairs:,}"
    yield "optimizer steps at most", f"{costs.optimizer_steps:,}"
    yield "network evaluations, sampling", f"{costs.sampling_evaluations:,}"
    yield "… training, with gradient", f"{costs.training_evaluations:,}"
    if costs.passes_without_gradient:
        without = costs.training_evaluations * costs.passes_without_gradient
        yield "… training, without gradient", f"{without:,}"
    if costs.reference_evaluations:
        yield f"… the pretrained model's log-probs {LATER}", f"{costs.reference_evaluations:,}"
    yield "… held-out images, before and after", f"{costs.held_out_evaluations:,}"
    if costs.pretrained_held_out_evaluations:
        yield f"… the pretrained model's {LATER}", f"{costs.pretrained_held_out_evaluations:,}"
    yield "on disk", f"{disk_megabytes(policy, costs):,.1f} MB"
    yield "peak memory", f"{times.peak_megabytes:,.0f} MB ({policy.device.type})"
    looks = _objective_times(configuration, costs, policy.image_size)
    first = _first_epoch(configuration, costs, times, looks, policy)
    later = _later_epochs(configuration, costs, times)
    for what, seconds in (first | later).items():
        if seconds:
            yield what, _duration(seconds)
    together = sum(first.values())
    yield "together, without the people", _duration(together)
    if any(later.values()):
        yield f"together {LATER}", _duration(together + sum(later.values()))


def _judgements(configuration: Configuration, costs: EpochCosts) -> Iterator[tuple[str, str]]:
    if configuration.labels.source != "people":
        yield "judgements to collect", "none"
        return
    yield "judgements to collect", f"{costs.judgements + costs.known_answer_judgements:,}"
    if costs.known_answer_judgements:
        yield "… of these known answers, which the epoch does not wait for", f"{costs.known_answer_judgements:,}"


def disk_megabytes(policy: Policy, costs: EpochCosts) -> float:
    """What an epoch of this policy puts on the disk, in 10^6 bytes."""
    return costs.disk_megabytes(
        image_size=policy.image_size,
        prompt_values=policy.encode([""]).numel(),
        adapter_values=sum(parameter.numel() for parameter in policy.lora_parameters().values()),
    )


def _first_epoch(
    configuration: Configuration,
    costs: EpochCosts,
    times: StepTimes,
    looks: Mapping[str, ObjectiveTimes],
    policy: Policy,
) -> dict[str, float]:
    """Seconds by stage."""
    rows = 1 if configuration.sampling.guidance_scale == 1 else 2
    labels, processes = configuration.labels, configuration.orchestration.training_processes
    # The flow's process starts once more when people have judged; the training has a process of its own, without Prefect.
    flows = 2 if labels.source == "people" else 1
    # A first pass has the adapter beside the weights; where it is off, it takes no more than in them.
    training = (
        times.trained_evaluation
        + costs.first_passes * times.unmerged_evaluation
        + costs.pretrained_passes * times.sampled_evaluation
    )
    return {
        "generate": costs.sampling_evaluations / rows * times.sampled_evaluation
        + costs.images * (times.decoded_image + times.stored_image),
        "judge": _looking(looks, labels.objectives if labels.source == "programmed" else (), costs.images),
        "train" if processes == 1 else f"train, on {processes} processes": costs.training_evaluations
        / rows
        * training
        * costs.busiest_process
        * _crowding(configuration, policy.device.type),
        "report": _report(configuration, costs, times, looks) + drawing_seconds(policy.image_size, costs.held_out),
        "starts of processes": flows * (times.start + times.orchestration_import) + times.start,
    }


def _report(
    configuration: Configuration, costs: EpochCosts, times: StepTimes, looks: Mapping[str, ObjectiveTimes]
) -> float:
    """Held-out images before and after, what the objectives say of them, their KL to the pretrained model."""
    rows = 1 if configuration.sampling.guidance_scale == 1 else 2
    sampled = costs.held_out_evaluations / rows * times.sampled_evaluation
    decoded = 2 * costs.held_out * times.decoded_image
    names = configuration.evaluation.objectives if costs.held_out else ()
    measured = _looking(looks, names, 2 * costs.held_out)
    # Some trajectories once more, and at each transition the policy's mean and the pretrained model's.
    transitions = min(costs.held_out, KL_PROMPTS) * configuration.sampling.num_inference_steps
    kl = transitions * (2 * times.sampled_evaluation + times.unmerged_evaluation)
    return sampled + decoded + measured + kl


def _later_epochs(configuration: Configuration, costs: EpochCosts, times: StepTimes) -> dict[str, float]:
    """Seconds of what the first epoch has at hand: its policy begins as the pretrained model."""
    rows = 1 if configuration.sampling.guidance_scale == 1 else 2
    return {
        f"the pretrained model's log-probs {LATER}": costs.reference_evaluations / rows * times.sampled_evaluation,
        f"the pretrained model's held-out images {LATER}": costs.pretrained_held_out_evaluations
        / rows
        * times.sampled_evaluation
        + costs.held_out * times.decoded_image,
    }


def _objective_times(configuration: Configuration, costs: EpochCosts, image_size: int) -> dict[str, ObjectiveTimes]:
    """Of those that an epoch needs: it judges by some, and measures held-out images by some."""
    judging = configuration.labels.objectives if configuration.labels.source == "programmed" else ()
    measuring = configuration.evaluation.objectives if costs.held_out else ()
    if not (names := dict.fromkeys((*judging, *measuring))):
        return {}
    prompt = read_prompts(configuration.prompts.file)[0]
    return {name: time_objective(configuration, name, image_size, prompt) for name in names}


def _looking(times: Mapping[str, ObjectiveTimes], names: Sequence[str], images: int) -> float:
    """Seconds that these objectives take for so many images, each loaded anew: it was let go before the training."""
    return sum(times[name].loading + images * times[name].picture for name in names)


def _crowding(configuration: Configuration, device: str) -> float:
    """How much longer a training process takes beside the others than alone: they share cores, or one named GPU."""
    processes, threads = configuration.orchestration.training_processes, configuration.orchestration.threads
    if device == "cuda":
        return 1.0 if configuration.model.device in ("auto", "cuda") else processes
    return max(1.0, processes * threads / max(threads, os.cpu_count() or 1))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"
