"""Sampling: what a trajectory holds, and what it does not depend on."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler

from d3po_core import noise
from d3po_core.errors import SamplingError
from d3po_core.policy import Policy
from d3po_core.rollout import rollout
from d3po_core.start_check import TOLERANCES


def test_shapes_ids_and_types(policy: Policy) -> None:
    first = next(
        rollout(policy, [tiny.groups(2)], policy.sampling, run_seed=1, epoch=0, embeds=tiny.embeddings(policy))
    )
    assert first.ids == ("g000000-0", "g000000-1", "g000001-0", "g000001-1")
    assert first.group_ids == ("g000000", "g000000", "g000001", "g000001")
    assert first.prompts == (tiny.PROMPTS[0],) * 2 + (tiny.PROMPTS[1],) * 2
    assert first.latents.shape == (4, 5, 4, 8, 8)
    assert first.log_prob.shape == (4, 4)
    assert first.log_prob.dtype == torch.float64
    assert first.images is not None
    assert first.images.shape == (4, 16, 16, 3)
    assert np.array_equal(first.images, policy.decode(first.latents[:, -1]))
    assert first.timesteps.tolist() == [751, 501, 251, 1]


def test_every_step_is_the_policys_and_its_noise_has_its_address(policy: Policy) -> None:
    trajectories = tiny.sample(policy, 2)
    embeds = torch.stack([tiny.embeddings(policy)[prompt] for prompt in trajectories.prompts])
    for step in range(4):
        state, action = trajectories.latents[:, step], trajectories.latents[:, step + 1]
        with torch.no_grad():
            mean, sigma = policy.transition(state, step, embeds)
        for row, (group, image) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            z = noise.normal((4, 8, 8), "step", run_seed=1, epoch=0, group=group, image=image, step=step)
            expected = mean[row] + sigma[row].float() * torch.from_numpy(z)
            assert torch.allclose(action[row], expected, atol=1e-6)
        with torch.no_grad():
            again = policy.log_prob(state, step, action, embeds)
        assert torch.allclose(again, trajectories.log_prob[:, step], atol=1e-9)


def test_a_group_shares_the_initial_noise_unless_told_otherwise(folder: Path, policy: Policy) -> None:
    start = tiny.sample(policy, 2).latents[:, 0]
    assert torch.equal(start[0], start[1])
    assert not torch.equal(start[0], start[2])
    independent = tiny.sample(tiny.load(folder, shared_initial_noise=False), 2).latents[:, 0]
    assert not torch.equal(independent[0], independent[1])


def test_noise_does_not_depend_on_the_batch_and_values_only_within_rounding(policy: Policy) -> None:
    one, two, all_ = (tiny.sample(policy, 4, batch=size) for size in (1, 2, 4))
    for other in (two, all_):
        assert other.ids == one.ids
        assert torch.equal(one.latents[:, 0], other.latents[:, 0])
        assert torch.allclose(one.latents, other.latents, atol=1e-3)
        assert torch.allclose(one.log_prob, other.log_prob, atol=TOLERANCES[torch.float32])


def test_the_same_batches_are_bit_identical(folder: Path, policy: Policy) -> None:
    first, again = tiny.sample(policy, 4), tiny.sample(tiny.load(folder), 4)
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.log_prob, again.log_prob)


def test_an_epoch_has_its_own_noise_and_the_evaluation_one_for_all(policy: Policy) -> None:
    zero, one = tiny.sample(policy, 1, epoch=0).latents[:, 0], tiny.sample(policy, 1, epoch=1).latents[:, 0]
    assert not torch.equal(zero, one)
    evaluation = tiny.sample(policy, 1, epoch=None).latents[:, 0]
    assert not torch.equal(evaluation, zero)
    assert torch.equal(evaluation, tiny.sample(policy, 1, epoch=None).latents[:, 0])


def test_without_noise_it_is_diffusers_ddim(folder: Path) -> None:
    """η = 0: the whole trajectory against DDIMScheduler.step over the same network."""
    policy = tiny.load(folder, eta=0.0, num_inference_steps=10)
    trajectories = tiny.sample(policy, 1)
    assert not bool(trajectories.trainable.any())
    assert bool(trajectories.log_prob.isnan().all())
    known = {key: value for key, value in tiny.SD15_SCHEDULER.items() if not key.startswith(("_", "skip"))}
    scheduler = DDIMScheduler(**known)
    scheduler.set_timesteps(10)
    embeds = tiny.embeddings(policy)
    both = torch.stack([embeds[""], embeds[tiny.PROMPTS[0]]])
    x = trajectories.latents[:1, 0]
    for t in scheduler.timesteps:
        with torch.no_grad():
            uncond, cond = policy.unet(x.repeat(2, 1, 1, 1), t, encoder_hidden_states=both).sample.chunk(2)
        x = scheduler.step(uncond + 3.0 * (cond - uncond), int(t), x, eta=0.0).prev_sample
    assert torch.allclose(trajectories.latents[:1, -1], x, atol=1e-4)


def test_a_step_without_sigma_is_deterministic_and_marked(folder: Path, tmp_path: Path) -> None:
    offset_zero = tiny.build(tmp_path / "model", {**tiny.SD15_SCHEDULER, "steps_offset": 0})
    trajectories = tiny.sample(tiny.load(offset_zero), 1)
    assert trajectories.trainable.tolist() == [True, True, True, False]
    assert trajectories.log_prob.isnan().tolist() == [[False, False, False, True]] * 2
    assert bool(trajectories.latents.isfinite().all())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_actions_are_cast_before_their_log_prob(folder: Path, dtype: str) -> None:
    policy = tiny.load(folder, latent_dtype=dtype)
    trajectories = tiny.sample(policy, 1)
    assert trajectories.latents.dtype == getattr(torch, dtype)
    embeds = torch.stack([tiny.embeddings(policy)[prompt] for prompt in trajectories.prompts])
    with torch.no_grad():
        again = policy.log_prob(trajectories.latents[:, 3], 3, trajectories.latents[:, 4], embeds)
    assert torch.allclose(again, trajectories.log_prob[:, 3], atol=1e-9), "the stored action is the judged one"


def test_non_finite_latents_stop_with_the_trajectories_names(policy: Policy) -> None:
    embeds = tiny.embeddings(policy)
    embeds[tiny.PROMPTS[1]] = torch.full_like(embeds[tiny.PROMPTS[1]], torch.nan)
    with pytest.raises(SamplingError, match=r"2 of 4 trajectories: g000001-0, g000001-1.*d3po"):
        next(rollout(policy, [tiny.groups(2)], policy.sampling, run_seed=1, epoch=0, embeds=embeds))


def test_another_way_of_sampling_or_a_missing_prompt_is_refused(policy: Policy) -> None:
    embeds = tiny.embeddings(policy)
    with pytest.raises(ValueError, match=r"guidance_scale is 7.0, but the policy was loaded with 3.0"):
        next(rollout(policy, [], tiny.sampling(guidance_scale=7.0), run_seed=1, epoch=0, embeds=embeds))
    del embeds[tiny.PROMPTS[1]]
    with pytest.raises(ValueError, match="a blue circle"):
        next(rollout(policy, [tiny.groups(2)], policy.sampling, run_seed=1, epoch=0, embeds=embeds))


def test_images_of_one_start_are_evaluated_once_at_the_first_step(folder: Path) -> None:
    policy, rows = tiny.load(folder), []
    inner = policy.unet.forward

    def counted(sample, *arguments, **options):
        rows.append(len(sample))
        return inner(sample, *arguments, **options)

    policy.unet.forward = counted
    shared = tiny.sample(policy, 3, batch=3)
    assert rows == [2 * 3, *[2 * 3 * 2] * 3], "guidance takes two rows an image"
    rows.clear()
    apart = policy.sampling.model_copy(update={"shared_initial_noise": False})
    list(rollout(policy, [tiny.groups(3)], apart, run_seed=1, epoch=0, embeds=tiny.embeddings(policy)))
    assert rows == [2 * 3 * 2] * 4
    del policy.unet.forward
    embeds = torch.stack([tiny.embeddings(policy)[prompt] for prompt in shared.prompts])
    again = policy.log_prob(shared.latents[:, 0], 0, shared.latents[:, 1], embeds).detach()
    assert torch.allclose(again.cpu(), shared.log_prob[:, 0], atol=TOLERANCES[torch.float32])


def test_slices_of_the_decoder_change_no_picture(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    from d3po_core import pipeline_parts

    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    together = policy.decode(latents)
    monkeypatch.setattr(pipeline_parts, "DECODE_LATENTS", 2 * 64)
    slices = policy.decode(latents)
    monkeypatch.setattr(pipeline_parts, "DECODE_LATENTS", 1)
    assert slices.shape == (5, 16, 16, 3)
    assert np.abs(slices.astype(int) - together).max() <= 1
    assert np.abs(policy.decode(latents).astype(int) - together).max() <= 1
