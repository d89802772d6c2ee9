"""An estimate as a file has it: in numbers for a plot, in words for people."""

from collections.abc import Mapping

from d3po_core.statistics import Interval

__all__ = ["ends", "said", "said_share"]


def ends(estimate: Mapping[str, float | None]) -> tuple[float, float | None, float | None]:
    """An estimate of ``tasks.evaluation.measures.summary``, in whatever order a file gives it back, as value, low and high."""
    interval = Interval(**estimate)
    return interval.value, interval.low, interval.high


def said(estimate: Mapping[str, float | None] | None) -> str:
    """An estimate of ``tasks.evaluation.measures.summary`` in words: a value and its interval."""
    return "–" if estimate is None else str(Interval(**estimate))


def said_share(estimate: Mapping[str, float | None]) -> str:
    """A share in words: per cent, and its interval."""
    value, low, high = ends(estimate)
    return f"{value:.1%}" if low is None or high is None else f"{value:.1%} [{low:.1%}, {high:.1%}]"
