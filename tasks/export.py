"""The adapter as plain diffusers loads it, with a model card and the thread back to its run."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from d3po_core.objectives.specs import OBJECTIVES
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.policies import policy_for, state_after
from tasks.training_plan import training_plan

__all__ = [
    "ADAPTER_FILE",
    "PROVENANCE",
    "PROVENANCE_FORMAT",
    "export_adapter",
    "export_into_run",
    "file_digest",
    "lora_digest",
]

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
PROVENANCE = "provenance.json"
PROVENANCE_FORMAT = "d3po-provenance/1"


def export_adapter(context: EpochContext, folder: Path) -> Path:
    """Write ``pytorch_lora_weights.safetensors``, ``README.md`` and ``provenance.json`` of a sealed epoch.

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
    (folder / "README.md").write_text(_card(context, seal), encoding="utf-8")
    provenance = {
        "format": PROVENANCE_FORMAT,
        "run_folder": context.run.location,
        "run_id": context.run.info["run_id"],
        "epoch": context.number,
        "content_digest": seal["digest"],
        "sha256": file_digest(folder),
        "lora": lora_digest(context, folder),
    }
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1))
    return folder


def export_into_run(context: EpochContext) -> None:
    """Write the adapter into the epoch's own folder; it can be written again from the sealed training at any time."""
    with tempfile.TemporaryDirectory(prefix="d3po-export-") as folder:
        for file in sorted(export_adapter(context, Path(folder)).iterdir()):
            context.epoch.write_aside(f"adapter/{file.name}", file.read_bytes())


def file_digest(folder: Path) -> str:
    """sha256 of an exported adapter's file: its tensors, their names, and the metadata that holds rank and alpha.

    Raises:
        UserError: There is no such file.
    """
    file = folder / ADAPTER_FILE
    if not file.is_file():
        raise UserError(f"no adapter at {file}", remedy="d3po export RUN FOLDER")
    return hashlib.sha256(file.read_bytes()).hexdigest()


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


def _card(context: EpochContext, seal: dict) -> str:
    configuration = context.configuration
    pull, plan = context.epoch.latest("pull"), context.epoch.latest("train-plan")
    trained = training_plan(context.epoch, plan)["frozen"]
    return f"""---
base_model: {configuration.model.path}
library_name: diffusers
tags: [lora, text-to-image, d3po, human-feedback]
---
# {configuration.run}, epoch {context.number}

A LoRA adapter trained with {OBJECTIVES[trained["objective.kind"]].title}.

    pipe = StableDiffusionPipeline.from_pretrained("{configuration.model.path}")
    pipe.load_lora_weights("this folder")

| | |
|---|---|
| base model | `{configuration.model.path}`{f" at `{configuration.model.revision}`" if configuration.model.revision else ""} |
| digest of the base model | `{context.run.info["model_digest"]}` |
| rank, alpha, modules | {configuration.lora.rank}, {configuration.lora.alpha:g}, {", ".join(configuration.lora.target_modules)} |
| judged by | {configuration.labels.source} |
| judgements | {pull.details.get("judgements", 0)} |
| pairs trained on in this epoch | {plan.details.get("pairs", 0)} |
| epochs behind it | {context.number + 1} |
| objective | {_objective(trained)} |
| trained with | learning rate {trained["training.learning_rate"]:g}, {trained["training.groups_per_step"]} groups a step, {trained["training.inner_epochs"]} inner epochs, transitions {trained["training.first_transitions"] or "all"} |
| sampled with | T {configuration.sampling.num_inference_steps}, η {configuration.sampling.eta:g}, w {configuration.sampling.guidance_scale:g} |
| run id, seal | `{context.run.info["run_id"]}`, `{seal["digest"]}` |

`provenance.json` names the run; `d3po audit` of this folder follows it to every judgement and seed.
"""


def _objective(trained: Mapping[str, Any]) -> str:
    fields = {path.partition(".")[2]: value for path, value in trained.items() if path.startswith("objective.")}
    kind = fields.pop("kind")
    shown = ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
    return f"{OBJECTIVES[kind].title}; {shown}" if shown else OBJECTIVES[kind].title
