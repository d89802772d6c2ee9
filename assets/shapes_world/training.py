"""The two training loops of the bundled model: the VAE, then UNet and text encoder together.

Each loop is seeded, writes its whole state at intervals and goes on from it when it is started again.
"""

import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel


def one_cycle(position: float) -> tuple[float, float]:
    """Return the share of the peak learning rate, and AdamW's first beta, at a position 0..1 of a cycle."""
    warm, low = 0.1, 1 / 25
    if position < warm:
        share = 0.5 - 0.5 * math.cos(math.pi * position / warm)
        return low + (1 - low) * share, 0.95 - 0.1 * share
    share = 0.5 + 0.5 * math.cos(math.pi * (position - warm) / (1 - warm))
    return share, 0.95 - 0.1 * share


def to_pixels(pictures: np.ndarray) -> torch.Tensor:
    """Return uint8 pictures [n, h, w, 3] as float32 [n, 3, h, w] in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


class Trainer:
    """One network under AdamW and a one-cycle schedule, with an average of its weights and a state file."""

    def __init__(self, network: nn.Module, *, steps: int, peak: float, decay: float, state: Path) -> None:
        """Prepare training, or take it up from `state` where that exists.

        Args:
            network: trained in place.
            steps: optimizer steps of the one-cycle schedule.
            peak: highest learning rate.
            decay: of the average of the weights, in each step.
            state: file of the resumable state.
        """
        self.network, self.steps, self.state, self.done = network, steps, state, 0
        self.peak, self.decay = peak, decay
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=1e-4, fused=True)
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        if state.exists():
            self._load(torch.load(state, weights_only=True))

    def _load(self, saved: dict) -> None:
        """Take up a saved state."""
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average, self.done = saved["average"], saved["done"]

    def save(self) -> None:
        """Write the state file, whole or not at all."""
        content = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        partial = self.state.with_suffix(".partial")
        torch.save({**content, "average": self.average, "done": self.done}, partial)
        partial.replace(self.state)

    def step(self, loss: torch.Tensor) -> None:
        """Take one optimizer step and follow with the average."""
        share, beta = one_cycle(self.done / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = self.peak * share, (beta, 0.999)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        decay = min(self.decay, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            names = [name for name, value in self.average.items() if value.is_floating_point()]
            now = self.network.state_dict()
            torch._foreach_lerp_([self.average[n] for n in names], [now[n] for n in names], 1 - decay)

    def remaining(self, every: int) -> Iterable[int]:
        """Yield the numbers of the steps still to do; save and report every `every` steps and at the end."""
        since, first = time.monotonic(), self.done
        while self.done < self.steps:
            yield self.done
            if self.done % every == 0 or self.done == self.steps:
                self.save()
                pace = (time.monotonic() - since) / max(1, self.done - first)
                print(f"  step {self.done}/{self.steps}, {pace:.3f} s a step", flush=True)
        self.network.load_state_dict(self.average)


def reconstruction_loss(decoded: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return L1 + 0.5 L2 with saturated pixels, the shapes', counted up to four times; and the plain L1."""
    error = (decoded - pixels).abs()
    weight = 1 + 1.5 * (pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True))
    return (weight * (error + 0.5 * error.square())).mean(), error.mean().item()


def draw_batch(total: int, seed: int, number: int, scale: float = 1.0) -> tuple[np.ndarray, torch.Tensor]:
    """Return 8 rows of `total` and latent noise [8, 4, 16, 16] for one step of a seeded run."""
    rows = np.random.default_rng((seed, number)).integers(0, total, 8)
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(seed * 1_000_003 + number))
    return rows, scale * noise


