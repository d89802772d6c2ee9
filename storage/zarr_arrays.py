"""Arrays in zarr groups: created and written at once, and read only where their bytes are really there.

zarr reads a missing, deleted or empty chunk file as the fill value without a word; here that is an error. Chunks carry
crc32c explicitly, as the default compressor has no checksum.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from storage.errors import CorruptDataError, MissingDataError, UnknownFormatError
from storage.layout import remedy_for

__all__ = ["open_array", "open_group", "read_array", "texts", "write_array"]


def write_array(
    group: zarr.Group, name: str, values: NDArray[Any], axes: tuple[str, ...], absent: Any, per_row: bool = False
) -> None:
    """Create an array and write all of it at once: in one chunk, or one chunk per row within one shard.

    An array without values (the log-probs of images that have no trajectory) has no chunk either.
    """
    whole = tuple(max(1, size) for size in values.shape)
    sharding: dict[str, Any] = {"chunks": whole}
    if per_row and values.size:
        sharding = {"chunks": (1, *whole[1:]), "shards": whole}
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        compressors=[Crc32cCodec()],
        fill_value=absent,
        dimension_names=list(axes),
        config={"write_empty_chunks": True},
        **sharding,
    )
    array[...] = values


def open_group(path: Path, expected: str) -> zarr.Group:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = zarr.open_group(path, mode="r", zarr_format=3)
    except FileNotFoundError:
        raise MissingDataError(
            f"There is no zarr group {path} (expected format {expected!r})", remedy_for(path)
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptDataError(f"{path} (format {expected!r}) cannot be opened: {error}", remedy_for(path)) from None
    found = group.attrs.get("format")
    if found != expected:
        raise UnknownFormatError(
            f"{path} has format {found!r}; this reads {expected!r}", "use the version of d3po that wrote it"
        )
    return group


def open_array(group: zarr.Group, name: str) -> zarr.Array:
    """An array of a group, to be read once or often: opening it takes half as long as reading a few rows."""
    where = _place(group)
    try:
        array = group[name]
        if not isinstance(array, zarr.Array):
            raise TypeError("it is no array")
    except KeyError:
        raise MissingDataError(f"{where} has no array {name!r}", remedy_for(where)) from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise CorruptDataError(f"{where / name} cannot be read: {error}", remedy_for(where)) from None
    return array


def read_array(array: zarr.Array, rows: Sequence[int] | None = None) -> NDArray[Any]:
    """An array, or rows of it, in the order given. Its one file has to be there: zarr would not mind."""
    where = _place(array)
    try:
        if array.size == 0:
            return np.asarray(array[...]) if rows is None else np.asarray(array[...])[np.asarray(rows)]
        stored = where / "/".join(["c", *("0" for _ in array.shape)])
        if not stored.is_file() or stored.stat().st_size == 0:
            raise MissingDataError(
                f"{stored} is missing or empty; zarr would read it as {array.fill_value} without a word",
                remedy_for(where),
            )
        return np.asarray(array[...]) if rows is None else _rows_of(array, np.asarray(rows, dtype=np.intp))
    except (ValueError, TypeError, RuntimeError) as error:
        raise CorruptDataError(f"{where} cannot be read: {error}", remedy_for(where)) from None


def _place(stored: zarr.Group | zarr.Array) -> Path:
    return Path(str(stored.store_path).removeprefix("file://"))


def _rows_of(array: zarr.Array, rows: NDArray[Any]) -> NDArray[Any]:
    """Rows that stand next to one another are read together. zarr's own ``oindex`` takes an index for each element."""
    if array.shards is None:
        return np.asarray(array[...])[rows]
    values = np.empty((len(rows), *array.shape[1:]), array.dtype)
    places = np.argsort(rows, kind="stable")
    for together in filter(len, np.split(places, np.flatnonzero(np.diff(rows[places]) != 1) + 1)):
        first = int(rows[together[0]])
        values[together] = array[first : first + len(together)]
    return values


def texts(group: zarr.Group, name: str) -> list[str]:
    """A group's attribute that is a list of texts.

    Raises:
        CorruptDataError: It is not there, or something else.
    """
    value = group.attrs.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        where = _place(group)
        raise CorruptDataError(f"{where} has no list of texts {name!r}", remedy_for(where))
    return [str(item) for item in value]
