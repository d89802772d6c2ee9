"""What can go wrong between us and Label Studio, each with what to do next.

Classes are also built-in kinds, so that a caller who knows only Python can still catch the right thing.
"""

from tasks.errors import UserError

__all__ = [
    "BadExportError",
    "LabelStudioError",
    "ProjectGoneError",
    "PushConflictError",
    "RefusedError",
    "ScreenChangedError",
    "UnreachableError",
    "WrongKeyError",
]


class LabelStudioError(UserError):
    """Something between us and Label Studio, with the operator's next step.

    Args:
        message: What was expected, what was found, and where.
        remedy: What to do or type next.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # By default an exception is rebuilt from its text alone, without the remedy.
        return type(self), (self.message, self.remedy)

    # The built-in kinds below would show their own arguments.
    __str__ = UserError.__str__


class UnreachableError(LabelStudioError, ConnectionError):
    """Nobody answers at the address, or not in time, or it is not a Label Studio."""


class WrongKeyError(LabelStudioError, PermissionError):
    """Label Studio answers and does not accept the key."""


class RefusedError(LabelStudioError, ValueError):
    """Label Studio understood the request and refuses what it says."""


class ProjectGoneError(LabelStudioError, LookupError):
    """The project, or one of its tasks, is not there any more."""


class ScreenChangedError(LabelStudioError, ValueError):
    """People see another labeling configuration than the one that was pushed."""


class PushConflictError(LabelStudioError, RuntimeError):
    """The project does not hold what was imported, or holds what was never imported."""


class BadExportError(LabelStudioError, ValueError):
    """An export that is cut short, of another shape, or does not hold the project's tasks."""
