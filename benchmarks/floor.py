"""The floor: a tight loop of just the network evaluations that the mathematics needs, at the best batch size.

No storage, no orchestration, no logging, no optimizer. For training a guided forward and the LoRA's backward per state;
for sampling a guided forward per state and one VAE decoding per image.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from d3po_core.evaluations import micro_batches
from d3po_core.policy import Policy
from tasks.timing import median_seconds

__all__ = ["Best", "laid_out", "sampling_floor", "sweep", "training_floor"]

SIZES = (1, 4, 8, 16, 32, 64, 96)
DECODED = (1, 4, 16, 64)


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest way that a sweep found."""

    batch: int
    channels_last: bool
    decoded: int
    """Images that the VAE decodes at once."""
    milliseconds: dict[str, float]
    """Per evaluation, by "batch size, memory format"."""


def training_floor(policy: Policy, evaluations: int, best: Best) -> None:
    """That many guided forwards with the LoRA's backward; the network is laid out as ``best`` says."""
    parameters = list(policy.lora_parameters().values())
    for rows in _sizes(evaluations, best.batch):
        output = _guided(policy, rows, best)
        torch.autograd.grad(output, parameters, grad_outputs=torch.ones_like(output))


@torch.no_grad()
def sampling_floor(policy: Policy, evaluations: int, images: int, best: Best) -> None:
    """That many guided forwards, and the images decoded; the network is laid out as ``best`` says."""
    for rows in _sizes(evaluations, best.batch):
        _guided(policy, rows, best)
    vae = policy.parts.vae
    for rows in _sizes(images, best.decoded):
        vae.decode(torch.zeros(rows, *policy.latent_shape, device=policy.device))


def sweep(policy: Policy, train: bool, sizes: Sequence[int] = SIZES) -> Best:
    """The best batch size and memory format for training or for sampling, of two medians each, there and back."""
    found: dict[str, float] = {}
    ways = [Best(size, last, 16, {}) for size in sizes for last in (False, True)]
    for way in (*ways, *reversed(ways)):
        with laid_out(policy, way):
            now = median_seconds(policy, _call(policy, train, way)) / (2 * way.batch) * 1e3
        found[_name(way)] = min(now, found.get(_name(way), now))
    best = min(ways, key=lambda way: found[_name(way)])
    milliseconds = {name: round(value, 3) for name, value in found.items()}
    return Best(best.batch, best.channels_last, 0 if train else _best_decoding(policy), milliseconds)


def _best_decoding(policy: Policy) -> int:
    none = Best(1, False, 0, {})

    def seconds(size: int) -> float:
        way = replace(none, decoded=size)
        return median_seconds(policy, lambda: sampling_floor(policy, 0, 2 * size, way)) / size

    return min(DECODED, key=seconds)


@contextmanager
def laid_out(policy: Policy, best: Best) -> Iterator[None]:
    """The network's weights in this memory format, and afterwards as they were."""
    before = policy.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    policy.unet.to(memory_format=torch.channels_last if best.channels_last else torch.contiguous_format)
    try:
        yield
    finally:
        policy.unet.to(memory_format=torch.channels_last if before else torch.contiguous_format)


def _call(policy: Policy, train: bool, way: Best) -> Callable[[], None]:
    if train:
        return lambda: training_floor(policy, 2 * way.batch, way)
    return lambda: sampling_floor(policy, 2 * way.batch, 0, way)


def _guided(policy: Policy, rows: int, best: Best) -> torch.Tensor:
    form = torch.channels_last if best.channels_last else torch.contiguous_format
    latents = torch.zeros(2 * rows, *policy.latent_shape, device=policy.device, dtype=policy.network_dtype)
    timesteps = torch.zeros(2 * rows, dtype=torch.int64, device=policy.device)
    embeds = policy.null_embeds.to(policy.device, policy.network_dtype).expand(2 * rows, -1, -1)
    with torch.autocast(policy.device.type, dtype=policy.dtype, enabled=policy.dtype != torch.float32):
        return policy.unet(latents.contiguous(memory_format=form), timesteps, encoder_hidden_states=embeds).sample


def _sizes(total: int, batch: int) -> list[int]:
    """Even ones, as many as needed."""
    return [len(run) for run in micro_batches([1] * total, batch)]


def _name(way: Best) -> str:
    return f"{way.batch}, {'channels last' if way.channels_last else 'contiguous'}"
