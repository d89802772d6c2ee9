"""What a step has to evaluate: the network once per state, however many actions were taken from it (METHOD 2).

Images of a group that share x_T are in one state before the first transition: one evaluation gives the mean that all
their first actions are scored against (7T − 6 evaluations instead of 7T for seven images). Evaluations are cut into
micro-batches of nearly equal size, as the last one would else be small and slow.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch

from d3po_core import ddim
from d3po_core.errors import TrainingError
from d3po_core.group_data import Draws, GroupData
from d3po_core.objectives.specs import Couples
from d3po_core.policy import Policy

__all__ = [
    "Evaluation",
    "blocks",
    "cut",
    "every_evaluation",
    "log_probs",
    "means_of",
    "micro_batches",
    "names",
    "packed",
    "values_of",
]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One state that passes through the network, and the images whose actions are scored there."""

    group: int
    place: int
    """Of the transition among the group's S."""
    images: tuple[int, ...]
    """The first one's latent is the state of all."""


def every_evaluation(groups: Sequence[GroupData]) -> list[Evaluation]:
    """All evaluations of these groups, groups in order and transitions within."""
    return [
        evaluation
        for group, data in enumerate(groups)
        for place in range(len(data.transitions))
        for evaluation in _at(groups, group, place)
    ]


def blocks(groups: Sequence[GroupData], couples: Couples) -> list[list[Evaluation]]:
    """All evaluations in their order, by what the loss couples: a block gives all values that one of its coefficients takes.

    Images that share a state are one evaluation, so an objective that couples nothing has blocks of one.
    """
    coupled: dict[Couples, Callable[[Evaluation], object]] = {
        "image": lambda one: one,
        "transition": lambda one: (one.group, one.place),
        "trajectory": lambda one: one.group,
    }
    return [list(block) for _, block in groupby(every_evaluation(groups), coupled[couples])]


def packed(whole: Sequence[Sequence[Evaluation]], size: int) -> Iterator[list[Evaluation]]:
    """Whole blocks, none larger than ``size``, in micro-batches."""
    for batch in micro_batches([len(block) for block in whole], size):
        yield [one for index in batch for one in whole[index]]


def cut(evaluations: Sequence[Evaluation], size: int) -> Iterator[list[Evaluation]]:
    """Evaluations in micro-batches."""
    return packed([[one] for one in evaluations], size)


def micro_batches(weights: Sequence[int], size: int) -> Iterator[range]:
    """Cut a sequence into runs whose weights add up to at most ``size``: as few as its order allows, and even ones.

    Of all cuts into that few runs it is one whose largest is as small as can be.
    """
    if not weights:
        return
    fewest = len(_cut_at(weights, size))
    low, high = max(weights), size
    while low < high:  # the smallest limit that does not take more runs
        middle = (low + high) // 2
        low, high = (low, middle) if len(_cut_at(weights, middle)) <= fewest else (middle + 1, high)
    ends = _cut_at(weights, low)
    yield from (range(first, end) for first, end in pairwise((0, *ends)))


def _cut_at(weights: Sequence[int], limit: int) -> list[int]:
    """Where runs end that are filled one after the other up to a limit."""
    ends, load = [], 0
    for index, weight in enumerate(weights):
        if load and load + weight > limit:
            ends.append(index)
            load = 0
        load += weight
    return [*ends, len(weights)]


def _at(groups: Sequence[GroupData], group: int, place: int) -> list[Evaluation]:
    images = tuple(range(len(groups[group].ids)))
    if groups[group].states(place) == 1:
        return [Evaluation(group, place, images)]
    return [Evaluation(group, place, (image,)) for image in images]


