"""What can go wrong with a run's folder. Every class is a built-in kind too, and says which command to type next."""

__all__ = [
    "CommitConflictError",
    "ConfigurationChangedError",
    "CorruptDataError",
    "LockedError",
    "MissingDataError",
    "StorageError",
    "UnknownFormatError",
]


class StorageError(Exception):
    """Something about the stored data that an operator has to know.

    Args:
        message: What was expected, what was found, and where.
        remedy: What to do about it, as a command where there is one.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.remedy}" if self.remedy else self.message


class MissingDataError(StorageError, FileNotFoundError):
    """Something that was committed, or has to exist, is not there."""


class CorruptDataError(StorageError, ValueError):
    """A file is there and is not what was committed."""


class UnknownFormatError(StorageError, ValueError):
    """A file was written in a format that this version does not read."""


class CommitConflictError(StorageError, FileExistsError):
    """A name that can be given once was given already."""


class ConfigurationChangedError(StorageError, ValueError):
    """A configuration differs from the frozen one in a field that may not change any more."""


class LockedError(StorageError, RuntimeError):
    """Another process works on this."""
