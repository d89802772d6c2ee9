"""What an objective learns from, by group: pairs, preferred images or rewards. Everything is joined by id."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from d3po_core.group_data import GroupPairs
from d3po_core.objectives.specs import ObjectiveSpec
from d3po_core.records import Pair, Reward

__all__ = ["Labels"]


class Labels:
    """The labels of one training as an objective's spec asks for them.

    Raises:
        ValueError: where a pair is there twice or of one image with itself, a reward twice or not finite, or rewards
            are missing altogether.
    """

    def __init__(self, spec: ObjectiveSpec, pairs: Sequence[Pair], rewards: Sequence[Reward]) -> None:
        self.spec = spec
        if spec.labels == "preferred":  # of an even split neither image is preferred
            pairs = [pair for pair in pairs if pair.target > 0.5]
        self._pairs = _pairs_by_group(pairs)
        self._rewards = _rewards_by_group(rewards)
        if spec.labels == "rewards" and not rewards:
            raise ValueError(f"{spec.title} needs a reward for each image, and none were given: judge by a programme.")

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that have a label, sorted."""
        return tuple(sorted(self._rewards if self.spec.labels == "rewards" else self._pairs))

    def images(self, group: str) -> tuple[str, ...]:
        """The images of a group that have a label, sorted."""
        if self.spec.labels == "rewards":
            return tuple(sorted(self._rewards[group]))
        names = {pair.preferred for pair in self._pairs[group]}
        if self.spec.labels == "pairs":
            names |= {pair.dispreferred for pair in self._pairs[group]}
        return tuple(sorted(names))

    def terms(self) -> dict[str, int]:
        """Group id -> terms of the loss."""
        return {group: self._terms(group) for group in self.groups}

    def pairs(self, group: str) -> GroupPairs:
        """A group's pairs by the places of their images; none for objectives that learn from something else."""
        if self.spec.labels != "pairs":
            return GroupPairs.none()
        place = {name: number for number, name in enumerate(self.images(group))}
        pairs = self._pairs[group]
        return GroupPairs(
            preferred=torch.tensor([place[pair.preferred] for pair in pairs]),
            dispreferred=torch.tensor([place[pair.dispreferred] for pair in pairs]),
            target=torch.tensor([pair.target for pair in pairs], dtype=torch.float64),
        )

    def rewards(self, group: str) -> torch.Tensor:
        """[K] float64: the images' rewards; NaN for an image without."""
        known = self._rewards.get(group, {})
        return torch.tensor([known.get(name, torch.nan) for name in self.images(group)], dtype=torch.float64)

    def _terms(self, group: str) -> int:
        images = len(self.images(group))
        return {
            "pairs": len(self._pairs.get(group, ())),
            "images": images,
            "image pairs": images * (images - 1) // 2,
            "groups": 1,
        }[self.spec.terms]


def _pairs_by_group(pairs: Sequence[Pair]) -> Mapping[str, list[Pair]]:
    """Each group's pairs, in order of their ids."""
    grouped: dict[str, list[Pair]] = defaultdict(list)
    seen: set[frozenset[str]] = set()
    for pair in sorted(pairs, key=lambda pair: (pair.group_id, pair.preferred, pair.dispreferred)):
        both = frozenset((pair.preferred, pair.dispreferred))
        if len(both) < 2 or both in seen:
            raise ValueError(f"Pair {pair.preferred} ≻ {pair.dispreferred} is given twice, or is of one image alone.")
        seen.add(both)
        grouped[pair.group_id].append(pair)
    return dict(grouped)


def _rewards_by_group(rewards: Sequence[Reward]) -> Mapping[str, dict[str, float]]:
    """Each group's rewards by image."""
    grouped: dict[str, dict[str, float]] = defaultdict(dict)
    for reward in rewards:
        own = grouped[reward.group_id]
        if reward.trajectory_id in own or not torch.isfinite(torch.tensor(reward.value)):
            raise ValueError(f"The reward of {reward.trajectory_id} is given twice, or is not finite ({reward.value}).")
        own[reward.trajectory_id] = reward.value
    return dict(grouped)
