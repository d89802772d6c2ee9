"""What can go wrong in the core: each class is also the built-in kind that a caller would expect."""

__all__ = ["ModelError", "ObjectiveError", "SamplingError", "StartCheckError", "TrainingError"]


class ModelError(ValueError):
    """A model that cannot be loaded, or that this method has no density for."""


class ObjectiveError(ValueError):
    """A programmed objective that cannot be loaded, failed, or gave something else than a finite number an image.

    Args:
        message: what was expected, what was found, and of which objective.
        remedy: the next command, or what to change.
    """

    def __init__(self, message: str, remedy: str = "mend it; d3po init CONFIG tries every objective on a picture"):
        super().__init__(f"{message}\n  next: {remedy}")


class SamplingError(RuntimeError):
    """A trajectory that came out non-finite."""


class TrainingError(RuntimeError):
    """Training that must not go on; nothing of the failed optimizer step was applied or written."""


class StartCheckError(TrainingError):
    """Before the first update, the recomputed log-probs are not the stored ones."""