def values_of(
    policy: Policy, groups: Sequence[GroupData], evaluations: Sequence[Evaluation]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the loss depends on: log-probs of the stored actions or, for groups with draws, denoising errors.

    Returns:
        The network's part [evaluations, C, H, W] (means, or noise predictions) that gradients pass through, and the
        values [images] float64: of the first evaluation's images, then of the second's, and so on.

    Raises:
        TrainingError: where a value is not finite, naming the trajectories.
    """
    denoising = groups[evaluations[0].group].draws is not None
    output, values = (denoising_errors if denoising else log_probs)(policy, groups, evaluations)
    _check_finite(groups, evaluations, values, "denoising error" if denoising else "log-prob")
    return output, values


def means_of(
    policy: Policy, groups: Sequence[GroupData], evaluations: Sequence[Evaluation]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy's means [evaluations, C, H, W] and σ [evaluations] float64 at these states."""
    steps = [groups[one.group].transitions[one.place] for one in evaluations]
    states = torch.stack(
        [groups[one.group].latents[one.images[0], step] for one, step in zip(evaluations, steps, strict=True)]
    )
    return policy.transition(states, torch.tensor(steps), _embeds(groups, evaluations))


def log_probs(
    policy: Policy, groups: Sequence[GroupData], evaluations: Sequence[Evaluation]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy's means, and its log-probs [images] float64 of the stored actions, as ``values_of`` has them."""
    mean, sigma = means_of(policy, groups, evaluations)
    steps = [groups[one.group].transitions[one.place] for one in evaluations]
    actions = torch.cat(
        [groups[one.group].latents[list(one.images), step + 1] for one, step in zip(evaluations, steps, strict=True)]
    )
    counts = torch.tensor([len(one.images) for one in evaluations], device=mean.device)
    values = ddim.log_prob(actions, mean.repeat_interleave(counts, dim=0), sigma.repeat_interleave(counts, dim=0))
    return mean, values


def denoising_errors(
    policy: Policy, groups: Sequence[GroupData], evaluations: Sequence[Evaluation]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The predicted noise, and its mean squared error [images] float64, as ``values_of`` has them."""
    own = [groups[one.group] for one in evaluations]
    clean = torch.stack([group.latents[one.images[0], -1] for group, one in zip(own, evaluations, strict=True)])
    timesteps = torch.stack([_draws(group).timesteps[one.place] for group, one in zip(own, evaluations, strict=True)])
    noise = torch.stack([_draws(group).noise[one.place] for group, one in zip(own, evaluations, strict=True)])
    predicted = policy.predicted_noise(clean, timesteps, noise, _embeds(groups, evaluations))
    errors = (predicted.double() - noise.to(predicted.device).double()) ** 2
    return predicted, errors.flatten(1).mean(dim=1)


def _draws(group: GroupData) -> Draws:
    assert group.draws is not None, "all groups of a step have draws, or none"
    return group.draws


def _embeds(groups: Sequence[GroupData], evaluations: Sequence[Evaluation]) -> torch.Tensor:
    return torch.stack([groups[one.group].embeds for one in evaluations])


def _check_finite(
    groups: Sequence[GroupData], evaluations: Sequence[Evaluation], values: torch.Tensor, what: str
) -> None:
    finite = values.detach().isfinite().cpu()
    if bool(finite.all()):
        return
    places = [name for name, fine in zip(names(groups, evaluations), finite.tolist(), strict=True) if not fine]
    bad = [f"{trajectory} (step {step})" for trajectory, step in places]
    raise TrainingError(
        f"The {what} is not finite for {len(bad)} of {len(finite)} transitions: {', '.join(bad[:8])}. Nothing of "
        "this step was applied. Lower training.learning_rate or use model.dtype float32, then `d3po run CONFIG --retrain`."
    )


def names(groups: Sequence[GroupData], evaluations: Sequence[Evaluation]) -> list[tuple[str, int]]:
    """(trajectory id, denoising step) of each value that ``values_of`` gives."""
    return [
        (groups[one.group].ids[image], groups[one.group].transitions[one.place])
        for one in evaluations
        for image in one.images
    ]
