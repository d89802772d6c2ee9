"""The acceptance check of the bundled model: does it draw what prompts name, do textures vary by seed?

Samples all 192 prompts once with the plain diffusers pipeline (DDIM, guidance 5, 20 steps, eta 1) and a few
prompts with many seeds, lets the classifier judge, prints a table and writes `acceptance.json`, `samples.png`
(rows: colours; columns: shapes by backgrounds) and `seeds.png` (rows: prompts; columns: seeds). Exits with 1
where the model fails.
"""

import argparse
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from assets.shapes_world.classifier import classify
from assets.shapes_world.world import (
    BACKGROUNDS,
    SHAPES,
    all_prompts,
    contact_sheet,
    make_dataset,
    parse_prompt,
)

REQUIRED = {"colour": 0.90, "shape": 0.80}
QUESTIONS = ("colour", "shape", "background")
SETTINGS = {"num_inference_steps": 20, "guidance_scale": 5.0, "eta": 1.0}


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Return the model as anyone would load it, in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, batch: int = 48) -> np.ndarray:
    """Return one picture for each prompt, uint8 [n, 64, 64, 3]."""
    pictures = []
    for first in range(0, len(prompts), batch):
        generator = torch.Generator().manual_seed(seed + first)
        chunk = prompts[first : first + batch]
        pictures.append(pipeline(chunk, generator=generator, output_type="np", **SETTINGS).images)
    return (np.concatenate(pictures) * 255).round().astype(np.uint8)


def right_answers(prompts: list[str], found: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Return for each question that a prompt answers which pictures agree, bool [n]."""
    wanted = zip(*(parse_prompt(prompt) for prompt in prompts), strict=True)
    return {name: np.array(found[name]) == np.array(w) for name, w in zip(QUESTIONS, wanted, strict=True)}


def jpeg_size(pictures: np.ndarray) -> float:
    """Return the mean size in bytes as JPEG of quality 90."""
    sizes = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=90)
        sizes.append(buffer.tell())
    return float(np.mean(sizes))


def shares(values: list[str]) -> dict[str, float]:
    """Return each value's share, most frequent first."""
    return {name: round(count / len(values), 3) for name, count in Counter(values).most_common()}


def group_shares(keys: list[str], right: np.ndarray) -> dict[str, float]:
    """Return the share of right pictures for each key."""
    names = np.array(keys)
    return {key: round(float(right[names == key].mean()), 3) for key in dict.fromkeys(keys)}


def check_prompts(pictures: np.ndarray, prompts: list[str]) -> dict:
    """Return what the classifier says of one picture for each prompt."""
    found = classify(pictures)
    right = right_answers(prompts, found)
    colours, shapes, _ = zip(*(parse_prompt(prompt) for prompt in prompts), strict=True)
    return {
        "right": {name: round(float(values.mean()), 4) for name, values in right.items()},
        "colour_by_colour": group_shares(list(colours), right["colour"]),
        "shape_by_shape": group_shares(list(shapes), right["shape"]),
        "textures": shares(found["texture"]),
        "jpeg_bytes": round(jpeg_size(pictures)),
        "jpeg_bytes_by_texture": {
            name: round(jpeg_size(pictures[np.array(found["texture"]) == name]))
            for name in sorted(set(found["texture"]))
        },
    }


def check_seeds(pictures: np.ndarray, prompts: list[str], seeds: int) -> dict[str, dict[str, float]]:
    """Return for each prompt the textures' shares over its seeds."""
    textures = classify(pictures)["texture"]
    return {prompt: shares(textures[i * seeds : (i + 1) * seeds]) for i, prompt in enumerate(prompts)}


def print_table(report: dict) -> None:
    """Print the report's main figures."""
    for name, value in report["right"].items():
        needed = f"(needed {REQUIRED[name]:.0%})" if name in REQUIRED else ""
        print(f"{name:<12}{value:>7.1%} {needed}")
    for part in ("colour_by_colour", "shape_by_shape", "textures"):
        print(f"{part:<18}", "  ".join(f"{name} {value:.2f}" for name, value in report[part].items()))
    print(f"JPEG bytes {report['jpeg_bytes']} (real pictures {report['jpeg_bytes_real']})")
    for prompt, textures in report["textures_by_seed"].items():
        print(f"  {prompt}: {textures}")
    print("accepted" if report["accepted"] else "NOT accepted")


def main() -> None:
    """Sample, judge, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("assets/shapes"))
    parser.add_argument("--out", type=Path, default=Path("shapes-check"), help="folder of report and sheets")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=16, help="pictures for each of six prompts")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(args.model)
    prompts = all_prompts()
    pictures = sample(pipeline, prompts, args.seed)
    few = prompts[::37][:6]
    many = sample(pipeline, [p for p in few for _ in range(args.seeds)], args.seed + 10_000)
    report = {"settings": {**SETTINGS, "seed": args.seed}, "required": REQUIRED}
    report |= check_prompts(pictures, prompts)
    report["jpeg_bytes_real"] = round(jpeg_size(make_dataset(192, 99)[0]))
    report["textures_by_seed"] = check_seeds(many, few, args.seeds)
    report["accepted"] = all(report["right"][name] >= share for name, share in REQUIRED.items())
    (args.out / "acceptance.json").write_text(json.dumps(report, indent=2) + "\n")
    Image.fromarray(contact_sheet(pictures, len(SHAPES) * len(BACKGROUNDS))).save(args.out / "samples.png")
    Image.fromarray(contact_sheet(many, args.seeds)).save(args.out / "seeds.png")
    print_table(report)
    raise SystemExit(0 if report["accepted"] else 1)


if __name__ == "__main__":
    main()
