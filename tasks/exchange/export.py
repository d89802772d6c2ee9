"""The adapter as plain diffusers loads it, with a model card and the thread back to its run."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.exchange.card import card_files
from tasks.exchange.provenance import ADAPTER_FILE, PROVENANCE, PROVENANCE_FORMAT, file_digest
from tasks.policies import policy_for, state_after

__all__ = [
    "export_adapter",
    "export_into_run",
    "export_merged",
    "lora_digest",
]


def export_adapter(context: EpochContext, folder: Path) -> Path:
    """Write ``pytorch_lora_weights.safetensors``, ``README.md`` with ``curves.png``, and ``provenance.json`` of a sealed epoch.

    Raises:
        UserError: The epoch is not sealed.
    """
    seal = context.epoch.seal()
    if seal is None:
        raise UserError(
            f"epoch {context.number} of {run_folder(context.configuration)} is not sealed, so it has no adapter yet",
            remedy=f"d3po status {run_folder(context.configuration)}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    policy = policy_for(context.configuration)
    state = state_after(context, context.number)
    policy.load_lora_state(state.lora)
    policy.export_adapter(folder)
    for name, content in card_files(context).items():
        (folder / name).write_bytes(content)
    provenance = {
        "format": PROVENANCE_FORMAT,
        "run_folder": context.run.location,
        "run_id": context.run.info["run_id"],
        "epoch": context.number,
        "content_digest": seal["digest"],
        "model_digest": context.run.info["model_digest"],
        "sha256": file_digest(folder),
        "lora": lora_digest(context, folder),
    }
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1))
    return folder


def export_merged(context: EpochContext, folder: Path) -> Path:
    """Write the whole pipeline of a sealed epoch, its adapter inside the weights, for plain diffusers.

    In float32 whatever the run computes in: added to half-precision weights, much of an adapter would round away.

    Raises:
        UserError: The folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty, expected a new folder for the whole pipeline", remedy="choose another folder"
        )
    configuration = context.configuration
    full = configuration.model.model_copy(update={"dtype": "float32", "compile": "none"})
    policy = policy_for(configuration.model_copy(update={"model": full}))
    policy.load_lora_state(state_after(context, context.number).lora)
    policy.export_merged(folder)
    for name, content in card_files(context, merged=True).items():
        (folder / name).write_bytes(content)
    return folder


def export_into_run(context: EpochContext) -> None:
    """Write the adapter into the epoch's own folder; it can be written again from the sealed training at any time."""
    with tempfile.TemporaryDirectory(prefix="d3po-export-") as folder:
        for file in sorted(export_adapter(context, Path(folder)).iterdir()):
            context.epoch.write_aside(f"adapter/{file.name}", file.read_bytes())


def lora_digest(context: EpochContext, folder: Path) -> str:
    """sha256 over the bytes of an exported adapter's tensors.

    Raises:
        UserError: They are not those of the epoch's sealed training.
    """
    file = folder / ADAPTER_FILE
    exported = load_file(file)
    sealed = state_after(context, context.number).lora
    found, expected = _tensor_bytes(exported), _tensor_bytes(sealed)
    if found != expected:
        raise UserError(
            f"the tensors of {file} are not those that epoch {context.number} of "
            f"{run_folder(context.configuration)} ended with",
            remedy="do not use this adapter; d3po export writes the run's own",
        )
    return hashlib.sha256(b"".join(sorted(found))).hexdigest()


def _tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> list[bytes]:
    """The tensors as bytes in an order of their own: the export renames them, it changes no value."""
    return sorted(tensor.contiguous().numpy().tobytes() for tensor in tensors.values())
