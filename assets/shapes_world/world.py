"""The synthetic world of the bundled model: 64x64 pictures of one coloured shape on a textured background.

A prompt names colour, shape and background. The background's texture and the shape's size, place and tilt
are never mentioned, so a model trained on these pairs must vary them by seed: this is what a preference can
change. The module draws pictures and knows prompts; it trains nothing and needs only numpy.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZE = 64
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 20),
    "yellow": (250, 215, 30),
    "green": (40, 150, 60),
    "cyan": (40, 200, 215),
    "blue": (35, 75, 200),
    "purple": (125, 50, 165),
    "pink": (245, 120, 180),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
BACKGROUNDS = {
    "grey": ((120, 120, 124), (172, 172, 176)),
    "white": ((246, 246, 244), (196, 196, 198)),
    "black": ((18, 18, 22), (72, 72, 78)),
    "beige": ((226, 202, 160), (180, 150, 106)),
}
TEXTURES = ("plain", "stripes", "speckle", "checks", "gradient")
TEXTURE_SHARES = (0.28, 0.18, 0.18, 0.18, 0.18)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that determines one picture, apart from the speckles' places."""

    colour: str
    shape: str
    background: str
    texture: str
    radius: float
    """Half the extent of the shape in pixels."""
    centre: tuple[float, float]
    """x, y in pixels from the upper left corner."""
    tilt: float
    """Rotation in radians."""

    @property
    def prompt(self) -> str:
        """The sentence that names colour, shape and background."""
        return make_prompt(self.colour, self.shape, self.background)


def make_prompt(colour: str, shape: str, background: str) -> str:
    """Return the world's sentence for one combination."""
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {shape} on a {background} background"


def parse_prompt(prompt: str) -> tuple[str, str, str]:
    """Return colour, shape and background of one of the world's sentences.

    Raises:
        ValueError: the prompt is not one of the 192.
    """
    words = prompt.split()
    if len(words) != 7 or prompt != make_prompt(words[1], words[2], words[5]):
        raise ValueError(f"not a prompt of the shapes world: {prompt!r}")
    found = words[1], words[2], words[5]
    if found[0] not in COLOURS or found[1] not in SHAPES or found[2] not in BACKGROUNDS:
        raise ValueError(f"not a prompt of the shapes world: {prompt!r}")
    return found


def all_prompts() -> list[str]:
    """Return the 192 prompts in a fixed order: colour, then shape, then background."""
    return [make_prompt(c, s, b) for c in COLOURS for s in SHAPES for b in BACKGROUNDS]


def split_prompts(seed: int = 20240, held_out: int = 48) -> tuple[list[str], list[str]]:
    """Return (train, held-out) prompts: a seeded split for preference fine-tuning, in the world's order."""
    prompts = all_prompts()
    chosen = set(np.random.default_rng(seed).permutation(len(prompts))[:held_out].tolist())
    train = [p for i, p in enumerate(prompts) if i not in chosen]
    return train, [p for i, p in enumerate(prompts) if i in chosen]


def draw_scene(rng: np.random.Generator, prompt: str | None = None) -> Scene:
    """Draw a scene at random, for a given prompt if there is one."""
    if prompt is None:
        prompt = all_prompts()[rng.integers(192)]
    colour, shape, background = parse_prompt(prompt)
    return Scene(
        colour=colour,
        shape=shape,
        background=background,
        texture=str(rng.choice(TEXTURES, p=TEXTURE_SHARES)),
        radius=float(rng.uniform(13, 21)),
        centre=(float(rng.uniform(24, 40)), float(rng.uniform(24, 40))),
        tilt=float(rng.uniform(-0.3, 0.3)),
    )


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres' x and y, each [64, 64]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    return x, y


