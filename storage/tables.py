"""Parquet tables with explicit schemas, checksummed pages both ways, and a format's name in the file.

One schema per kind of table; a table of another kind or version is refused by name. Joined by ids, never by position.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.documents import digest_of, sha256
from storage.errors import CorruptDataError, MissingDataError, UnknownFormatError
from storage.layout import remedy_for

__all__ = [
    "EVALUATION",
    "GROUPS",
    "JUDGEMENTS",
    "JUDGES",
    "METRICS",
    "PAIRS",
    "PEOPLE",
    "REFERENCE",
    "REWARDS",
    "read_rows",
    "read_table",
    "rows_digest",
    "rows_from_bytes",
    "rows_to_bytes",
    "table_format",
    "write_table",
]

_FORMAT_KEY = b"format"
_PIECE = 1024
"""Rows that become columns at a time, so that a long table is never all Python objects."""


def _schema(table_format: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={_FORMAT_KEY: table_format.encode()})


def _field(name: str, kind: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


JUDGEMENTS = _schema(
    "d3po-judgements/1",
    _field("id", pa.string()),
    _field("group_id", pa.string()),
    _field("judge", pa.string()),
    _field("verdict", pa.string()),
    _field("trajectory_ids", pa.list_(pa.string())),
    _field("levels", pa.list_(pa.list_(pa.float64()))),
    _field("updated_at", pa.string()),
    _field("seconds", pa.float64(), nullable=True),
)
"""What was said of each group, one row per judgement. ``levels`` is [k][objectives], higher is better."""

JUDGES = _schema(
    "d3po-judges/1",
    _field("judge", pa.string()),
    _field("groups", pa.int64()),
    _field("seconds_median", pa.float64(), nullable=True),
    _field("compared", pa.int64()),
    _field("agreement", pa.float64(), nullable=True),
    _field("reliability", pa.float64(), nullable=True),
    _field("gold_answers", pa.int64()),
    _field("gold_accuracy", pa.float64(), nullable=True),
)
"""How well each judge agrees with the others and with known answers, by number; shares in [0, 1], empty where unknown."""

PAIRS = _schema(
    "d3po-pairs/1",
    _field("group_id", pa.string()),
    _field("preferred", pa.string()),
    _field("dispreferred", pa.string()),
    _field("target", pa.float64()),
    _field("votes_preferred", pa.int32()),
    _field("votes_tie", pa.int32()),
    _field("votes_dispreferred", pa.int32()),
)
"""What is trained on. ``target`` is P(preferred ≻ dispreferred) in [0.5, 1]."""

REWARDS = _schema(
    "d3po-rewards/1",
    _field("trajectory_id", pa.string()),
    _field("group_id", pa.string()),
    _field("prompt", pa.string()),
    _field("value", pa.float64()),
)
"""One number an image, for the methods that learn from rewards."""

METRICS = _schema(
    "d3po-metrics/1",
    _field("step", pa.int64()),
    _field("name", pa.string()),
    _field("value", pa.float64()),
)
"""Training and evaluation metrics in long form: one row per optimizer step and name."""

REFERENCE = _schema(
    "d3po-reference/1",
    _field("trajectory_id", pa.string()),
    _field("log_prob", pa.list_(pa.float64())),
)
"""The pretrained model's log-probs of the stored actions, [T] nats each, NaN where a step has no density."""

GROUPS = _schema(
    "d3po-groups/1",
    _field("trajectory_id", pa.string()),
    _field("group_id", pa.string()),
    _field("prompt", pa.string()),
    _field("seeds", pa.string(), nullable=True),
    _field("image", pa.string(), nullable=True),
    _field("image_sha256", pa.string(), nullable=True),
)
"""A shard's trajectories: group, prompt, noise addresses, and the PNG's path in the shard with its file's digest."""

PEOPLE = _schema(
    "d3po-people/1",
    _field("user", pa.int64()),
    _field("name", pa.string(), nullable=True),
    _field("email", pa.string(), nullable=True),
)
"""Who the numbers are. Kept outside every digest, and erasable."""


