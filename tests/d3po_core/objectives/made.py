"""A group made for an objective alone: the tables are the test's, the rest is just there."""

from collections.abc import Sequence

import torch

from d3po_core.group_data import GroupData, GroupPairs


def group_of(
    values_KS: torch.Tensor,
    pairs: GroupPairs | None = None,
    rewards: Sequence[float] | None = None,
    latents: torch.Tensor | None = None,
    name: str = "g000000",
) -> GroupData:
    """K images and S transitions as the table has them."""
    k, s = values_KS.shape
    return GroupData(
        ids=tuple(f"{name}-{image}" for image in range(k)),
        latents=torch.zeros(k, s + 1, 4, 8, 8) if latents is None else latents,
        embeds=torch.linspace(-1, 1, 6 * 16).reshape(6, 16),
        transitions=tuple(range(s)),
        stored=torch.zeros(k, s, dtype=torch.float64),
        reference=torch.zeros(k, s, dtype=torch.float64),
        pairs=pairs or GroupPairs.none(),
        rewards=torch.tensor([torch.nan] * k if rewards is None else rewards, dtype=torch.float64),
        same_start=False,
    )
