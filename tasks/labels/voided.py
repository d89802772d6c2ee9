"""Groups that no longer count: their images were lost after people saw them, and could not be made again the same.

Their judgements stay where they are, and are left out of what is trained on or exported.
"""

from collections.abc import Iterable

from tasks.context import EpochContext

__all__ = ["VOIDS", "copy_voids", "void", "voided"]

VOIDS = "voids"


def voided(context: EpochContext) -> frozenset[str]:
    """The groups of this epoch that no longer count."""
    return frozenset(group for note in context.epoch.notes(VOIDS) for group in note["groups"])


def void(context: EpochContext, groups: Iterable[str], *, reason: str, by: str) -> None:
    """Write down that these groups no longer count, who said so and why; what is written already is not repeated."""
    if new := sorted(set(groups) - voided(context)):
        context.epoch.note(VOIDS, {"groups": new, "reason": reason, "by": by})


def copy_voids(source: EpochContext, target: EpochContext) -> None:
    """What no longer counts there does not count here."""
    for note in source.epoch.notes(VOIDS):
        void(target, note["groups"], reason=note["reason"], by=note["by"])
