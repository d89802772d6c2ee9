"""Comparisons with a known answer for the demo: one scene twice, on a plain background and on a textured one.

The demo asks for the plainer picture, so the plain one is the good one. Writes pictures and ``gold.csv``, the form that
``labels.gold`` reads.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from assets.shapes_world.world import draw_scene, render, split_prompts

TEXTURES = ("stripes", "speckle", "checks")
"""A gradient is too calm to be told from plain at a glance."""


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("assets/shapes/gold"))
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    write(args.out, args.pairs, args.seed)


def write(folder: Path, pairs: int, seed: int) -> None:
    """Draw ``pairs`` scenes of training prompts and write them with their answers."""
    rng = np.random.default_rng(seed)
    prompts, _ = split_prompts()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "gold.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["prompt", "good", "bad"])
        for number, prompt in enumerate(rng.choice(prompts, pairs, replace=False)):
            scene = replace(draw_scene(rng, str(prompt)), texture=TEXTURES[number % len(TEXTURES)])
            for name, one in (("plain", replace(scene, texture="plain")), (scene.texture, scene)):
                Image.fromarray(render(one, rng)).save(folder / f"{number:02d}-{name}.png", optimize=True)
            table.writerow([prompt, f"{number:02d}-plain.png", f"{number:02d}-{scene.texture}.png"])


if __name__ == "__main__":
    main()
