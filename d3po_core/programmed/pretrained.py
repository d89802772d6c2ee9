"""Models of transformers, from a folder or the hub: safetensors only, frozen, in eval() mode; a failure says which."""

from typing import Any

import torch

from d3po_core.errors import ObjectiveError

__all__ = ["load_pretrained"]


def load_pretrained(kind: Any, path: str, revision: str | None = None, **options: Any) -> Any:
    """What ``kind.from_pretrained`` makes of a folder or a hub id; a network is frozen and in eval() mode.

    Args:
        kind: a class of transformers: a model, a tokenizer, a processor.
        path: a folder as transformers saves it, or a hub id, which is fetched into the hub's own cache.
        revision: the hub revision.
        options: what else ``from_pretrained`` takes.

    Raises:
        ObjectiveError: there is nothing like it, or its weights are a pickle.
    """
    if _reads_weights(kind):
        options["use_safetensors"] = True
    try:
        loaded = kind.from_pretrained(path, revision=revision, **options)
    except Exception as problem:
        raise ObjectiveError(
            f"{kind.__name__} could not be loaded from {path!r}, expected a folder as transformers saves it (weights "
            f"as safetensors) or a hub id: {type(problem).__name__}: {_first_line(problem)}"
        ) from problem
    return loaded.eval().requires_grad_(False) if isinstance(loaded, torch.nn.Module) else loaded


def _reads_weights(kind: Any) -> bool:
    """Whether a class of transformers makes networks, and so reads weights."""
    return kind.__name__.startswith("AutoModel") or issubclass(kind, torch.nn.Module)


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [""])[0]
