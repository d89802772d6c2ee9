"""The pretrained model's log-probs, where the objective holds the policy to it: once per image and epoch, then stored.

With reference ``epoch_start`` none of this is needed: the log-probs stored at sampling are the reference's.
"""

from collections.abc import Sequence

import torch

from d3po_core.devices import use_threads
from d3po_core.gradients import GroupData, log_probs
from d3po_core.objectives.base import GroupPairs
from d3po_core.policy import Policy
from d3po_core.records import Trajectories, TrajectorySource
from d3po_core.step_data import check_same_schedule

__all__ = ["reference_log_probs"]


@torch.no_grad()
def reference_log_probs(
    policy: Policy,
    source: TrajectorySource,
    group_ids: Sequence[str],
    *,
    micro_batch: int,
) -> dict[str, torch.Tensor]:
    """Log-probs of the stored actions under the pretrained model: the same network with its adapter off.

    Each image once, in batches of ``micro_batch`` rows over these groups.

    Returns:
        trajectory id -> [T] float64, NaN where a step has no density.
    """
    use_threads(policy.threads)
    trajectories = source.read(list(group_ids))
    check_same_schedule(policy, trajectories)
    policy.use_null_embeds(source.prompt_embeds([""])[0])
    steps = tuple(int(step) for step in torch.nonzero(policy.schedule.trainable).flatten())
    result = {name: torch.full((len(policy.schedule),), torch.nan, dtype=torch.float64) for name in trajectories.ids}
    images = [
        _single(trajectories, row, prompt, steps)
        for row, prompt in enumerate(source.prompt_embeds(list(trajectories.prompts)))
    ]
    with policy.reference():
        every = [(image, 0, place) for image in range(len(images)) for place in range(len(steps))]
        for first in range(0, len(every), micro_batch):
            rows = every[first : first + micro_batch]
            _, values = log_probs(policy, images, rows)
            for (image, _, place), value in zip(rows, values.cpu(), strict=True):
                result[trajectories.ids[image]][steps[place]] = value
    return result


def _single(trajectories: Trajectories, row: int, embeds: torch.Tensor, steps: tuple[int, ...]) -> GroupData:
    """One trajectory as a group of its own, without pairs."""
    stored, none = trajectories.log_prob[row : row + 1][:, list(steps)], torch.empty(0, dtype=torch.int64)
    return GroupData(
        ids=(trajectories.ids[row],),
        latents=trajectories.latents[row : row + 1],
        embeds=embeds,
        transitions=steps,
        stored=stored,
        reference=stored,
        pairs=GroupPairs(preferred=none, dispreferred=none, target=none.double()),
    )
