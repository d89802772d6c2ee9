"""What CLIP says of pictures and prompts: CLIP score and PickScore, and the picture's vector that others judge by.

N images or texts, D the width of CLIP's common space.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoImageProcessor, CLIPModel, CLIPTokenizer

from d3po_core.programmed.pretrained import load_pretrained

__all__ = ["Clip", "clip_score", "pick_score"]


class Clip:
    """A CLIP model with its tokenizer and image processor: unit vectors in its common space."""

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        processor: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load them.

        Args:
            model: a folder as transformers saves it, or a hub id.
            revision: the model's hub revision.
            processor: where tokenizer and image processor are, if not with the model.
            dtype: of weights and arithmetic.
            device: where it computes.

        Raises:
            ObjectiveError: one of them cannot be loaded.
        """
        self.model = load_pretrained(CLIPModel, model, revision, dtype=dtype).to(device)
        where, which = (processor, None) if processor else (model, revision)
        self.tokenizer = load_pretrained(CLIPTokenizer, where, which)
        # Pillow resizes as it did when the published models were trained, whether torchvision is installed or not.
        self.image_processor = load_pretrained(AutoImageProcessor, where, which, backend="pil")

    @torch.no_grad()
    def images(self, images_NhwC: np.ndarray) -> torch.Tensor:
        """[N, D] float32 unit vectors of uint8 RGB images."""
        pixels = self.image_processor(images=list(images_NhwC), return_tensors="pt")["pixel_values"]
        features = self.model.get_image_features(pixels.to(self.model.device, self.model.dtype))
        return functional.normalize(features.pooler_output.float(), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """[N, D] float32 unit vectors; what is longer than CLIP reads is cut, as published."""
        tokens = self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        features = self.model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return functional.normalize(features.pooler_output.float(), dim=-1)

    def cosines(self, images_NhwC: np.ndarray, prompts: Sequence[str]) -> torch.Tensor:
        """[N] of each image with its own prompt."""
        return (self.images(images_NhwC) * self.texts(prompts)).sum(-1)


def clip_score(clip: Clip, images_NhwC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """[N] in 0 … 100: 100 · max(cos, 0).

    Source: Hessel et al. 2021, CLIPScore, with 100 in place of 2.5, as benchmarks report it.
    """
    return (100 * clip.cosines(images_NhwC, prompts).clamp(min=0)).cpu().double().numpy()


def pick_score(clip: Clip, images_NhwC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """[N]: the model's own logit scale (about 100) · cos.

    Source: Kirstain et al. 2023, Pick-a-Pic, s(x, y) before the softmax over candidates.
    """
    return (clip.model.logit_scale.exp().float() * clip.cosines(images_NhwC, prompts)).cpu().double().numpy()
