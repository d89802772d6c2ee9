"""The pipeline's parts beside the UNet: tokenizer, text encoder and VAE, loaded when first used, always float32.

Prompts are encoded one by one, so that no neighbour changes one; images are decoded in slices of a generation batch, so
that memory does not depend on their number.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from d3po_core.errors import ModelError
from d3po_core.model_files import read_json

__all__ = ["PipelineParts", "load_part"]

DECODE_LATENTS = 64 * 64
"""Latent pixels that are decoded together: one image of Stable Diffusion 1.5, sixteen of the bundled model."""


class PipelineParts:
    """Prompts to embeddings and latents to images, by the files of one pipeline."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """Words to token numbers."""
        return CLIPTokenizer.from_pretrained(self.folder / "tokenizer")

    @cached_property
    def text_encoder(self) -> Any:
        """A frozen CLIPTextModel."""
        return load_part(CLIPTextModel, self.folder, "text_encoder", torch.float32, self.device)

    @cached_property
    def vae(self) -> Any:
        """A frozen AutoencoderKL."""
        return load_part(AutoencoderKL, self.folder, "vae", torch.float32, self.device)

    @property
    def max_prompt_tokens(self) -> int:
        """What the text encoder takes, its two end marks included."""
        positions = read_json(self.folder / "text_encoder" / "config.json").get("max_position_embeddings", 77)
        return min(int(self.tokenizer.model_max_length), int(positions))

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens a prompt has, its two end marks included."""
        return len(self.tokenizer(prompt).input_ids)

    def refuse_long_prompts(self, prompts: Sequence[str]) -> None:
        """Raise for prompts of more tokens than the text encoder takes.

        Raises:
            ModelError: naming up to five such prompts with their token counts.
        """
        limit = self.max_prompt_tokens
        counts = {prompt: self.prompt_tokens(prompt) for prompt in dict.fromkeys(prompts)}
        long = [f"{prompt!r} ({count} tokens)" for prompt, count in counts.items() if count > limit]
        if long:
            raise ModelError(
                f"{len(long)} prompts are longer than the {limit} tokens the text encoder takes: {'; '.join(long[:5])}"
                f"{' …' if len(long) > 5 else ''}. Shorten them, or set sampling.long_prompts to truncate."
            )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """[n, L, D] float32 on the CPU; longer prompts are cut."""
        length, encoder = self.max_prompt_tokens, self.text_encoder
        masked = getattr(encoder.config, "use_attention_mask", False)
        rows = [torch.empty(0, length, encoder.config.hidden_size)]
        for prompt in prompts:
            tokens = self.tokenizer(
                prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            mask = tokens.attention_mask.to(self.device) if masked else None
            rows.append(encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0].cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def decode(self, latents_NCHW: torch.Tensor) -> np.ndarray:
        """RGB images [N, h, w, 3] uint8; in slices, as a decoder's activations are far larger than its latents."""
        images = []
        for latents in latents_NCHW.to(self.device, torch.float32).split(
            DECODE_LATENTS // latents_NCHW[0, 0].numel() or 1
        ):
            pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
            pixels = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round()
            images.append(pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(images)

    @torch.no_grad()
    def encode_images(self, images_NhwC: np.ndarray) -> torch.Tensor:
        """x_0 of given images: the mean of the VAE's posterior, scaled; [N, C, H, W] float32 on the CPU, in slices.

        Raises:
            ValueError: where they are not [N, h, w, 3] uint8.
        """
        if images_NhwC.dtype != np.uint8 or images_NhwC.ndim != 4 or images_NhwC.shape[-1] != 3:
            raise ValueError(f"Expected uint8 images [N, h, w, 3], found {images_NhwC.dtype} {images_NhwC.shape}.")
        pixels = torch.from_numpy(images_NhwC).permute(0, 3, 1, 2)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = max(1, DECODE_LATENTS * factor**2 // pixels[0, 0].numel())
        latents = [
            self.vae.encode(some.to(self.device, torch.float32) / 127.5 - 1).latent_dist.mean.cpu()
            for some in pixels.split(size)
        ]
        return torch.cat(latents) * self.vae.config.scaling_factor


def load_part(kind: Any, folder: Path, part: str, dtype: torch.dtype, device: torch.device) -> Any:
    """One network of the pipeline, frozen and in eval() mode.

    Raises:
        ModelError: naming the part, where its weights cannot be read.
    """
    named = {"torch_dtype": dtype} if hasattr(kind, "load_config") else {"dtype": dtype}
    try:
        module = kind.from_pretrained(folder / part, use_safetensors=True, **named)
    except (OSError, ValueError, RuntimeError) as problem:
        raise ModelError(f"model: the part {part!r} in {folder / part} could not be loaded: {problem}") from problem
    return module.to(device).eval().requires_grad_(False)
