"""Where a pipeline's files are, whether all parts are there, and their digest. Loads no weights and no torch.

A pipeline is a folder in diffusers' layout or a hub id; of a hub id only the files that are needed are fetched (no
pickles, no safety checker, no fp16 or non-EMA variants).
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from d3po_core.errors import ModelError

__all__ = ["PARTS", "copy_pipeline", "hub_commit", "locate", "model_digest", "read_json"]

PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "scheduler": (("scheduler_config.json",),),
    "tokenizer": (("vocab.json", "tokenizer.json"),),
    "text_encoder": (("config.json",), ("model.safetensors", "model.safetensors.index.json")),
    "unet": (
        ("config.json",),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
    ),
    "vae": (
        ("config.json",),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
    ),
}
"""Each part's folder, and what has to lie in it: of each tuple at least one file."""

_PATTERNS = {
    "scheduler": ("scheduler_config.json",),
    "tokenizer": ("*.json", "*.txt"),
    "text_encoder": ("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    "unet": (
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model-*-of-*.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
    ),
}
_PATTERNS["vae"] = _PATTERNS["unet"]


def locate(path: str, revision: str | None = None) -> Path:
    """The folder of a pipeline, complete.

    Args:
        path: a folder, or a hub id, which is fetched into the hub's own cache.
        revision: the hub revision; a folder has none.

    Raises:
        ModelError: naming the part that is missing, or why the hub did not give it.
    """
    folder = Path(path)
    if not folder.is_dir():
        folder = _fetch(path, revision)
    elif revision is not None:
        raise ModelError(f"model.revision is {revision!r}, but model.path {path} is a folder, which has no revisions.")
    for part, needed in PARTS.items():
        if not (folder / part).is_dir():
            raise ModelError(
                f"model: the part {part!r} is missing: expected a folder {folder / part}. "
                f"Point model.path to a complete diffusers pipeline ({', '.join(PARTS)}), then `d3po init` again."
            )
        for choices in needed:
            if not any((folder / part / name).is_file() for name in choices):
                raise ModelError(
                    f"model: the part {part!r} is incomplete: expected {' or '.join(choices)} in {folder / part}. "
                    "Weights are read as safetensors only; save the pipeline again with safe_serialization=True."
                )
    unet = read_json(folder / "unet" / "config.json")
    if unet.get("addition_embed_type") is not None or (folder / "text_encoder_2").is_dir():
        raise ModelError(
            f"model: {path} is not of Stable Diffusion 1.x/2.x layout (it wants added conditions or a second text "
            "encoder, like SDXL), which this policy does not have."
        )
    return folder


def _fetch(path: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["model_index.json", *(f"{part}/{name}" for part, names in _PATTERNS.items() for name in names)]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        raise ModelError(
            f"model.path is {path!r}: there is no such folder here, and the hub did not give it as an id "
            f"({type(problem).__name__}: {str(problem).splitlines()[0]}). Correct model.path, or log in to the hub."
        ) from problem


def hub_commit(path: str, revision: str | None = None) -> str | None:
    """The commit that a hub id and revision stand for now, by the hub's cache, which names folders by it; a folder has none."""
    return None if Path(path).is_dir() else locate(path, revision).name


def model_digest(path: str, revision: str | None = None) -> str:
    """SHA-256 over the names and contents of the files that the policy may read, as 64 hex digits."""
    folder = locate(path, revision)
    total = hashlib.sha256()
    for part, patterns in sorted(_PATTERNS.items()):
        files = {file for pattern in patterns for file in (folder / part).glob(pattern) if file.is_file()}
        for file in sorted(files):
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{part}/{file.name}\0{digest}\n".encode())
    return total.hexdigest()


def copy_pipeline(source: Path, target: Path, without: str) -> None:
    """Copy a pipeline's files but for one part's, with an index that names what is there.

    Beside the parts that a policy reads, its safety checker and feature extractor, where they lie in the folder.

    Args:
        source: a complete pipeline.
        target: a folder that is made.
        without: the part whose files will be written by another.
    """
    index = read_json(source / "model_index.json")
    for part in (name for name, value in index.items() if isinstance(value, list)):
        patterns = _PATTERNS.get(part, ("*.json", "*.safetensors"))
        files = {file for pattern in patterns for file in (source / part).glob(pattern) if file.is_file()}
        if not files:
            index[part] = [None, None]
        elif part != without:
            (target / part).mkdir(parents=True, exist_ok=True)
            for file in sorted(files):
                shutil.copyfile(file, target / part / file.name)
    target.mkdir(parents=True, exist_ok=True)
    (target / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"model: {path} cannot be read as JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise ModelError(f"model: {path} holds {type(content).__name__}, expected a JSON object.")
    return content
