"""Does trajectory DPO's peak memory grow with T? One training step of the bundled model, T from 5 to 40.

    python -m benchmarks.trajectory_memory

Bytes of tensors above the loaded network: by two passes, as the product takes it, and (up to T = 10) with everything in
one graph, as the formula is written.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from benchmarks.in_memory import InMemory, first_preferred, loaded, one_prompt, sampled
from d3po_core.config import ObjectiveConfig
from d3po_core.memory import peak_bytes
from d3po_core.policy import Policy
from d3po_core.records import Trajectories
from d3po_core.training import train
from tasks.config_reading import load_configuration

STEPS = (5, 10, 20, 40)
MICRO_BATCH = 4


def measure(steps: int) -> dict[str, Any]:
    """Megabytes of one optimizer step over one pair."""
    configuration = load_configuration(
        "configs/demo.yaml", ["--sampling.num_inference_steps", str(steps), "--training.first_transitions", "5"]
    )
    policy = loaded(configuration)
    groups, embeds = one_prompt(policy, 1)
    (found,) = sampled(configuration, policy, groups, embeds, images=False)
    pair = first_preferred(groups[0])
    training = configuration.training.model_copy(
        update={"micro_batch": MICRO_BATCH, "inner_epochs": 2, "first_transitions": None}
    )

    def two_passes() -> None:
        objective = ObjectiveConfig(kind="trajectory_dpo")
        train(policy, InMemory([found], embeds), [pair], objective, training, run_seed=0, epoch=0)

    row = {"T": steps, "two_passes_mb": round(peak_bytes(policy.device, two_passes) / 1e6, 1)}
    if steps <= 10:
        one_graph = peak_bytes(policy.device, lambda: _one_graph(policy, found, embeds[groups[0].prompt]))
        row["one_graph_mb"] = round(one_graph / 1e6, 1)
    return row


def _one_graph(policy: Policy, found: Trajectories, prompt_LD: torch.Tensor) -> None:
    steps = len(policy.schedule)
    total = []
    for image in range(2):
        latents = found.latents[image]
        log_prob = policy.log_prob(
            latents[:-1], torch.arange(steps), latents[1:], prompt_LD.expand(steps, *prompt_LD.shape)
        )
        total.append((log_prob - found.log_prob[image]).sum())
    loss = -logsigmoid(0.1 * (total[0] - total[1]))
    torch.autograd.grad(loss, list(policy.lora_parameters().values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = []
    for steps in STEPS:
        found.append(measure(steps))
        print(found[-1], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
