"""The labeling screen that a configuration asks for."""

from typing import TYPE_CHECKING

from tasks.label_studio.screens import Screen, compare_screen, mark_screen

if TYPE_CHECKING:
    from tasks.config import LabelsConfig

__all__ = ["screen_of"]


def screen_of(labels: "LabelsConfig", group_size: int) -> Screen:
    """What people see of groups of this size.

    Raises:
        ValueError: It cannot be shown, e.g. more images than there are hotkeys.
    """
    if labels.screen == "compare":
        return compare_screen(pixelated=labels.pixelated, instructions=labels.instructions)
    return mark_screen(
        group_size, choice=labels.mark_choice, pixelated=labels.pixelated, instructions=labels.instructions
    )
