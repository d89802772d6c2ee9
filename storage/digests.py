"""Digests of what was computed, as opposed to the files it lies in.

Equal for two runs that computed the same numbers: they cover names, dtypes, shapes and bytes, and no path, time,
attempt or encoding. Images count by their decoded pixels.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.documents import canonical, sha256

__all__ = ["content_digest", "image_digest", "merge_digests"]


def content_digest(values: Mapping[str, NDArray[Any] | str]) -> str:
    """The digest of named arrays and texts, whatever order they come in.

    Args:
        values: Arrays of numbers (bfloat16 as a uint16 view, under a name that says so), or texts.

    Raises:
        TypeError: A value is neither; e.g. an array of objects.
    """
    digest = hashlib.sha256()
    for name in sorted(values):
        value = values[name]
        if isinstance(value, str):
            head: list[Any] = [name, "str", []]
            data = value.encode()
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
            head, data = [name, little.dtype.str, list(value.shape)], little.tobytes()
        else:
            raise TypeError(f"{name!r} is an array of numbers or a text, got {type(value).__name__}")
        header = canonical([*head, len(data)])
        digest.update(len(header).to_bytes(8, "little"))
        digest.update(header)
        digest.update(data)
    return digest.hexdigest()


def image_digest(image: NDArray[Any]) -> str:
    """The digest of an image's pixels, [h, w, 3] uint8."""
    return content_digest({"pixels": image})


def merge_digests(digests: Mapping[str, str]) -> str:
    """One digest of many, by their names and whatever order they come in."""
    return sha256(canonical(dict(digests)))
