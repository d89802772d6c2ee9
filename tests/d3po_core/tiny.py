"""A random-weight pipeline of Stable Diffusion 1.x layout, small enough to train in a second."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from d3po_core.config import LoraConfig, ModelConfig, SamplingConfig
from d3po_core.policy import Policy
from d3po_core.records import Group, Pair, Trajectories
from d3po_core.rollout import rollout

SD15_SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
"""SD 1.5's scheduler file, word for word."""

PROMPTS = ("a red square", "a blue circle", "a green star", "a dark moon")
LORA = LoraConfig(rank=2, alpha=3.0)


def build(folder: Path, scheduler: dict[str, Any] | None = None) -> Path:
    """Write a complete pipeline into ``folder``: about 60k parameters, latents 4 × 8 × 8, images 16 × 16."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type=None,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    vocabulary = write_tokenizer(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler or SD15_SCHEDULER))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", (scheduler or SD15_SCHEDULER)["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_tokenizer(folder: Path) -> int:
    """A byte-level CLIP tokenizer whose merges are the letters alone."""
    folder.mkdir()
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 16,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokens)


def sampling(**changes: Any) -> SamplingConfig:
    """Four steps, two images a group, guidance 3."""
    return SamplingConfig(**{"num_inference_steps": 4, "guidance_scale": 3.0, "groups_per_batch": 2, **changes})


def load(folder: Path, lora: LoraConfig | None = LORA, dtype: str = "float32", **changes: Any) -> Policy:
    """The pipeline as a policy on the CPU, one thread."""
    return Policy.load(
        ModelConfig(path=str(folder), dtype=dtype, device="cpu"), sampling(**changes), lora, threads=1, lora_seed=7
    )


def groups(count: int) -> list[Group]:
    """``g000000`` … with the prompts in turn."""
    return [Group(id=f"g{index:06d}", index=index, prompt=PROMPTS[index % len(PROMPTS)]) for index in range(count)]


def embeddings(policy: Policy) -> dict[str, torch.Tensor]:
    """Every prompt's embedding, the empty one's too."""
    prompts = ["", *PROMPTS]
    return dict(zip(prompts, policy.encode(prompts), strict=True))


def sample(policy: Policy, count: int, batch: int = 2, epoch: int | None = 0, images: bool = False) -> Trajectories:
    """Trajectories of ``count`` groups in batches, joined into one record."""
    wanted = groups(count)
    batches = [wanted[first : first + batch] for first in range(0, count, batch)]
    parts = list(
        rollout(policy, batches, policy.sampling, run_seed=1, epoch=epoch, embeds=embeddings(policy), images=images)
    )
    return join(parts)


def join(parts: list[Trajectories]) -> Trajectories:
    """Several records as one, without images."""
    return Trajectories(
        ids=tuple(name for part in parts for name in part.ids),
        group_ids=tuple(name for part in parts for name in part.group_ids),
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        latents=torch.cat([part.latents for part in parts]),
        log_prob=torch.cat([part.log_prob for part in parts]),
        timesteps=parts[0].timesteps,
        trainable=parts[0].trainable,
    )


def terms(pairs: list[Pair]) -> dict[str, int]:
    """Group id -> its pairs, as ``plan_steps`` takes them."""
    return dict(Counter(pair.group_id for pair in pairs))


class MemorySource:
    """A TrajectorySource over records in memory."""

    def __init__(self, trajectories: Trajectories, embeds: dict[str, torch.Tensor]) -> None:
        self.trajectories, self.embeds = trajectories, embeds

    def read(self, group_ids: Any) -> Trajectories:
        rows = [row for name in group_ids for row, own in enumerate(self.trajectories.group_ids) if own == name]
        return self.trajectories.select(rows)

    def prompt_embeds(self, prompts: Any) -> torch.Tensor:
        return torch.stack([self.embeds[prompt] for prompt in prompts])


def pair(group: int, preferred: int = 0, dispreferred: int = 1, target: float = 1.0) -> Pair:
    """image ``preferred`` ≻ image ``dispreferred`` of one group."""
    name = f"g{group:06d}"
    return Pair(
        group_id=name,
        preferred=f"{name}-{preferred}",
        dispreferred=f"{name}-{dispreferred}",
        target=target,
        votes_preferred=1,
        votes_tie=0,
        votes_dispreferred=0,
    )


def first_wins(count: int) -> list[Pair]:
    """Image 0 beats image 1 in each of ``count`` groups."""
    return [pair(group) for group in range(count)]
