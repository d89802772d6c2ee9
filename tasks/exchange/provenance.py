"""What an exported adapter says of its origin, and how it is told to be that adapter."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tasks.errors import UserError

__all__ = ["ADAPTER_FILE", "PROVENANCE", "PROVENANCE_FORMAT", "file_digest", "provenance_of"]

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
PROVENANCE = "provenance.json"
PROVENANCE_FORMAT = "d3po-provenance/1"


def file_digest(folder: Path) -> str:
    """sha256 of an exported adapter's file: its tensors, their names, and the metadata that holds rank and alpha.

    Raises:
        UserError: There is no such file.
    """
    file = folder / ADAPTER_FILE
    if not file.is_file():
        raise UserError(f"no adapter at {file}", remedy="d3po export RUN FOLDER")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def provenance_of(folder: Path) -> dict[str, Any] | None:
    """What ``provenance.json`` beside an exported adapter says; None where there is none, as with adapters from elsewhere.

    Raises:
        UserError: It is of another format, or no JSON.
    """
    file = folder / PROVENANCE
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_bytes())
    except ValueError:
        record = None
    found = record.get("format") if isinstance(record, dict) else None
    if found != PROVENANCE_FORMAT:
        raise UserError(
            f"{file} has format {found!r}, expected {PROVENANCE_FORMAT!r}",
            remedy="export the adapter again with d3po export",
        )
    return record
