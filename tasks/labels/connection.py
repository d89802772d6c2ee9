"""Where Label Studio is and with which key: from the environment, or from a Prefect secret block; never from a file."""

import os
from typing import TYPE_CHECKING

from tasks.errors import UserError

if TYPE_CHECKING:
    from tasks.label_studio.client import LabelStudioClient

__all__ = ["SECRET_BLOCK", "connect", "public_url"]

SECRET_BLOCK = "label-studio-api-key"


def connect() -> "LabelStudioClient":
    """A client that has been answered.

    Raises:
        UserError: The address or the key is not given.
        LabelStudioError: The server does not answer, or does not take the key.
    """
    from tasks.label_studio.client import LabelStudioClient  # a second and a half, for those who speak to it

    url = os.environ.get("LABEL_STUDIO_URL")
    if not url:
        raise UserError(
            "LABEL_STUDIO_URL is not set, expected the server's address, e.g. http://127.0.0.1:8080",
            remedy="d3po services up, or export LABEL_STUDIO_URL=…",
        )
    return LabelStudioClient.connect(url, os.environ.get("LABEL_STUDIO_API_KEY") or _key_from_block())


def public_url(url: str) -> str:
    """An address of Label Studio as people's browsers see it: ``LABEL_STUDIO_PUBLIC_URL`` in place of our own."""
    own, public = (
        os.environ.get("LABEL_STUDIO_URL", "").rstrip("/"),
        os.environ.get("LABEL_STUDIO_PUBLIC_URL", "").rstrip("/"),
    )
    return public + url.removeprefix(own) if own and public and url.startswith(own) else url


def _key_from_block() -> str:
    import httpx
    from prefect.blocks.system import Secret

    try:
        return Secret.load(SECRET_BLOCK, _sync=True).get()  # _sync: also where a loop runs
    except (ValueError, httpx.TransportError):
        raise UserError(
            f"LABEL_STUDIO_API_KEY is not set, and Prefect has (or reaches) no secret block named {SECRET_BLOCK}",
            remedy=f"export LABEL_STUDIO_API_KEY=…, or prefect block create secret, named {SECRET_BLOCK}",
        ) from None
