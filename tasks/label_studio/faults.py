"""What a failed request means to an operator. Knows HTTP, and nothing of the SDK that made the request."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from .errors import LabelStudioError, ProjectGoneError, RefusedError, UnreachableError, WrongKeyError

__all__ = ["KEY_REMEDY", "explained_connection", "explained_status"]

KEY_REMEDY = (
    "give LABEL_STUDIO_API_KEY the access token shown in Label Studio under Account & Settings, or d3po services up"
)

_COME_BACK_LATER = (408, 409, 425, 429)
"""Refusals that say nothing about what was asked."""


@contextmanager
def explained_connection(doing: str, url: str) -> Iterator[None]:
    """Turn what httpx raises into UnreachableError: whether the request had an effect is not known then."""
    try:
        yield
    except httpx.ConnectError as error:
        raise UnreachableError(f"nobody answers at {url} ({doing}: {error}).", "d3po services up") from error
    except httpx.TimeoutException as error:
        raise UnreachableError(f"{url} did not answer in time ({doing}).", "d3po services status") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise UnreachableError(f"the connection to {url} broke ({doing}: {error}).", "d3po services status") from error
    except json.JSONDecodeError as error:
        raise UnreachableError(
            f"{url} answered with something else than JSON ({doing}).", "d3po services status"
        ) from error


def explained_status(status: int | None, body: Any, doing: str, url: str, project: int | None) -> LabelStudioError:
    """The error for an answer that is none.

    Args:
        status: HTTP status; also 200 with a body that is no JSON.
        body: What the server said; of its own errors the part that says what is wrong is quoted.
        project: The project that was asked about, if any.
    """
    said = _said(body)
    if status in (401, 403):
        return WrongKeyError(f"{url} does not accept the key in LABEL_STUDIO_API_KEY ({doing}: {status}).", KEY_REMEDY)
    if status == 404 and project is not None:
        return ProjectGoneError(
            f"there is no project {project} at {url} any more ({doing}).",
            "restore it from Label Studio's backup; or d3po repush RUN makes it again, and people judge anew",
        )
    if status == 404:
        return ProjectGoneError(f"{url} does not know what was asked for ({doing}: {said}).", "check LABEL_STUDIO_URL")
    if status is not None and 400 <= status < 500 and status not in _COME_BACK_LATER:
        return RefusedError(f"Label Studio at {url} refuses {doing}: {status} {said}.", "d3po status RUN")
    return UnreachableError(f"{url} answered {status} ({doing}).", "d3po services status")


def _said(body: Any) -> str:
    if isinstance(body, dict):
        body = body.get("validation_errors") or body.get("detail") or body
    return str(body)[:500]
