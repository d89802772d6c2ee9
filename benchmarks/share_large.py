"""What storage takes of an epoch at Stable Diffusion 1.5's size: measured bytes, computed network evaluations.

    python -m benchmarks.share_large --out benchmarks/share_large.json

Trajectories of its shape (50 steps, latents of 4 × 64 × 64 in bfloat16, images of 512 × 512) are committed and read
again as training reads them, groups in a shuffled order, by the product's own functions. Computing is what the mathematics needs: a guided forward a
step to sample, a guided forward and LoRA backward a step to train once; a forward's operations are counted by torch on
the network's shapes. The share is given for several rates of a device.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from storage.layout import GROUPS_FILE, TRAJECTORIES_FILE
from storage.run import Run
from storage.trajectories import StoredShard, TrajectoryArrays, write_shard

STEPS, LATENT, PIXELS = 50, (4, 64, 64), 512
SHARD, GROUPS_A_STEP = 32, 8
GUIDED, LORA_BACKWARD = 2, 1
"""Rows of a guided evaluation; forwards' worth of a backward that leaves the weights alone."""
RATES = {"1 TFLOP/s": 1e12, "20 TFLOP/s": 2e13, "100 TFLOP/s": 1e14, "400 TFLOP/s": 4e14}


def forward_operations() -> int:
    """Of one row through Stable Diffusion 1.5's network, counted on its shapes alone."""
    with torch.device("meta"):
        network = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        inputs = torch.empty(1, *LATENT), torch.empty(1), torch.empty(1, 77, 768)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


def stored(folder: Path) -> tuple[float, float]:
    """Seconds a trajectory for committing a shard, and for reading it for one training epoch, verified."""
    noise = np.random.default_rng(0)
    shape = (SHARD, STEPS + 1, *LATENT)
    ids = [f"g{row // 2:06d}-{row % 2}" for row in range(SHARD)]
    arrays = TrajectoryArrays(
        ids=tuple(ids),
        group_ids=tuple(id.rpartition("-")[0] for id in ids),
        prompts=("a picture",) * SHARD,
        latents=torch.from_numpy(noise.standard_normal(shape, np.float32)).bfloat16().view(torch.uint16).numpy(),
        latents_dtype="bfloat16",
        log_prob=noise.standard_normal((SHARD, STEPS)),
        timesteps=np.arange(STEPS, 0, -1),
        trainable=np.ones(STEPS, bool),
    )
    epoch = Run.create(str(folder), "large", {}).epoch(0)
    pictures = _pictures(noise)
    begun = time.perf_counter()
    attempt = epoch.begin("shard-000000")
    content = write_shard(attempt.path, arrays, pictures)
    epoch.commit(attempt, {"trajectories": SHARD}, content)
    committed = time.perf_counter()
    again = Run.open(str(folder), "large").epoch(0)
    commit = again.latest("shard-000000")
    again.fetch(commit, GROUPS_FILE)
    shard = StoredShard(again.fetch(commit, TRAJECTORIES_FILE).parent)
    groups = noise.permutation(SHARD // 2)
    for first in range(0, len(groups), GROUPS_A_STEP):
        shard.read([f"g{group:06d}-{image}" for group in groups[first : first + GROUPS_A_STEP] for image in range(2)])
    read = time.perf_counter()
    return (committed - begun) / SHARD, (read - committed) / SHARD


def _pictures(noise: np.random.Generator) -> np.ndarray:
    """[SHARD, 512, 512, 3] uint8: soft shapes with a little grain, which take a PNG about as long as photographs do."""
    coarse = torch.from_numpy(noise.uniform(0, 255, (SHARD, 3, 16, 16)))
    soft = torch.nn.functional.interpolate(coarse, size=(PIXELS, PIXELS), mode="bicubic")
    grain = torch.from_numpy(noise.normal(0, 3, (SHARD, 3, PIXELS, PIXELS)))
    return (soft + grain).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def measure() -> dict[str, Any]:
    """All of it, a trajectory."""
    operations = forward_operations()
    sampling = operations * GUIDED * STEPS
    total = sampling * (1 + 1 + LORA_BACKWARD)
    with tempfile.TemporaryDirectory() as folder:
        commit, read = stored(Path(folder))
    return {
        "a forward of one row, GFLOP": round(operations / 1e9, 1),
        "computing a trajectory, TFLOP": round(total / 1e12, 1),
        "commit, s a trajectory": round(commit, 4),
        "read, s a trajectory": round(read, 4),
        "share of computing": {
            name: {
                "one after the other": round((commit + read) / (total / rate), 5),
                # A shard is committed while the next is sampled: what is waited for is what takes longer than that.
                "as it runs": round((max(0.0, commit - sampling / rate) + read) / (total / rate), 5),
            }
            for name, rate in RATES.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = measure()
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
