"""Plots that people read at a glance, as SVG: few colours, no frames, every axis with its unit."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Literal

__all__ = ["Line", "Panel", "bars", "differences", "panel", "panels"]

COLOURS = ("#2f5fd0", "#d9480f", "#2b8a3e", "#862e9c", "#c92a2a", "#0b7285")
GREY = "#8a94a3"
PANEL_INCHES = (4.2, 2.7)
LABEL_CHARACTERS = 44
"""Of a line of a row's label: more would leave no room for the row."""

Estimate = tuple[float, float | None, float | None]
"""A value with the ends of its interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    """[len(x)] the lower ends of intervals, drawn as bars; with ``high``."""
    high: Sequence[float] | None = None
    faint: bool = False
    """Behind the others, thin: single values whose mean is another line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small plot."""

    title: str
    x_label: str
    lines: Sequence[Line]
    y_label: str = ""
    level: float | None = None
    """A value that means something by itself (chance, log 2), as a dotted line."""
    level_name: str = ""
    share: bool = False
    """Its values are shares: shown as per cent."""
    count: bool = False
    """Its values are numbers of things: shown from nothing up."""
    whole_x: bool = True
    """x are whole numbers: epochs or steps."""


def panel(wanted: Panel) -> bytes:
    """One panel as a picture of its own."""
    return panels([wanted], 1)


def panels(wanted: Sequence[Panel], columns: int = 2, kind: Literal["svg", "png"] = "svg") -> bytes:
    """Panels in one picture, as a grid."""
    columns = min(columns, len(wanted))
    rows = math.ceil(len(wanted) / columns)
    width, height = PANEL_INCHES
    with _figure(columns * width, rows * height, rows, columns) as (axes, save):
        for axis, one in zip(axes, wanted, strict=False):
            _draw(axis, one)
        for axis in axes[len(wanted) :]:
            axis.set_visible(False)
        return save(kind)


def differences(rows: Mapping[str, Estimate], title: str, label: str) -> bytes:
    """Differences to the base model as points with their intervals, one below the other; zero is a line.

    Args:
        rows: ``A, η = 1`` → the difference; what stands before the comma has one colour.
        title: What is measured.
        label: Of the axis.
    """
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(map(_whose, rows)))}
    labels = ["\n".join(wrap(name, LABEL_CHARACTERS)) for name in rows]
    lines = max(label.count("\n") + 1 for label in labels)
    with _figure(6.4, 0.9 + (0.26 + 0.16 * lines) * len(rows), 1, 1) as (axes, save):
        axis = axes[0]
        axis.axvline(0, color=GREY, linewidth=1)
        for place, (name, (value, low, high)) in enumerate(rows.items()):
            colour = colours[_whose(name)]
            if low is not None and high is not None:
                axis.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axis.plot([value], [place], "o", color=colour, markersize=6)
        axis.set_yticks(range(len(rows)), labels)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(title, loc="left")
        axis.set_xlabel(label)
        return save()


def bars(values: Mapping[str, Estimate], title: str, label: str, share: bool = True) -> bytes:
    """Bars with their intervals, as the paper's Figure 7; a name and its number at each.

    Args:
        values: Name → value and interval.
        title: What is shown.
        label: Of the axis.
        share: The values are shares, from 0 to 100 %; else plain numbers.
    """
    with _figure(6.4, 0.9 + 0.5 * len(values), 1, 1) as (axes, save):
        axis = axes[0]
        longest = 1.0 if share else max(max(value, high or 0) for value, _, high in values.values()) or 1.0
        for place, (value, low, high) in enumerate(values.values()):
            axis.barh(place, value, color=COLOURS[place % len(COLOURS) if share else 0], height=0.62, alpha=0.85)
            if low is not None and high is not None:
                axis.plot([low, high], [place, place], color="#1c2430", linewidth=1.6)
            said = f"{value:.1%}" if share else f"{value:,.0f}"
            axis.text(max(value, high or 0) + 0.015 * longest, place, said, va="center")
        axis.set_yticks(range(len(values)), list(values))
        axis.set_ylim(len(values) - 0.4, -0.6)
        axis.set_xlim(0, 1.12 * longest)
        if share:
            axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axis.set_title(title, loc="left")
        axis.set_xlabel(label)
        return save()


def _whose(row: str) -> str:
    return row.partition(",")[0]


def _draw(axis: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    if panel.level is not None:
        axis.axhline(panel.level, color=GREY, linewidth=1, linestyle=":", label=panel.level_name or None)
    strong = [line for line in panel.lines if not line.faint]
    for place, line in enumerate(strong):
        colour = COLOURS[place % len(COLOURS)]
        if line.low is not None and line.high is not None:
            axis.vlines(line.x, line.low, line.high, color=colour, linewidth=1.6, alpha=0.7)
        axis.plot(
            line.x,
            line.y,
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.6,
            label=None if line.name == panel.title else line.name,
        )
    names = {line.name: place for place, line in enumerate(strong)}
    for line in panel.lines:
        if line.faint:
            axis.plot(line.x, line.y, color=COLOURS[names.get(line.name, 0) % len(COLOURS)], linewidth=0.8, alpha=0.35)
    axis.set_title(panel.title, loc="left")
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.share:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        highest = max(max(line.y) for line in panel.lines)
        axis.set_ylim(0, 1.04 if highest > 0.3 else 1.2 * highest or 1.0)
    if panel.count:
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.set_ylim(0, 1.1 * max(max(line.y) for line in panel.lines) or 1.0)
    if panel.whole_x:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    places = {x for line in panel.lines for x in line.x}
    if len(places) == 1:  # matplotlib would show thousandths around it
        [only] = places
        axis.set_xticks([only])
        axis.set_xlim(only - 1, only + 1)
    if panel.level_name or any(line.name != panel.title for line in strong):
        axis.legend(frameon=False, fontsize=8)


@contextmanager
def _figure(width: float, height: float, rows: int, columns: int) -> Iterator[tuple[list[Any], Any]]:
    """A figure's axes in reading order, and what makes its file; closed afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "d3po",  # the same numbers are the same bytes
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.grid": True,
        "grid.color": "#e9edf2",
        "axes.axisbelow": True,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)

        def save(kind: Literal["svg", "png"] = "svg") -> bytes:
            stream = io.BytesIO()
            silent = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]  # no time, no version
            figure.savefig(stream, format=kind, metadata=silent)
            return stream.getvalue()

        try:
            yield list(axes.flat), save
        finally:
            plt.close(figure)
