"""The bundled model's parts, untrained: tokenizer files, text encoder, UNet, VAE and scheduler.

Everything is an ordinary diffusers or transformers class with a small configuration; no code of ours is
needed to load the result.
"""

import itertools
import json
from collections import Counter
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from assets.shapes_world.world import BACKGROUNDS, COLOURS, SHAPES

TEXT_WIDTH = 64
TEXT_LENGTH = 24
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """Return the 256 printable characters by which CLIP's tokenizer writes bytes, in its order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(len(moved))]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, most frequent first, by which every word becomes a single token."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while any(len(parts) > 1 for parts in spelled):
        pairs = Counter(pair for parts in spelled for pair in itertools.pairwise(parts))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_merge(parts, best) for parts in spelled]
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Return the parts with each occurrence of the pair joined."""
    joined, i = [], 0
    while i < len(parts):
        if tuple(parts[i : i + 2]) == pair:
            joined.append(parts[i] + parts[i + 1])
            i += 2
        else:
            joined.append(parts[i])
            i += 1
    return joined


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the files of a CLIP tokenizer to which each of the world's words is one token, and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {"a", "an", "on", "background", "and", "the", *COLOURS, *SHAPES, *BACKGROUNDS}
    merges = learn_merges(sorted(words))
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), START, END]
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TEXT_LENGTH, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained two-layer text encoder of width 64 for the tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_unet() -> UNet2DConditionModel:
    """Return an untrained UNet for 4x16x16 latents."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=4,
    )


def make_vae() -> AutoencoderKL:
    """Return an untrained VAE from 64x64 pictures to 4x16x16 latents."""
    return AutoencoderKL(
        sample_size=64,
        block_out_channels=(16, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,  # with 8 (two channels a group) the normalisation hides the colours: red turns orange
    )


def make_scheduler() -> DDIMScheduler:
    """Return the scheduler with the configuration of Stable Diffusion 1.5."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderKL, mean_C: torch.Tensor, std_C: torch.Tensor) -> float:
    """Centre the VAE's latents and give its channels one common standard deviation, which is returned.

    The change is folded into the 1x1 convolutions around the latents, so that the pictures stay as they are;
    the common deviation goes to `scaling_factor`.

    Args:
        vae: changed in place.
        mean_C: measured mean of each latent channel, [4].
        std_C: measured standard deviation of each latent channel, [4].
    """
    common = std_C.square().mean().sqrt()
    ratio_C = std_C / common
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += (post.weight[:, :, 0, 0] * mean_C).sum(1)
    post.weight *= ratio_C[None, :, None, None]
    quant.weight[:4] /= ratio_C[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean_C) / ratio_C
    quant.bias[4:] -= 2 * ratio_C.log()
    vae.register_to_config(scaling_factor=round(1 / common.item(), 5))
    return common.item()
