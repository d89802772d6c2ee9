"""Programmed objectives: functions of images (and prompts) that can stand in for people. Higher is better."""

from collections.abc import Callable, Sequence

import numpy as np

from d3po_core.programmed.jpeg import jpeg_compressibility, jpeg_incompressibility, jpeg_size_kb

__all__ = ["OBJECTIVES", "UNITS", "ProgrammedObjective", "get_programmed_objective", "jpeg_size_kb"]

ProgrammedObjective = Callable[[np.ndarray, Sequence[str]], np.ndarray]
"""(images [N, h, w, 3] uint8, prompts [N]) -> [N] float64."""

OBJECTIVES: dict[str, ProgrammedObjective] = {
    "jpeg_compressibility": jpeg_compressibility,
    "jpeg_incompressibility": jpeg_incompressibility,
}

UNITS = {"jpeg_compressibility": "minus the JPEG size in kB", "jpeg_incompressibility": "the JPEG size in kB"}
"""What the values of each objective are, for people."""


def get_programmed_objective(name: str) -> ProgrammedObjective:
    """The objective of this name.

    Raises:
        ValueError: listing the names there are.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"There is no programmed objective {name!r}; there are {', '.join(sorted(OBJECTIVES))}.")
    return OBJECTIVES[name]
