"""Comparisons with a known answer for the tests: one colour against noise, of the tiny model's size."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 16


def write_gold(folder: Path, pairs: int = 4, size: int = SIZE) -> str:
    """Write the set; the good image is the one that compresses better. Returns the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(3)
    with (folder / "gold.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "good", "bad"])
        for pair in range(pairs):
            plain = np.full((size, size, 3), 40 + 40 * pair, np.uint8)
            Image.fromarray(plain).save(folder / f"{pair}-calm.png")
            Image.fromarray(noise.integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"{pair}-loud.png")
            table.writerow([f"a calm colour {pair}", f"{pair}-calm.png", f"{pair}-loud.png"])
    return str(folder / "gold.csv")
