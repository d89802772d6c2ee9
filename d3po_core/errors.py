"""What can go wrong in the core: each class is also the built-in kind that a caller would expect."""

__all__ = ["ModelError", "SamplingError", "StartCheckError", "TrainingError"]


class ModelError(ValueError):
    """A model that cannot be loaded, or that this method has no density for."""


class SamplingError(RuntimeError):
    """A trajectory that came out non-finite."""


class TrainingError(RuntimeError):
    """Training that must not go on; nothing of the failed optimizer step was applied or written."""


class StartCheckError(TrainingError):
    """Before the first update, the recomputed log-probs are not the stored ones."""
