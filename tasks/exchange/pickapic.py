"""Reading judged image pairs from Pick-a-Pic-style parquet: every row ends as a judgement or set aside with its reason."""

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tasks.errors import UserError

__all__ = ["ImportedRow", "check_columns", "fitted", "read_images", "read_rows"]

NEEDED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
USED = (*NEEDED, "user_id", "created_at", "has_label")
ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRow:
    """One row that can be used."""

    index: int
    """Its place in the file, from 0."""
    caption: str
    digests: tuple[str, str]
    """sha256 of both images' pixels as RGB: rows of the same two images are about one pair."""
    labels: tuple[float, float]
    """Each in [0, 1], together 1."""
    judge: str
    """``imported:17`` where the file has ``user_id``, else the row itself."""
    judged_at: str


def check_columns(file: Path) -> int:
    """How many rows the file has.

    Raises:
        UserError: There is no such file, it is no parquet, or a column is missing.
    """
    if not file.is_file():
        raise UserError(
            f"no parquet file at {file} (looked from {Path.cwd()})", remedy="d3po import CONFIG FILE.parquet"
        )
    try:
        with pq.ParquetFile(file) as opened:
            names, rows = opened.schema_arrow.names, opened.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} cannot be read as parquet: {error}", remedy="download or export it again") from None
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise UserError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(names)}",
            remedy="name the columns as Pick-a-Pic does: caption, jpg_0, jpg_1, label_0, label_1",
        )
    return int(rows)


def read_rows(file: Path, problem_of_caption: Callable[[str], str | None]) -> Iterator[ImportedRow | tuple[int, str]]:
    """Every row, in order: what can be used, or its place and why it cannot.

    Args:
        file: Whose columns were checked.
        problem_of_caption: Says what is wrong with a caption, e.g. that it is too long for the text encoder.
    """
    for index, row in _rows(file):
        try:
            yield _checked(index, row, problem_of_caption)
        except _NotUsable as reason:
            yield index, str(reason)


def read_images(file: Path, wanted: Mapping[int, Any]) -> Iterator[tuple[int, tuple[Image.Image, Image.Image]]]:
    """The two images of each wanted row, in order."""
    for index, row in _rows(file):
        if index in wanted:
            yield index, (_image(row, "jpg_0"), _image(row, "jpg_1"))


def fitted(image: Image.Image, width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8: cropped around its middle to the shape, then resized; untouched where it fits."""
    if image.size == (width, height):
        return np.asarray(image)
    scale = min(image.width / width, image.height / height)
    across, down = round(width * scale), round(height * scale)
    left, top = (image.width - across) // 2, (image.height - down) // 2
    # Cropped first: a resize of a box would let what lies beside the box into its edge.
    cropped = image.crop((left, top, left + across, top + down))
    return np.asarray(cropped.resize((width, height), Image.Resampling.LANCZOS))


class _NotUsable(Exception):
    """Why one row is set aside."""


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with pq.ParquetFile(file) as opened:
        columns = [name for name in USED if name in opened.schema_arrow.names]
        index = 0
        for batch in opened.iter_batches(ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                yield index, row
                index += 1


def _checked(index: int, row: Mapping[str, Any], problem_of_caption: Callable[[str], str | None]) -> ImportedRow:
    caption = row["caption"]
    if not isinstance(caption, str) or not caption.strip():
        raise _NotUsable("the caption is missing")
    caption = caption.strip()
    if problem := problem_of_caption(caption):
        raise _NotUsable(problem)
    if row.get("has_label") is False:
        raise _NotUsable("it says that it has no label")
    labels = tuple(_label(row, name) for name in ("label_0", "label_1"))
    if not math.isclose(sum(labels), 1.0, abs_tol=1e-6):
        raise _NotUsable("its labels do not add up to 1")
    if labels[0] not in (0.0, 0.5, 1.0):
        raise _NotUsable("its labels are neither 0, 0.5 nor 1: it is not one person's vote")
    first, second = (_digest(_image(row, name)) for name in ("jpg_0", "jpg_1"))
    if first == second:
        raise _NotUsable("its two images are the same")
    user = row.get("user_id")
    return ImportedRow(
        index=index,
        caption=caption,
        digests=(first, second),
        labels=(labels[0], labels[1]),
        judge=f"imported:row-{index}" if user is None else f"imported:{user}",
        judged_at=_time(row.get("created_at")),
    )


def _label(row: Mapping[str, Any], name: str) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _NotUsable(f"{name} is not a number from 0 to 1")
    return float(value)


def _image(row: Mapping[str, Any], name: str) -> Image.Image:
    value = row[name]
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        raise _NotUsable(f"{name} is empty")
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises of damaged files
        raise _NotUsable(f"{name} cannot be read as an image") from None


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _time(value: Any) -> str:
    """ISO 8601; rows without a time are of 1970, so that the one furthest down counts as the latest."""
    if value in (None, ""):
        value = datetime.fromtimestamp(0, UTC)
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat(timespec="microseconds")
    except (ValueError, AttributeError):
        raise _NotUsable(f"its created_at is no time: {value!r}") from None
