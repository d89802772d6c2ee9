"""The start check: before the first update, recomputed log-probs are the stored ones, or training does not begin.

Its reason: a ratio that is not 1 before any update (another dtype, batch, weights, mode) is noise that the loss takes
for learning. Source: METHOD 5.2.
"""

import torch

from d3po_core.errors import StartCheckError, TrainingError
from d3po_core.objectives.base import Objective

__all__ = ["TOLERANCES", "StartCheck", "check_tolerance"]

TOLERANCES = {torch.float32: 1e-5, torch.float16: 9e-5, torch.bfloat16: 2e-3, torch.float64: 1e-9}
"""By the network's dtype: how far the mean log-prob (nats, over C, H, W) may move from another micro-batch alone."""


def check_tolerance(objective: Objective, dtype: torch.dtype) -> None:
    """Refuse a dtype whose rounding alone exceeds what the objective's clip can tell.

    Raises:
        TrainingError: with both numbers.
    """
    tolerance = TOLERANCES[dtype] * objective.unit
    if objective.clip_range is not None and tolerance > objective.clip_range:
        raise TrainingError(
            f"The objective clips log-ratios at ±{objective.clip_range:.3g} (over C, H, W by the objective's reduction), but "
            f"in {dtype} they are only known to {tolerance:.3g}: it would clip rounding. Use model.dtype float32 in a new "
            "run (`d3po init`), or a wider objective.ratio_clip_range."
        )


class StartCheck:
    """Compares recomputed log-probs with the stored ones and remembers the worst."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.tolerance = dtype, TOLERANCES[dtype]
        self.worst, self.where, self.compared, self.beyond = 0.0, ("", 0), 0, 0

    def compare(self, recomputed: torch.Tensor, stored: torch.Tensor, places: list[tuple[str, int]]) -> None:
        """Take note of one micro-batch: log-probs [rows] float64 and each row's (trajectory id, step)."""
        difference = (recomputed - stored).abs().nan_to_num(nan=torch.inf)
        self.compared += len(places)
        self.beyond += int((difference > self.tolerance).sum())
        row = int(difference.argmax())
        if float(difference[row]) > self.worst:
            self.worst, self.where = float(difference[row]), places[row]

    def finish(self) -> None:
        """Raise where a log-prob was further off than the dtype explains.

        Raises:
            StartCheckError: with by how much, where, and what to do.
        """
        if self.beyond:
            trajectory, step = self.where
            raise StartCheckError(
                f"Start check: {self.beyond} of {self.compared} recomputed log-probs are not the stored ones. "
                f"Expected within {self.tolerance:.1e} nats (mean over C, H, W, {self.dtype}), found {self.worst:.3e} at "
                f"trajectory {trajectory}, denoising step {step}. Nothing was trained. The weights, dtype, guidance or "
                "library is not what sampled: check that the adapter is the one that generated this epoch and that "
                "the model's files are unchanged (`d3po audit RUN`), then `d3po run CONFIG --retrain`."
            )