def train_vae(vae: AutoencoderKL, pictures: np.ndarray, steps: int, seed: int, state: Path) -> None:
    """Train the VAE on pictures [n, 64, 64, 3], batch 8, with 1e-3 KL, and keep the average."""
    trainer = Trainer(vae, steps=steps, peak=2e-3, decay=0.99, state=state)
    losses: list[float] = []
    for number in trainer.remaining(every=250):
        rows, noise = draw_batch(len(pictures), seed, number)
        pixels = to_pixels(pictures[rows])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = DiagonalGaussianDistribution(vae.encode(pixels).latent_dist.parameters.float())
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        loss, plain = reconstruction_loss(decoded, pixels)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        trainer.step(loss + 1e-3 * kl)
        losses.append(plain)
        if number % 50 == 49:
            print(f"vae {number + 1}: L1 {np.mean(losses[-50:]):.4f}, kl {kl.item():.2f}", flush=True)


def refine_decoder(
    vae: AutoencoderKL, latents: torch.Tensor, pictures: np.ndarray, steps: int, seed: int, state: Path
) -> None:
    """Train the decoder on, with the latents left as they are, and keep the average.

    Args:
        vae: its decoder is trained in place.
        latents: the pictures' latents, [n, 4, 16, 16], not scaled.
        pictures: uint8 [n, 64, 64, 3].
        steps: optimizer steps, batch 8.
        seed: of batches and of the small noise (a twentieth of the latents' deviation) on the latents.
        state: file of the resumable state.
    """
    both = nn.ModuleDict({"decoder": vae.decoder, "post": vae.post_quant_conv})
    trainer = Trainer(both, steps=steps, peak=1.5e-3, decay=0.99, state=state)
    scale, losses = 0.05 * latents.std().item(), []
    for number in trainer.remaining(every=250):
        rows, noise = draw_batch(len(pictures), seed, number, scale)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(latents[rows] + noise).sample.float()
        loss, plain = reconstruction_loss(decoded, to_pixels(pictures[rows]))
        trainer.step(loss)
        losses.append(plain)
        if number % 50 == 49:
            print(f"decoder {number + 1}: L1 {np.mean(losses[-50:]):.4f}", flush=True)


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    """Return the latents' means [n, 4, 16, 16], not yet scaled."""
    batches = (to_pixels(pictures[i : i + 64]) for i in range(0, len(pictures), 64))
    return torch.cat([vae.encode(pixels).latent_dist.mean for pixels in batches])


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    scheduler: DDIMScheduler,
    latents: torch.Tensor,
    tokens: torch.Tensor,
    empty: torch.Tensor,
    *,
    steps: int,
    seed: int,
    state: Path,
    bfloat16: bool = True,
) -> None:
    """Train UNet and text encoder on scaled latents to predict the noise, batch 32; keep the average.

    Args:
        unet: trained in place.
        text_encoder: trained in place.
        scheduler: gives the noise levels.
        latents: [n, 4, 16, 16], scaled.
        tokens: the latents' prompts, [n, length].
        empty: the empty prompt's tokens, [length]; it replaces 10 % of the prompts.
        steps: optimizer steps of the whole schedule.
        seed: of batches, noise, times and left-out prompts.
        state: file of the resumable state.
        bfloat16: compute the networks under CPU autocast.
    """
    both = nn.ModuleDict({"unet": unet, "text": text_encoder})
    trainer = Trainer(both, steps=steps, peak=1.5e-3, decay=0.999, state=state)
    trainer.network.train()
    losses: list[float] = []
    for number in trainer.remaining(every=250):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + number)
        chosen = torch.randint(0, len(latents), (32,), generator=rng)
        ids = torch.where(torch.rand(32, 1, generator=rng) < 0.1, empty, tokens[chosen])
        # One time from each of 32 equal strata: the loss scatters less than with independent times.
        times = ((torch.randperm(32, generator=rng) + torch.rand(32, generator=rng)) / 32 * 1000).long()
        noise = torch.randn(32, *latents.shape[1:], generator=rng)
        noisy = scheduler.add_noise(latents[chosen], noise, times)
        with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
            states = text_encoder(ids)[0]
            predicted = unet(noisy, times, states).sample
        loss = functional.mse_loss(predicted.float(), noise)
        trainer.step(loss)
        losses.append(loss.item())
        if number % 50 == 49:
            print(f"unet {number + 1}: loss {np.mean(losses[-100:]):.4f}", flush=True)
