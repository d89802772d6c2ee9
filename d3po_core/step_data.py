"""From ids to the tables of one optimizer step. Everything is joined by id, nothing by position."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from d3po_core.devices import use_threads
from d3po_core.draws import draw_noise
from d3po_core.group_data import GroupData
from d3po_core.labels import Labels
from d3po_core.objectives.specs import ObjectiveSpec
from d3po_core.order import OptimizerStep
from d3po_core.policy import Policy
from d3po_core.records import Trajectories, TrajectorySource

__all__ = ["ReadAhead", "check_same_schedule", "have_same_start", "read_groups"]


class ReadAhead:
    """Each optimizer step's groups, read while the step before is computed: two steps' data are in memory at most.

    Args:
        read: optimizer step's number -> its data.
        first: the first step that will be taken.
        count: the number of steps.
    """

    def __init__(self, read: Callable[[int], list[GroupData]], first: int, count: int) -> None:
        self._read, self._count = read, count
        # A second OpenMP team beside the main thread's would slow both (docs/decisions/0019).
        self._thread = ThreadPoolExecutor(1, "read-ahead", initializer=use_threads, initargs=(1,))
        self._next: Future[list[GroupData]] | None = None
        self._begin(first)

    def take(self, number: int) -> list[GroupData]:
        """The next step's data; what went wrong in reading it is raised here."""
        assert self._next is not None, "steps are taken in turn"
        groups = self._next.result()
        self._begin(number + 1)
        return groups

    def _begin(self, number: int) -> None:
        self._next = self._thread.submit(self._read, number) if number < self._count else None

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)


def read_groups(
    policy: Policy,
    source: TrajectorySource,
    labels: Labels,
    step: OptimizerStep,
    own: Sequence[int],
    *,
    reference: str | None,
    reference_log_probs: Mapping[str, torch.Tensor] | None,
    run_seed: int,
    epoch: int,
) -> list[GroupData]:
    """The data of this process's groups of a step: only images that have a label.

    Args:
        labels: of all groups, for an objective that needs log-probs or denoising errors.
        own: places of this process's groups among the step's.
        reference: ``epoch_start``: the stored log-probs are the reference's; ``pretrained``: those given.
        run_seed: the run's part of the address of the noise that is put on x_0.
        epoch: the epoch's part.

    Raises:
        ValueError: where ids are unknown, or the trajectories are not of this policy's schedule.
    """
    if not own:
        return []
    ids = [step.group_ids[place] for place in own]
    denoising = labels.spec.quantity == "denoising_error"
    trajectories = source.read(ids)
    (check_same_latents if denoising else check_same_schedule)(policy, trajectories)
    rows = {name: row for row, name in enumerate(trajectories.ids)}
    prompts = dict(zip(trajectories.group_ids, trajectories.prompts, strict=True))
    if missing := [group for group in ids if group not in prompts]:
        raise ValueError(f"The store gave no trajectories for the groups {', '.join(missing)} (`d3po audit RUN`).")
    embeds = source.prompt_embeds([prompts[group] for group in ids])
    data = []
    for place, group, prompt in zip(own, ids, embeds, strict=True):
        names, transitions = labels.images(group), step.transitions[place]
        if unknown := [name for name in names if name not in rows or trajectories.group_ids[rows[name]] != group]:
            raise ValueError(f"Labels of {group} name trajectories that the group does not have: {', '.join(unknown)}.")
        chosen = [rows[name] for name in names]
        latents = trajectories.latents[chosen]
        stored = base = torch.zeros(len(names), len(transitions), dtype=torch.float64)
        draws = None
        same_start = have_same_start(latents)
        if denoising:
            draws = draw_noise(policy, group, transitions, step.inner_epoch, run_seed=run_seed, epoch=epoch)
            latents = latents[:, -1:]
        else:
            _check_noise(labels.spec, group, names, same_start)
            stored = base = trajectories.log_prob[chosen][:, list(transitions)].double()
            if reference == "pretrained":
                base = _given(reference_log_probs, names)[:, list(transitions)].double()
        data.append(
            GroupData(
                ids=names,
                latents=latents,
                embeds=prompt,
                transitions=transitions,
                stored=stored,
                reference=base,
                same_start=same_start and not denoising,
                pairs=labels.pairs(group),
                rewards=labels.rewards(group),
                draws=draws,
            )
        )
    return data


def _check_noise(spec: ObjectiveSpec, group: str, names: Sequence[str], same_start: bool) -> None:
    found = "shared" if same_start else "independent"
    if len(names) > 1 and spec.initial_noise not in ("any", found):
        start = {"shared": "one x_T", "independent": "noise of their own"}
        raise ValueError(
            f"The images of {group} start from {start[found]}, and {spec.title} is defined for images that start from "
            f"{start[spec.initial_noise]}. "
            "Choose another objective.kind: `d3po run CONFIG --retrain`."
        )


def have_same_start(latents_KTCHW: torch.Tensor) -> bool:
    """Whether all trajectories start from one x_T, bit for bit."""
    return bool((latents_KTCHW[:, 0] == latents_KTCHW[:1, 0]).all())


def check_same_latents(policy: Policy, trajectories: Trajectories) -> None:
    """Refuse trajectories whose latents have another shape or dtype than this policy's.

    Raises:
        ValueError: with expected and found.
    """
    found = tuple(trajectories.latents.shape[2:])
    if found != policy.latent_shape:
        raise ValueError(f"Trajectories have latents {found}, expected {policy.latent_shape} (C, H, W) of this policy.")
    if trajectories.latents.dtype != policy.latent_dtype:
        raise ValueError(f"Trajectories are {trajectories.latents.dtype}, this policy's latents {policy.latent_dtype}.")


def check_same_schedule(policy: Policy, trajectories: Trajectories) -> None:
    """Refuse trajectories that were sampled by another schedule, shape or dtype.

    Raises:
        ValueError: with expected and found.
    """
    check_same_latents(policy, trajectories)
    steps = trajectories.latents.shape[1] - 1
    if steps != len(policy.schedule):
        raise ValueError(
            f"Trajectories have {steps} denoising steps, expected {len(policy.schedule)} (T) of this policy. Images "
            "without a trajectory (T = 0) can be trained on by objective.kind diffusion_dpo or preferred_images."
        )
    if not torch.equal(trajectories.timesteps.cpu(), policy.schedule.timesteps):
        raise ValueError(
            f"Trajectories were sampled at timesteps {trajectories.timesteps.tolist()[:3]} …, this policy's are "
            f"{policy.schedule.timesteps.tolist()[:3]} …: the scheduler's file or T is another."
        )
    if not torch.equal(trajectories.trainable.cpu(), policy.schedule.trainable):
        raise ValueError("Trajectories have other trainable steps (σ > 0) than this policy: the scheduler is another.")


def _given(reference_log_probs: Mapping[str, torch.Tensor] | None, names: Sequence[str]) -> torch.Tensor:
    if reference_log_probs is None or any(name not in reference_log_probs for name in names):
        raise ValueError(
            "objective.reference is pretrained, but the pretrained model's log-probs were not given for "
            f"{', '.join(name for name in names if name not in (reference_log_probs or {}))}. `d3po run CONFIG` computes them."
        )
    return torch.stack([torch.as_tensor(reference_log_probs[name]) for name in names])
