"""What an operator did or met that the code can explain: never shown as a stack trace."""

__all__ = ["UserError"]


class UserError(Exception):
    """A mistake or a fault of the surroundings, with the next thing to do.

    Args:
        message: What was expected, what was found, and where.
        remedy: The next command, or what to change.
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(f"{message}\n  next: {remedy}")
        self.message = message
        self.remedy = remedy
