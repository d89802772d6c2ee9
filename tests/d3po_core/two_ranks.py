"""One rank of a training of each objective, for torchrun: ``two_ranks.py <pipeline> <output> [fail|differ|die]``."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tiny
import torch

from d3po_core.config import ObjectiveConfig, TrainingConfig
from d3po_core.objectives.specs import OBJECTIVES
from d3po_core.records import Reward
from d3po_core.training import train


class FailingSource(tiny.MemorySource):
    """Cannot read from the second optimizer step on."""

    reads = 0

    def read(self, group_ids: object) -> tiny.Trajectories:
        self.reads += 1
        if self.reads > 1:
            raise OSError("the disk is gone")
        return super().read(group_ids)


class DyingSource(tiny.MemorySource):
    """Takes its process with it at the second optimizer step, as the kernel does where memory is short."""

    reads = 0

    def read(self, group_ids: object) -> tiny.Trajectories:
        self.reads += 1
        if self.reads > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(group_ids)


REWARDS = [
    Reward(
        trajectory_id=f"g{group:06d}-{image}",
        group_id=f"g{group:06d}",
        prompt=tiny.PROMPTS[group % len(tiny.PROMPTS)],
        value=float((5 * group + 3 * image) % 4),
    )
    for group in range(6)
    for image in range(2)
]


def main(folder: Path, output: Path, mode: str = "") -> None:
    """Every listed objective in turn; one alone where the run is to fail."""
    for kind in ["d3po"] if mode else OBJECTIVES:
        trained(kind, folder, output / kind, mode)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def trained(objective: str, folder: Path, output: Path, mode: str) -> None:
    rank = int(os.environ.get("RANK", "0"))
    policy = tiny.load(folder, shared_initial_noise=OBJECTIVES[objective].initial_noise != "independent")
    trajectories, embeds = tiny.sample(policy, 6), tiny.embeddings(policy)
    kinds = {"fail": FailingSource, "die": DyingSource}
    kind = kinds.get(mode, tiny.MemorySource) if rank == 1 else tiny.MemorySource
    if mode == "differ" and rank == 1:
        policy.load_lora_state({name: value + 1 for name, value in policy.lora_state().items()})
    called: list[str] = []
    result = train(
        policy,
        kind(trajectories, embeds),
        tiny.first_wins(6),
        ObjectiveConfig(kind=objective),
        TrainingConfig(learning_rate=3e-3, groups_per_step=5, inner_epochs=2, checkpoint_every=1),
        run_seed=1,
        epoch=0,
        rewards=REWARDS,
        reference_log_probs={name: trajectories.log_prob[row] for row, name in enumerate(trajectories.ids)},
        on_checkpoint=lambda state: called.append(f"checkpoint {state.step}"),
        on_metrics=lambda step, metrics: called.append(f"metrics {step} {metrics['train/loss']:.9f}"),
    )
    result.state.save(output / f"rank-{rank}")
    (output / f"rank-{rank}" / "called.txt").write_text("\n".join(called))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