def _star_distance(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Return the signed distance (to the edges' lines) of a five-pointed star with a tip upwards."""
    tip, inner, half = 1.12 * r, 0.5 * r, np.pi / 5
    angle = np.mod(np.arctan2(x, -y) + half, 2 * half) - half
    radius = np.hypot(x, y)
    u, v = radius * np.cos(angle), np.abs(radius * np.sin(angle))
    du, dv = inner * np.cos(half) - tip, inner * np.sin(half)
    return ((u - tip) * dv - v * du) / np.hypot(du, dv)


def shape_distance(shape: str, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Return the signed distance in pixels (negative inside) of an upright shape centred at the origin."""
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.86 * r
    if shape == "triangle":
        y = y - 0.15 * r
        return np.maximum(0.866 * np.abs(x) - 0.5 * y, y) - 0.6 * r
    if shape == "star":
        return _star_distance(x, y, r)
    if shape == "cross":
        ax, ay, arm = np.abs(x), np.abs(y), 0.34 * r
        return np.minimum(np.maximum(ax - r, ay - arm), np.maximum(ay - r, ax - arm))
    if shape == "ring":
        radius = np.hypot(x, y)
        return np.maximum(radius - r, 0.52 * r - radius)
    raise ValueError(f"unknown shape {shape!r}, expected one of {', '.join(SHAPES)}")


def _coverage(distance: np.ndarray) -> np.ndarray:
    """Return the share of each pixel that lies inside, from its signed distance."""
    return np.clip(0.5 - distance, 0, 1)


def _speckles(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the coverage of about 50 dots on a jittered lattice of 9 pixels."""
    cells = np.arange(0, SIZE + 9, 9)
    cx, cy = (a.ravel() + rng.uniform(-2.5, 2.5, a.size) for a in np.meshgrid(cells, cells))
    squared = ((x[..., None] - cx) ** 2 + (y[..., None] - cy) ** 2).min(-1)
    return _coverage(np.sqrt(squared) - 2.0)


def texture_mix(texture: str, rng: np.random.Generator) -> np.ndarray:
    """Return the share of the background's second tone in each pixel, [64, 64] in 0..1."""
    x, y = _grid()
    if texture == "plain":
        return np.zeros((SIZE, SIZE))
    if texture == "speckle":
        return _speckles(x, y, rng)
    angle = rng.choice([0.0, np.pi / 2, np.pi / 4, -np.pi / 4])
    along = x * np.cos(angle) + y * np.sin(angle)
    if texture == "gradient":
        return (along - along.min()) / np.ptp(along)
    period = 12.0
    phase = rng.uniform(0, period)
    if texture == "stripes":
        wave = np.abs(np.mod(along + phase, period) - period / 2) - period / 4
        return _coverage(wave)
    if texture == "checks":
        px, py = (np.abs(np.mod(a + p, 16) - 8) - 4 for a, p in ((x, phase), (y, rng.uniform(0, 16))))
        cx, cy = _coverage(px), _coverage(py)
        return cx * (1 - cy) + cy * (1 - cx)
    raise ValueError(f"unknown texture {texture!r}, expected one of {', '.join(TEXTURES)}")


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return the picture of a scene, uint8 [64, 64, 3]."""
    x, y = _grid()
    dx, dy = x - scene.centre[0], y - scene.centre[1]
    cos, sin = np.cos(scene.tilt), np.sin(scene.tilt)
    inside = _coverage(shape_distance(scene.shape, cos * dx + sin * dy, cos * dy - sin * dx, scene.radius))
    first, second = (np.array(tone, float) for tone in BACKGROUNDS[scene.background])
    mix = texture_mix(scene.texture, rng)[..., None]
    ground = (first * (1 - mix) + second * mix) * rng.uniform(0.97, 1.03)
    colour = np.array(COLOURS[scene.colour], float) * rng.uniform(0.94, 1.04)
    picture = ground * (1 - inside[..., None]) + colour * inside[..., None]
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def draw_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Draw `count` scenes, every prompt equally often."""
    prompts = all_prompts()
    return [draw_scene(rng, prompts[i % len(prompts)]) for i in range(count)]


def make_dataset(count: int, seed: int) -> tuple[np.ndarray, list[Scene]]:
    """Return `count` pictures, uint8 [count, 64, 64, 3], and their scenes; every prompt equally often."""
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(count, rng)
    pictures = np.stack([render(scene, rng) for scene in scenes])
    return pictures, scenes


def contact_sheet(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Return pictures [n, h, w, 3] laid out in rows with a 2 pixel gap, uint8."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + 2) + 2, (i % columns) * (width + 2) + 2
        sheet[top : top + height, left : left + width] = picture
    return sheet


def main() -> None:
    """Write a contact sheet of random scenes."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("shapes_world.png"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    pictures = np.stack([render(draw_scene(rng), rng) for _ in range(96)])
    Image.fromarray(contact_sheet(pictures, 12)).save(args.out)


if __name__ == "__main__":
    main()
