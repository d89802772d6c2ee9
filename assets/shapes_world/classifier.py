"""A small classifier for pictures of the shapes world: colour, shape, background and texture.

It judges generated pictures: whether they show what the prompt names (`agreement`), and which texture they
got. The weights beside this file were trained by running it (`python -m assets.shapes_world.classifier --vae
assets/shapes/vae`) on real pictures and on the VAE's reconstructions of them.
"""

import argparse
import itertools
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from assets.shapes_world.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    TEXTURES,
    Scene,
    make_dataset,
    parse_prompt,
)

WEIGHTS = Path(__file__).with_name("classifier.safetensors")
LABELS = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "background": tuple(BACKGROUNDS),
    "texture": TEXTURES,
}


class ShapesClassifier(nn.Module):
    """Four strided convolutions and one linear layer for the four questions; 70 thousand parameters."""

    def __init__(self) -> None:
        """Build it with random weights."""
        super().__init__()
        widths = (3, 16, 32, 48, 64)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(64 * 4 * 4, sum(len(names) for names in LABELS.values()))

    def forward(self, pixels_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of each question, [B, answers], for pictures in -1..1."""
        logits = self.head(self.features(pixels_BCHW))
        return dict(zip(LABELS, logits.split([len(names) for names in LABELS.values()], 1), strict=True))


def to_pixels(pictures: np.ndarray) -> torch.Tensor:
    """Return uint8 pictures [n, 64, 64, 3] as float32 [n, 3, 64, 64] in -1..1.

    Raises:
        ValueError: dtype or shape is another.
    """
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (64, 64, 3):
        raise ValueError(f"expected uint8 [n, 64, 64, 3], got {pictures.dtype} {list(pictures.shape)}")
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@cache
def load_classifier() -> ShapesClassifier:
    """Return the trained classifier in float32."""
    model = ShapesClassifier()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval().requires_grad_(False)


@torch.no_grad()
def probabilities(pictures: np.ndarray, model: ShapesClassifier | None = None) -> dict[str, np.ndarray]:
    """Return each answer's probability, [n, answers] by question, for uint8 pictures [n, 64, 64, 3]."""
    model = model or load_classifier()
    batches = [model(to_pixels(pictures[i : i + 256])) for i in range(0, len(pictures), 256)]
    return {name: torch.cat([b[name] for b in batches]).softmax(1).numpy() for name in LABELS}


def classify(pictures: np.ndarray) -> dict[str, list[str]]:
    """Return the likeliest answer to each question for uint8 pictures [n, 64, 64, 3]."""
    return {name: [LABELS[name][i] for i in values.argmax(1)] for name, values in probabilities(pictures).items()}


def agreement(pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Return how far each picture shows its prompt's colour and shape: the probabilities' product, [n].

    Raises:
        ValueError: a prompt is not one of the world's.
    """
    found = probabilities(pictures)
    wanted = [parse_prompt(prompt) for prompt in prompts]
    rows = np.arange(len(prompts))
    colour = found["colour"][rows, [LABELS["colour"].index(c) for c, _, _ in wanted]]
    return colour * found["shape"][rows, [LABELS["shape"].index(s) for _, s, _ in wanted]]


def scene_labels(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Return the true answers' numbers, [n] for each question."""
    return {
        name: torch.tensor([names.index(getattr(scene, name)) for scene in scenes]) for name, names in LABELS.items()
    }


def accuracy(model: ShapesClassifier, pictures: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Return the share of right answers to each question."""
    found, true = probabilities(pictures, model), scene_labels(scenes)
    return {name: float((found[name].argmax(1) == true[name].numpy()).mean()) for name in LABELS}


@torch.no_grad()
def reconstruct(vae, pictures: np.ndarray) -> np.ndarray:
    """Return the VAE's reconstructions of uint8 pictures, in the same form."""
    decoded = []
    for i in range(0, len(pictures), 64):
        latents = vae.encode(to_pixels(pictures[i : i + 64])).latent_dist.mean
        decoded.append(((vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(decoded).permute(0, 2, 3, 1).numpy()


def train(pictures: np.ndarray, labels: dict[str, torch.Tensor], steps: int, seed: int) -> ShapesClassifier:
    """Return a classifier trained on uint8 pictures, mirrored, shifted, dimmed and with noise at random."""
    torch.manual_seed(seed)
    model, rng = ShapesClassifier(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for number in range(steps):
        rows = rng.integers(0, len(pictures), 96)
        batch = pictures[rows][:, :, :: rng.choice([-1, 1])]
        batch = np.roll(batch, rng.integers(-3, 4, 2), (1, 2))
        pixels = to_pixels(batch) * (1 + 0.05 * torch.randn(96, 1, 1, 1))
        logits = model(pixels + 0.04 * torch.rand(96, 1, 1, 1) * torch.randn(pixels.shape))
        loss = sum(functional.cross_entropy(logits[name], labels[name][rows], label_smoothing=0.02) for name in LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if number % 200 == 199:
            print(f"classifier {number + 1}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def main() -> None:
    """Train the classifier and measure it on fresh pictures, real and reconstructed."""
    from diffusers import AutoencoderKL

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained VAE")
    parser.add_argument("--images", type=int, default=9_000)
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32, local_files_only=True).eval()
    pictures, scenes = make_dataset(args.images, args.seed)
    third = args.images // 3
    both = np.concatenate([pictures, reconstruct(vae, pictures[:third])])
    model = train(both, scene_labels(scenes + scenes[:third]), args.steps, args.seed)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, WEIGHTS)
    WEIGHTS.chmod(0o644)
    fresh, fresh_scenes = make_dataset(1_920, args.seed + 1)
    measured = {
        "real": accuracy(load_classifier(), fresh, fresh_scenes),
        "reconstructed": accuracy(load_classifier(), reconstruct(vae, fresh), fresh_scenes),
    }
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
