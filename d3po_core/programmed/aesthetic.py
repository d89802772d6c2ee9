"""LAION's aesthetic predictor: linear layers on CLIP ViT-L/14's unit vector of a picture. The prompt is not looked at.

Two heads were published: one linear layer (``sa_0_4_vit_l_14_linear``), and the chain of five that DDPO and D3PO used
(``sac+logos+ava1-l14-linearMSE``). The chain has dropout between its layers but no activation, so outside of training
both are the same thing: linear layers, one after the other.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from d3po_core.errors import ObjectiveError
from d3po_core.programmed.clip import Clip

__all__ = ["aesthetic_score", "load_head"]


def load_head(file: str | Path, width: int) -> nn.Sequential:
    """The linear layers of a safetensors file, in the order of the numbers in their names.

    Args:
        file: with tensors ``weight`` and ``bias`` (one layer), or ``layers.0.weight``, ``layers.0.bias``, ….
        width: D, of the vectors that go in.

    Raises:
        ObjectiveError: no such file, a pickle, or layers that do not fit one another.
    """
    path = Path(file)
    if not path.is_file():
        raise ObjectiveError(
            f"head is {str(file)!r}: there is no such file", "correct `head`; docs/objectives.md says where to find it"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as problem:
        raise ObjectiveError(
            f"head {path} is no safetensors file ({problem}); pickles (.pth) are not read, as they can run code",
            'convert it once, in an environment you trust it in: python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path.stem}.pth', weights_only=True), '{path.stem}.safetensors')\"",
        ) from None
    names = sorted((name for name in tensors if name.endswith("weight")), key=_number)
    layers: list[nn.Linear] = []
    for name in names:
        weight, bias = tensors[name].float(), tensors.get(name.removesuffix("weight") + "bias")
        if weight.ndim != 2 or bias is None or bias.shape != weight.shape[:1]:
            raise ObjectiveError(
                f"head {path}: {name} has shape {list(weight.shape)}, expected [out, in] and a bias [out]"
            )
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias.float()})
        layers.append(layer)
    widths = [width, *(layer.out_features for layer in layers)]
    if not layers or widths[-1] != 1 or [layer.in_features for layer in layers] != widths[:-1]:
        found = ", ".join(f"{layer.in_features} → {layer.out_features}" for layer in layers) or "none"
        raise ObjectiveError(f"head {path} has the layers {found}, expected a chain from {width} (CLIP's) to 1")
    return nn.Sequential(*layers).eval().requires_grad_(False)


@torch.no_grad()
def aesthetic_score(clip: Clip, head: nn.Module, images_NhwC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """[N], about 1 … 10. The prompts are not looked at.

    Source: LAION-Aesthetics; DDPO (Black et al. 2023), Section 5.2.
    """
    return head(clip.images(images_NhwC))[:, 0].cpu().double().numpy()


def _number(name: str) -> int:
    return int((re.findall(r"\d+", name) or ["0"])[0])
