"""Noise for denoising objectives: levels from every part, the same whoever asks, added as diffusers adds it."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny
import torch

from d3po_core import ddim
from d3po_core.draws import draw_noise
from d3po_core.policy import Policy


def test_each_transition_has_a_level_from_its_part_of_all_levels(policy: Policy) -> None:
    drawn = [draw_noise(policy, f"g{n:06d}", (0, 1, 2, 3), 0, run_seed=1, epoch=0).timesteps for n in range(400)]
    levels = torch.stack(drawn)
    for step, (low, high) in enumerate([(750, 1000), (500, 750), (250, 500), (0, 250)]):
        assert low <= int(levels[:, step].min()) < low + 10
        assert high - 10 <= int(levels[:, step].max()) < high


def test_a_draw_is_its_address_whatever_is_drawn_beside_it(policy: Policy) -> None:
    whole = draw_noise(policy, "g000001", (0, 1, 2, 3), 0, run_seed=1, epoch=0)
    part = draw_noise(policy, "g000001", (2,), 0, run_seed=1, epoch=0)
    assert torch.equal(part.noise[0], whole.noise[2])
    assert int(part.timesteps[0]) == int(whole.timesteps[2])
    others = [
        draw_noise(policy, "g000002", (2,), 0, run_seed=1, epoch=0),
        draw_noise(policy, "g000001", (2,), 1, run_seed=1, epoch=0),
        draw_noise(policy, "g000001", (2,), 0, run_seed=1, epoch=1),
    ]
    assert not any(torch.equal(other.noise, part.noise) for other in others)
    assert abs(float(whole.noise.std()) - 1) < 0.1


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_is_added_and_read_as_by_diffusers(prediction_type: str) -> None:
    config = {**tiny.SD15_SCHEDULER, "prediction_type": prediction_type}
    schedule = ddim.Schedule.from_config(config, 20, 1.0)
    theirs = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )
    clean, noise, timesteps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 417, 999])
    noisy = ddim.add_noise(schedule, clean, noise, timesteps)
    assert torch.allclose(noisy, theirs.add_noise(clean, noise, timesteps), atol=1e-5)
    output = noise if prediction_type == "epsilon" else theirs.get_velocity(clean, noise, timesteps)
    assert torch.allclose(ddim.noise_of(schedule, noisy, output, timesteps), noise, atol=1e-4)


def test_the_error_of_images_without_a_trajectory_is_the_networks_without_guidance(
    folder: Path, policy: Policy
) -> None:
    generator = np.random.default_rng(0)
    clean = torch.from_numpy(generator.standard_normal((2, 4, 8, 8), dtype=np.float32))
    noise = torch.from_numpy(generator.standard_normal((2, 4, 8, 8), dtype=np.float32))
    timesteps, embeds = torch.tensor([10, 900]), policy.encode(tiny.PROMPTS[:2])
    with torch.no_grad():
        found = policy.predicted_noise(clean, timesteps, noise, embeds)
        noisy = ddim.add_noise(policy.schedule, clean, noise, timesteps)
        expected = policy.unet(noisy, timesteps, encoder_hidden_states=embeds).sample
    assert torch.allclose(found, expected, atol=1e-6)
