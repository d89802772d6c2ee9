"""Programmed objectives: functions of images (and prompts) that can stand in for people. Higher is better."""

from d3po_core.programmed.jpeg import jpeg_compressibility, jpeg_incompressibility, jpeg_size_kb
from d3po_core.programmed.objective import ProgrammedObjective

__all__ = ["OBJECTIVES", "ProgrammedObjective", "jpeg_size_kb"]


OBJECTIVES: dict[str, ProgrammedObjective] = {
    objective.name: objective
    for objective in (
        ProgrammedObjective(jpeg_compressibility, "minus the JPEG size in kB", "jpeg_compressibility"),
        ProgrammedObjective(jpeg_incompressibility, "the JPEG size in kB", "jpeg_incompressibility"),
    )
}
"""Those that need no configuration. ``loading.py`` makes the others, as a run's ``programmed`` section has them."""
