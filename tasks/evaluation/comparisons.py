"""Before and after, over the same held-out prompts and the same noise: the difference is the adapter's alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Comparison", "paired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One objective before and after an epoch, over the same prompts and noise."""

    objective: str
    unit: str = "as version 0.1.0 measured it"
    """What its values are; reports of version 0.1.0 do not say."""
    before: float
    after: float
    difference: float
    standard_error: float
    """Of the mean paired difference: sample standard deviation / √N."""
    prompts: int

    def __str__(self) -> str:
        return (
            f"{self.objective} ({self.unit}, higher is better): {self.before:.4f} before, {self.after:.4f} after, difference {self.difference:+.4f} "
            f"± {self.standard_error:.4f} (paired standard error, {self.prompts} held-out prompts)"
        )


def paired(name: str, unit: str, before: Sequence[float], after: Sequence[float]) -> Comparison:
    """One objective's values [N] of the same prompts and noise, before and after."""
    difference = np.subtract(after, before)
    return Comparison(
        objective=name,
        unit=unit,
        before=float(np.mean(before)),
        after=float(np.mean(after)),
        difference=float(difference.mean()),
        standard_error=float(difference.std(ddof=1) / np.sqrt(len(difference)))
        if len(difference) > 1
        else float("nan"),
        prompts=len(difference),
    )
