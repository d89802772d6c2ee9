"""What an exported adapter says of its origin, and how it is told to be that adapter."""

import hashlib
from pathlib import Path

from tasks.errors import UserError

__all__ = ["ADAPTER_FILE", "PROVENANCE", "PROVENANCE_FORMAT", "file_digest"]

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
