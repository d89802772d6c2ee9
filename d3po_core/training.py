"""The training loop of every objective: optimizer steps over whole groups, until the plan is done (METHOD 2, 3).

Processes: whole groups of each step are dealt to the ranks; each adds up its LoRA gradients locally (the coefficients
    are already divided by the step's global count), the gradients are all-reduced by SUM once per step, and every
    rank takes the same AdamW step. Nothing is wrapped in DDP: there is nothing to bypass. Only rank 0 calls back.

Departures from D3PO's Algorithm 1: one optimizer step takes ``groups_per_step`` groups with all their transitions, each
image once per transition. This module writes nothing: checkpoints and metrics leave through callbacks.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from d3po_core import ddim
from d3po_core.checkpoint import CheckpointState
from d3po_core.config import ObjectiveConfig, TrainingConfig
from d3po_core.devices import use_threads
from d3po_core.errors import TrainingError
from d3po_core.gradients import accumulate_gradient
from d3po_core.group_data import GroupData
from d3po_core.labels import Labels
from d3po_core.memory import MOST_EVALUATIONS
from d3po_core.objectives.base import Objective, get_objective
from d3po_core.optimizer_state import binding_settings, capture_state, prepare_optimizer
from d3po_core.order import OptimizerStep, plan_steps
from d3po_core.policy import Policy
from d3po_core.ranks import Ranks
from d3po_core.records import Pair, Reward, TrajectorySource
from d3po_core.start_check import TOLERANCES, StartCheck, check_tolerance
from d3po_core.step_data import ReadAhead, read_groups
from d3po_core.stopwatch import Stopwatch

__all__ = ["TrainingResult", "train"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """A finished training."""

    state: CheckpointState
    """The last state: what is sealed, exported from, and started from by the next epoch."""
    steps: int
    """Optimizer steps of this training, those before a resume included."""
    metrics: Mapping[str, float]
    """Of the last optimizer step taken; empty where a resume found nothing left to do."""
    seconds: Mapping[str, float]
    """What this process spent its time on: ``reading`` (waiting for data), ``computing`` and ``writing`` (callbacks)."""


def train(
    policy: Policy,
    source: TrajectorySource,
    pairs: Sequence[Pair],
    objective_config: ObjectiveConfig,
    training_config: TrainingConfig,
    *,
    run_seed: int,
    epoch: int,
    rewards: Sequence[Reward] = (),
    resume: CheckpointState | None = None,
    initial_state: CheckpointState | None = None,
    reference_log_probs: Mapping[str, torch.Tensor] | None = None,
    data_metrics: Mapping[str, float] | None = None,
    on_checkpoint: Callable[[CheckpointState], None] | None = None,
    on_metrics: Callable[[int, dict[str, float]], None] | None = None,
    accelerator: Accelerator | None = None,
) -> TrainingResult:
    """Train the policy's adapter on one epoch's pairs or rewards.

    Args:
        policy: with the adapter that sampled the trajectories (``resume`` replaces it).
        source: trajectories and prompt embeddings by id.
        pairs: with their targets; ties are no pairs.
        objective_config: the loss.
        training_config: optimizer, steps; a micro-batch that is empty is 64 (``find_micro_batch`` finds one that fits).
        run_seed: the run's seed; orders and subsets are drawn from it.
        epoch: the epoch's number.
        rewards: of every image, for the objectives that learn from numbers.
        resume: go on from this state of the same training.
        initial_state: the parent epoch's last state, whose optimizer moments carry over.
        reference_log_probs: trajectory id -> [T] float64, for reference ``pretrained``.
        data_metrics: added to every step's metrics (``PreferenceStatistics.metrics()``).
        on_checkpoint: called on rank 0 every ``checkpoint_every`` optimizer steps, not after the last.
        on_metrics: called on rank 0 after each optimizer step with its number from 1.
        accelerator: of the process group; made where there is none.

    Returns:
        The last state, the same on every rank.

    Raises:
        StartCheckError: where the stored log-probs are not this policy's.
        TrainingError: where something is not finite, or another process failed.
        ValueError: where labels, trajectories and configuration do not fit together.
    """
    use_threads(policy.threads)
    ddim.check_trainable(policy.schedule)
    objective = get_objective(objective_config, policy.dimensions)
    labels = Labels(objective.spec, pairs, rewards)
    network_dtype = policy.network_dtype
    check_tolerance(objective, network_dtype)
    micro_batch = training_config.micro_batch or MOST_EVALUATIONS
    policy.use_gradient_checkpointing(training_config.gradient_checkpointing)
    denoising = objective.spec.quantity == "denoising_error"
    steps = torch.ones_like(policy.schedule.trainable) if denoising else policy.schedule.trainable
    plan = plan_steps(
        labels.terms(), steps, training_config, run_seed=run_seed, epoch=epoch, couples=objective.spec.couples
    )
    settings = binding_settings(objective_config, training_config, micro_batch, pairs, rewards)
    ranks = Ranks(policy.device, accelerator)
    with ranks.together():
        optimizer, done = prepare_optimizer(policy, training_config, resume, initial_state, settings)
        carried = resume or initial_state
        if carried is not None:
            objective.load_state(carried.objective_state)
        objective.begin(rewards, epoch)
        policy.use_null_embeds(source.prompt_embeds([""])[0])

    _check_same_adapter(policy, ranks)

    def state(step: int) -> CheckpointState:
        return capture_state(policy, optimizer, objective, plan, step, run_seed, epoch, settings)

    def read(number: int) -> list[GroupData]:
        return read_groups(
            policy,
            source,
            labels,
            plan[number],
            ranks.share(plan[number].group_ids),
            reference=objective.reference,
            reference_log_probs=reference_log_probs,
            run_seed=run_seed,
            epoch=epoch,
        )

    metrics: dict[str, float] = {}
    warned = False
    clock = Stopwatch()
    with ReadAhead(read, done, len(plan)) as reading:
        for number in range(done, len(plan)):
            step = plan[number]
            check = StartCheck(network_dtype) if number == 0 and not denoising else None
            with ranks.together(), clock("reading"):
                groups = reading.take(number)
            _observe(objective, ranks, groups)
            with ranks.together():
                with clock("computing"):
                    optimizer.zero_grad(set_to_none=True)
                    parts = accumulate_gradient(
                        policy, objective, groups, count=step.count, micro_batch=micro_batch, start_check=check
                    )
                if check is not None:
                    check.finish()
            with clock("computing"):
                metrics = _update(policy, optimizer, ranks, parts, step, training_config, number)
            falling = _both_fall(metrics, network_dtype, objective)
            if falling and not warned and ranks.is_main:
                _warn_of_fall(metrics)
            warned = warned or bool(falling)
            metrics |= {**(data_metrics or {}), **({} if falling is None else {"train/both_fall": float(falling)})}
            with ranks.together(), clock("writing"):
                if ranks.is_main and on_metrics is not None:
                    on_metrics(number + 1, metrics)
                due = (number + 1) % training_config.checkpoint_every == 0 and number + 1 < len(plan)
                if ranks.is_main and on_checkpoint is not None and due:
                    on_checkpoint(state(number + 1))
    return TrainingResult(state=state(len(plan)), steps=len(plan), metrics=metrics, seconds=clock.seconds)


def _update(
    policy: Policy,
    optimizer: torch.optim.AdamW,
    ranks: Ranks,
    parts: dict[str, torch.Tensor],
    step: OptimizerStep,
    training: TrainingConfig,
    number: int,
) -> dict[str, float]:
    """Sum the gradients over the processes, clip, step; the step's global metrics."""
    parameters = list(policy.lora_parameters().values())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = ranks.add_up(torch.cat([gradient.flatten() for gradient in gradients]))
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)
    # A process without a group of its own has no metrics: the names come from those that have.
    names = next(names for names in ranks.gather(sorted(parts)) if names)
    values = torch.stack([parts.get(name, torch.zeros((), dtype=torch.float64)) for name in names])
    metrics = dict(zip(names, ranks.add_up(values.to(policy.device)).tolist(), strict=True))
    norm = torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm, foreach=False)
    if not bool(norm.isfinite()):
        raise TrainingError(
            f"The gradient of optimizer step {number + 1} is not finite ({float(norm)}); its trajectories are those of "
            f"the groups {', '.join(step.group_ids)}. The step was not applied. Lower training.learning_rate or use "
            "model.dtype float32, then `d3po run CONFIG --retrain`."
        )
    optimizer.step()
    return metrics | {
        "train/grad_norm": float(norm),
        "train/lr": training.learning_rate,
        "train/inner_epoch": float(step.inner_epoch),
        "train/terms": float(step.count),
    }


