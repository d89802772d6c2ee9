"""Prompts to trajectories: DDIM sampling that keeps every latent and the log-prob of every action.

A generation batch (whole groups) is computed alone and entire, exactly as it was given: a network's floating-point
output depends on the batch's shape. Noise does not: every number comes from its address. Nothing is stored here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from d3po_core import ddim, noise
from d3po_core.config import SamplingConfig
from d3po_core.devices import use_threads
from d3po_core.errors import SamplingError
from d3po_core.policy import Policy
from d3po_core.records import Group, Trajectories

__all__ = ["rollout"]


def rollout(
    policy: Policy,
    batches: Iterable[Sequence[Group]],
    sampling: SamplingConfig,
    *,
    run_seed: int,
    epoch: int | None,
    embeds: Mapping[str, torch.Tensor],
    images: bool = True,
) -> Iterator[Trajectories]:
    """Generate the trajectories of each batch of groups, one record a batch.

    Args:
        policy: the sampler; its adapter as it is.
        batches: whole groups that pass through the network together.
        sampling: k and whether a group shares x_T; T, η and guidance have to be the policy's own.
        run_seed: the run's part of every noise address.
        epoch: the epoch's part; None for an evaluation, whose noise is the same in every epoch.
        embeds: prompt -> [L, D] float32; with ``""``, if it is there, as the unconditional prompt.
        images: decode x_0.

    Raises:
        SamplingError: where a latent is not finite, naming the trajectories.
        ValueError: where the policy was loaded for another way of sampling, or a prompt has no embedding.
    """
    _check_same_process(policy, sampling)
    use_threads(policy.threads)
    if "" in embeds:
        policy.use_null_embeds(embeds[""])
    for batch in batches:
        with policy.merged():  # not across the yield: who takes the batch may use the policy
            generated = _generate(policy, list(batch), sampling, run_seed, epoch, embeds, images)
        yield generated


@torch.no_grad()
def _generate(
    policy: Policy,
    batch: list[Group],
    sampling: SamplingConfig,
    run_seed: int,
    epoch: int | None,
    embeds: Mapping[str, torch.Tensor],
    images: bool,
) -> Trajectories:
    prefix = "" if epoch is not None else "evaluation-"
    rows = [(group, image) for group in batch for image in range(sampling.group_size)]
    missing = sorted({group.prompt for group in batch} - embeds.keys())
    if missing:
        raise ValueError(f"No embedding was given for {len(missing)} prompts, the first {missing[0]!r}.")

    def draw(domain: str, group: Group, image: int | None, step: int | None) -> np.ndarray:
        return noise.normal(
            policy.latent_shape,
            prefix + domain,
            run_seed=run_seed,
            epoch=epoch,
            group=group.index,
            image=image,
            step=step,
        )

    shared = sampling.shared_initial_noise
    start = np.stack([draw("x_T", group, None if shared else image, None) for group, image in rows])
    latents = torch.from_numpy(start).to(policy.device, policy.latent_dtype)
    prompts_BLD = torch.stack([embeds[group.prompt] for group, _ in rows]).to(policy.device)
    path, log_probs = [latents.cpu()], []
    for step in range(len(policy.schedule)):
        mean, sigma = _transition(policy, latents, step, prompts_BLD, sampling.group_size if shared else 1)
        if policy.schedule.trainable[step]:
            z = torch.from_numpy(np.stack([draw("step", group, image, step) for group, image in rows]))
            latents = ddim.step(mean, sigma, z, policy.latent_dtype)
            log_probs.append(ddim.log_prob(latents, mean, sigma).double().cpu())
        else:
            latents = mean.to(policy.latent_dtype)
            log_probs.append(torch.full((len(rows),), torch.nan, dtype=torch.float64))
        path.append(latents.cpu())
    ids = tuple(trajectory for group in batch for trajectory in group.trajectory_ids(sampling.group_size))
    latents_NTCHW = torch.stack(path, dim=1)
    finite = latents_NTCHW.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        bad = [name for name, good in zip(ids, finite.tolist(), strict=True) if not good]
        raise SamplingError(
            f"Sampling gave non-finite latents for {len(bad)} of {len(ids)} trajectories: {', '.join(bad[:8])}. "
            f"The model's dtype is {policy.dtype}, the latents' {policy.latent_dtype}; try model.dtype float32 or "
            "bfloat16, or d3po run CONFIG --run NAME with a lower training.learning_rate."
        )
    return Trajectories(
        ids=ids,
        group_ids=tuple(group.id for group, _ in rows),
        prompts=tuple(group.prompt for group, _ in rows),
        latents=latents_NTCHW,
        log_prob=torch.stack(log_probs, dim=1),
        timesteps=policy.schedule.timesteps.clone(),
        trainable=policy.schedule.trainable.clone(),
        images=policy.decode(latents) if images else None,
    )


def _transition(
    policy: Policy, latents: torch.Tensor, step: int, prompts_BLD: torch.Tensor, images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One denoising step. Images that share x_T have one state before the first: it is evaluated once (METHOD 2)."""
    if step > 0 or images == 1:
        return policy.transition(latents, step, prompts_BLD)
    mean, sigma = policy.transition(latents[::images], step, prompts_BLD[::images])
    return mean.repeat_interleave(images, dim=0), sigma.repeat_interleave(images, dim=0)


def _check_same_process(policy: Policy, sampling: SamplingConfig) -> None:
    for field in ("num_inference_steps", "eta", "guidance_scale", "latent_dtype"):
        own, asked = getattr(policy.sampling, field), getattr(sampling, field)
        if own != asked:
            raise ValueError(f"sampling.{field} is {asked}, but the policy was loaded with {own}: load it again.")
