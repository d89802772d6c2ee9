"""The pretrained model's log-probs, where the objective holds the policy to it: once per image and epoch, then stored.

With reference ``epoch_start`` none of this is needed: the log-probs stored at sampling are the reference's.
"""

import math
from collections.abc import Mapping, Sequence

import torch

from d3po_core.devices import use_threads
from d3po_core.evaluations import cut, every_evaluation, names, values_of
from d3po_core.group_data import GroupData, GroupPairs
from d3po_core.policy import Policy
from d3po_core.records import Trajectories, TrajectorySource
from d3po_core.step_data import check_same_schedule, have_same_start

__all__ = ["reference_log_probs"]


EVALUATED_LATENTS = 32768


def _batch_size(latent_shape: tuple[int, int, int]) -> int:
    """Evaluations at once, by a fixed rule (32,768 latent values): what is stored must not depend on a setting."""
    return max(1, min(64, EVALUATED_LATENTS // math.prod(latent_shape)))


@torch.no_grad()
def reference_log_probs(
    policy: Policy,
    source: TrajectorySource,
    group_ids: Sequence[str],
) -> dict[str, torch.Tensor]:
    """Log-probs of the stored actions under the pretrained model: the same network with its adapter off.

    Each state once, in batches over these groups.

    Returns:
        trajectory id -> [T] float64, NaN where a step has no density.
    """
    use_threads(policy.threads)
    trajectories = source.read(list(group_ids))
    check_same_schedule(policy, trajectories)
    policy.use_null_embeds(source.prompt_embeds([""])[0])
    steps = tuple(int(step) for step in torch.nonzero(policy.schedule.trainable).flatten())
    result = {name: torch.full((len(policy.schedule),), torch.nan, dtype=torch.float64) for name in trajectories.ids}
    prompts = list(dict.fromkeys(trajectories.prompts))
    embeds = dict(zip(prompts, source.prompt_embeds(prompts), strict=True))
    groups = [_without_pairs(embeds, trajectories, group, steps) for group in dict.fromkeys(trajectories.group_ids)]
    with policy.reference():
        for batch in cut(every_evaluation(groups), _batch_size(policy.latent_shape)):
            _, values = values_of(policy, groups, batch)
            for (name, step), value in zip(names(groups, batch), values.cpu(), strict=True):
                result[name][step] = value
    return result


def _without_pairs(
    embeds: Mapping[str, torch.Tensor], trajectories: Trajectories, group: str, steps: tuple[int, ...]
) -> GroupData:
    """All images of a group, none of them in a pair."""
    rows = [row for row, own in enumerate(trajectories.group_ids) if own == group]
    stored = trajectories.log_prob[rows][:, list(steps)]
    latents = trajectories.latents[rows]
    return GroupData(
        ids=tuple(trajectories.ids[row] for row in rows),
        latents=latents,
        embeds=embeds[trajectories.prompts[rows[0]]],
        transitions=steps,
        stored=stored,
        reference=stored,
        pairs=GroupPairs.none(),
        rewards=torch.full((len(rows),), torch.nan, dtype=torch.float64),
        same_start=have_same_start(latents),
    )