EVALUATION = _schema(
    "d3po-evaluation-values/1",
    _field("candidate", pa.string()),
    _field("eta", pa.float64()),
    _field("group_id", pa.string()),
    _field("trajectory_id", pa.string(), nullable=True),
    _field("measure", pa.string()),
    _field("value", pa.float64()),
)
"""Every single value of an evaluation. ``trajectory_id`` is empty for what is measured of a prompt's images together."""


def table_format(schema: pa.Schema) -> str:
    """The name that a schema's files carry, e.g. ``d3po-pairs/1``."""
    return str((schema.metadata or {}).get(_FORMAT_KEY, b"(none)").decode())


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write a table, with a checksum in every page.

    Args:
        path: The file to write.
        rows: A dict per row: every column of the schema and no other. An iterator is taken in pieces.
        schema: One of this module's.

    Raises:
        ValueError: A column is missing, unknown, of another type, or empty where it may not be.
    """
    table = _to_arrow(rows, schema)
    pq.write_table(table, path, write_page_checksum=True)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """A table as Arrow has it: a fifth of the memory that its rows take as Python's objects.

    Raises:
        MissingDataError: There is no such file.
        CorruptDataError: It cannot be read, a page's checksum is wrong, or a column is not the schema's.
        UnknownFormatError: It is a table of another kind or version.
    """
    expected = table_format(schema)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = table_format(file.schema_arrow)
            if found != expected:
                raise UnknownFormatError(
                    f"{path} has format {found!r}; this reads {expected!r}", "use the version of d3po that wrote it"
                )
            table = file.read()
    except FileNotFoundError:
        raise MissingDataError(f"There is no table {path} (expected format {expected!r})", remedy_for(path)) from None
    except (OSError, pa.ArrowException) as error:
        raise CorruptDataError(f"{path} (format {expected!r}) cannot be read: {error}", remedy_for(path)) from None
    if table.schema.names != schema.names or table.schema.types != schema.types:
        raise CorruptDataError(
            f"{path} says it is {expected!r} and has the columns {table.schema.names}; expected {schema.names}",
            remedy_for(path),
        )
    return table


def read_rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """A table as a dict of plain Python values per row; raises as ``read_table`` does."""
    return list(read_table(path, schema).to_pylist())


def rows_to_bytes(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """The bytes of such a table's file; raises as ``write_table`` does."""
    stream = io.BytesIO()
    pq.write_table(_to_arrow(rows, schema), stream, write_page_checksum=True)
    return stream.getvalue()


def rows_from_bytes(data: bytes, schema: pa.Schema) -> list[dict[str, Any]]:
    """What ``rows_to_bytes`` was given, where whoever kept the bytes has verified them."""
    return list(pq.read_table(io.BytesIO(data), schema=schema).to_pylist())


def rows_digest(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> str:
    """The digest of what a table says, whatever the order of its rows and the bytes of its file.

    Raises:
        ValueError: As ``write_table``, or a value is NaN or infinite.
    """
    table = _to_arrow(rows, schema)
    return sha256("\n".join([table_format(schema), *sorted(digest_of(row) for row in table.to_pylist())]).encode())


def _to_arrow(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    kind = table_format(schema)
    try:
        table = pa.Table.from_batches(_pieces(rows, schema), schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise ValueError(f"A row does not fit a table of {kind}: {error}") from None
    for column in schema:
        if not column.nullable and table[column.name].null_count:
            raise ValueError(f"Column {column.name!r} of a table of {kind} must not be empty anywhere")
    return table


def _pieces(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    iterator = iter(rows)
    while piece := list(islice(iterator, _PIECE)):
        for row in piece:
            _check_columns(row, schema)
        yield pa.RecordBatch.from_pylist(piece, schema=schema)


def _check_columns(columns: Iterable[str], schema: pa.Schema) -> None:
    found = set(columns)
    if found != set(schema.names):
        raise ValueError(f"A table of {table_format(schema)} has the columns {schema.names}; got {sorted(found)}")
