"""Telling the team, through a notification block of Prefect's: once per event, whatever is retried or run again.

What was told is written down in the epoch's folder after it was sent: a process that is killed between the two tells it
once more, and nobody goes untold. A message that cannot be sent is a warning, and is tried again when the epoch comes to
the same place.
"""

from typing import Any

from tasks.config import Configuration
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.log import logger

__all__ = ["NOTICES", "notification_block", "send", "tell"]

NOTICES = "notices"


def tell(context: EpochContext, event: str, subject: str, body: str) -> None:
    """Send one event's message unless it was sent before; never fails.

    Args:
        context: The epoch.
        event: What happened, once for ever, e.g. ``sealed`` or ``wanted 17`` (the Label Studio project).
        subject: One line; the run and epoch are put before it.
        body: What to do about it.
    """
    if context.configuration.orchestration.notify is None:
        return
    try:
        if any(notice["event"] == event for notice in context.epoch.notes(NOTICES)):
            return
        if send(context.configuration, f"{context.configuration.run}, epoch {context.number}: {subject}", body):
            context.epoch.note(NOTICES, {"event": event, "subject": subject})
    except Exception as error:  # the epoch is worth more than the news of it
        logger().warning("could not write down that the team was told of %r: %s", event, error)


def send(configuration: Configuration, subject: str, body: str) -> bool:
    """Send a message by the configured block; whether that went well."""
    try:
        notification_block(configuration).notify(body, subject, _sync=True)
    except Exception as error:  # of whatever service the block speaks to
        logger().warning(
            "the team was not told %r by %s: %s", subject, configuration.orchestration.notify, error or repr(error)
        )
        return False
    return True


def notification_block(configuration: Configuration) -> Any:
    """The block that ``orchestration.notify`` names.

    Raises:
        UserError: There is none of this name on the Prefect server, it cannot notify, or no server answers.
    """
    import httpx
    from prefect.blocks import notifications  # noqa: F401 - makes its kinds of block known by their names
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block

    name = configuration.orchestration.notify
    try:
        block = Block.load(name, _sync=True)
    except (ValueError, KeyError, httpx.TransportError) as error:
        raise UserError(
            f"orchestration.notify is {name}, and Prefect has (or reaches) no such block: {error}",
            remedy="prefect block ls shows those there are; prefect block create slack-webhook opens the page to make one",
        ) from None
    if not isinstance(block, NotificationBlock):
        raise UserError(
            f"orchestration.notify is {name}, which is a {type(block).__name__} and cannot notify",
            remedy="name a notification block, e.g. slack-webhook/team or custom-webhook/team",
        )
    return block
