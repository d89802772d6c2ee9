"""The optimizer between steps: made, restored, captured, and what has to stay the same when a training is resumed."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from d3po_core.checkpoint import CheckpointState
from d3po_core.config import ObjectiveConfig, Section, TrainingConfig
from d3po_core.objectives.base import Objective
from d3po_core.order import OptimizerStep
from d3po_core.policy import Policy
from d3po_core.records import Pair, Reward

__all__ = ["binding_settings", "capture_state", "moments_of", "prepare_optimizer"]


def prepare_optimizer(
    policy: Policy,
    training: TrainingConfig,
    resume: CheckpointState | None,
    initial: CheckpointState | None,
    settings: Mapping[str, Any],
) -> tuple[torch.optim.AdamW, int]:
    """The optimizer with the moments it starts from, and the optimizer steps already done.

    Raises:
        ValueError: where there is no adapter, or the state is another adapter's or another training's.
    """
    parameters = policy.lora_parameters()
    if not parameters:
        raise ValueError("The policy has no adapter to train: load it with a LoraConfig.")
    if resume is not None:
        resume.check_settings(settings)
        policy.load_lora_state(dict(resume.lora))
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
        fused=True,
    )
    carried = resume or initial
    if carried is not None:
        if carried.exp_avg.keys() != parameters.keys():
            raise ValueError("The optimizer state's tensors are not this adapter's. Were the LoRA's modules changed?")
        for name, parameter in parameters.items():
            optimizer.state[parameter] = moments_of(carried, name, parameter)
    return optimizer, resume.step if resume is not None else 0


def moments_of(carried: CheckpointState, name: str, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """AdamW's state of one parameter as a checkpoint has it, all of it where the parameter is: the fused kernel wants
    even the step counter there."""
    return {
        "step": torch.tensor(float(carried.optimizer_steps), device=parameter.device),
        "exp_avg": carried.exp_avg[name].to(parameter, copy=True),
        "exp_avg_sq": carried.exp_avg_sq[name].to(parameter, copy=True),
    }


def binding_settings(
    objective: ObjectiveConfig,
    training: TrainingConfig,
    micro_batch: int,
    pairs: Sequence[Pair],
    rewards: Sequence[Reward],
) -> dict[str, Any]:
    """What has to be the same for a resumed training to be the same one: all but the free fields."""
    sections = {"objective": objective, "training": training}
    fields = {
        f"{name}.{field}": value
        for name, section in sections.items()
        for field, value in section.model_dump(mode="json").items()
        if _frozen_by(section, field) != "free"
    }
    labels = {
        "pairs": _digest([pair.group_id, pair.preferred, pair.dispreferred, pair.target] for pair in pairs),
        "rewards": _digest([reward.trajectory_id, reward.prompt, reward.value] for reward in rewards),
    }
    return fields | {"training.micro_batch": micro_batch, **labels}


def _digest(rows: Iterable[list[Any]]) -> str:
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def _frozen_by(section: Section, field: str) -> object:
    extra = type(section).model_fields[field].json_schema_extra
    return extra.get("frozen_by") if isinstance(extra, dict) else None


def capture_state(
    policy: Policy,
    optimizer: torch.optim.AdamW,
    objective: Objective,
    plan: list[OptimizerStep],
    step: int,
    run_seed: int,
    epoch: int,
    settings: Mapping[str, Any],
) -> CheckpointState:
    """Everything needed to go on after this step, copied to the CPU."""
    moments: dict[str, dict[str, torch.Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}}
    count = 0
    for name, parameter in policy.lora_parameters().items():
        own = optimizer.state[parameter]
        count = int(own["step"])
        for kind in moments:
            moments[kind][name] = own[kind].detach().cpu().clone()
    return CheckpointState(
        lora=policy.lora_state(),
        **moments,
        optimizer_steps=count,
        step=step,
        steps_total=len(plan),
        inner_epoch=plan[step - 1].inner_epoch,
        objective_state=objective.state(),
        run_seed=run_seed,
        epoch=epoch,
        settings=dict(settings),
    )
