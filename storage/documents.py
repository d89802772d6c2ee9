"""JSON files that nobody may change: canonical, with their format's name and a checksum of themselves.

The checksum covers everything else in the file, so that a flipped byte in a marker or a plan is noticed where it is
read and not when its values are used. It is no signature: the chain of seals is what protects against intent.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from storage.errors import CorruptDataError, UnknownFormatError

__all__ = ["canonical", "decode", "digest_of", "encode", "now", "sha256"]


def sha256(data: bytes) -> str:
    """The digest, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def now() -> str:
    """The time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: keys sorted, no spaces, UTF-8.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON cannot say.
        TypeError: It holds something that is not JSON's.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """The sha256 of a value's canonical JSON."""
    return sha256(canonical(value))


def encode(body: Mapping[str, Any], document_format: str) -> bytes:
    """The bytes of a document.

    Args:
        body: What it says; a ``format`` in it must be the expected one.
        document_format: The format's name, e.g. ``d3po-commit/1``.

    Raises:
        UnknownFormatError: The body claims another format.
        ValueError: It holds NaN or an infinity.
        TypeError: It holds something that is not JSON's.
    """
    claimed = body.get("format", document_format)
    if claimed != document_format:
        raise UnknownFormatError(f"Expected a body of format {document_format!r}, got {claimed!r}")
    content = {**body, "format": document_format}
    content.pop("checksum", None)
    content["checksum"] = digest_of(content)
    return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decode(data: bytes, document_format: str, what: str, remedy: str) -> dict[str, Any]:
    """What a document says, without its checksum.

    Args:
        data: The file's bytes.
        document_format: The only format that is read.
        what: How messages name the file.
        remedy: What an operator does about a broken one.

    Raises:
        CorruptDataError: It is empty, cut short, or not what its checksum says.
        UnknownFormatError: Another version of the programme wrote it.
    """
    if not data:
        raise CorruptDataError(f"{what} is empty (0 bytes); expected a document of format {document_format!r}", remedy)
    try:
        body = json.loads(data)
    except ValueError as error:
        raise CorruptDataError(
            f"{what} is not JSON ({error}; {len(data)} bytes, sha256 {sha256(data)})", remedy
        ) from None
    if not isinstance(body, dict) or "format" not in body:
        raise CorruptDataError(f"{what} has no 'format'; expected {document_format!r}", remedy)
    if body["format"] != document_format:
        raise UnknownFormatError(
            f"{what} has format {body['format']!r}; this version reads {document_format!r}",
            "use the version of d3po that wrote it (record.environment of the run's EPOCH.json names it)",
        )
    expected, found = body.pop("checksum", None), digest_of(body)
    if expected != found:
        raise CorruptDataError(f"{what} was changed: expected checksum {expected}, found {found}", remedy)
    if data != encode(body, document_format):  # markers are named by the digest of their bytes: blanks count too
        raise CorruptDataError(
            f"{what} says what was written, in other bytes ({len(data)}, sha256 {sha256(data)})", remedy
        )
    return body
