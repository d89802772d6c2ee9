"""Intervals for what is measured: bootstrap for means over prompts, Wilson's for shares.

Images of one prompt resemble each other, so prompts are what is drawn again, never single images: an interval over
images would be too narrow.
"""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["LEVEL", "Interval", "bootstrap_mean", "wilson_share"]

LEVEL = 0.95
RESAMPLES = 10_000
_BLOCK = 4 * 1024 * 1024
"""Drawn indices held at once."""
_Z = 1.959963984540054
"""The standard normal's quantile for 95 %, two-sided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float | None
    """None where one prompt alone says nothing of the spread."""
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap_mean(values_P: np.ndarray, generator: np.random.Generator) -> Interval:
    """The mean over prompts with its percentile bootstrap interval (Efron, 1979).

    Args:
        values_P: [P] one value a prompt, the mean of its images.
        generator: at an address, so that the same values have the same interval.

    Raises:
        ValueError: where there is no value, or one that is not finite.
    """
    values = np.asarray(values_P, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"Expected one finite value a prompt, found shape {values.shape}: {values.tolist()[:8]}.")
    if len(values) == 1:
        return Interval(value=float(values[0]), low=None, high=None)
    rows = max(1, _BLOCK // len(values))
    means = np.concatenate(
        [
            values[generator.integers(len(values), size=(min(rows, RESAMPLES - start), len(values)))].mean(axis=1)
            for start in range(0, RESAMPLES, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=float(values.mean()), low=float(low), high=float(high))


def wilson_share(successes: int, trials: int) -> Interval:
    """A share with its Wilson score interval (Wilson, 1927), which stays inside [0, 1] at its ends too.

    Raises:
        ValueError: where there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"Expected 0 … trials successes of at least one trial, found {successes} of {trials}.")
    share, spread = successes / trials, _Z**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return Interval(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half))