def _observe(objective: Objective, ranks: Ranks, groups: Sequence[GroupData]) -> None:
    """Let the objective learn what it needs of the step's data, summed over the processes in order of rank."""
    with ranks.together():
        own = objective.observe(groups)
    observed = [part for part in ranks.gather(own) if part is not None]
    if observed:
        objective.update(torch.stack(observed).sum(dim=0))


def _both_fall(metrics: Mapping[str, float], dtype: torch.dtype, objective: Objective) -> bool | None:
    """The classic failure: preferred and dispreferred images both become less likely than when they were sampled.

    None for objectives that have no such sides.
    """
    sides = [metrics.get(f"train/change_{side}") for side in ("preferred", "dispreferred")]
    noise = TOLERANCES[dtype] * objective.unit
    return None if None in sides else all(side is not None and side < -noise for side in sides)


def _warn_of_fall(metrics: Mapping[str, float]) -> None:
    logger.warning(
        "Preferred and dispreferred log-probs both fall (%.3g and %.3g nats since sampling): the policy drifts from "
        "what it sampled. Lower training.learning_rate, or use objective.ratio_clip: pessimistic.",
        metrics["train/change_preferred"],
        metrics["train/change_dispreferred"],
    )


def _check_same_adapter(policy: Policy, ranks: Ranks) -> None:
    """Processes that start from different adapters stay different: gradients are summed, not weights."""
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in policy.lora_state().values())).hexdigest()
    if len(set(ranks.gather(digest))) > 1:
        raise TrainingError(
            "The processes were given different adapters. Load the same state in each (`d3po audit RUN`)."
        )
