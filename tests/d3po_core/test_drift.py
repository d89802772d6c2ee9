"""Distances and KL against closed forms."""

import numpy as np
import pytest
import tiny
import torch

from d3po_core.drift import kl_to_pretrained, pairwise_distance, pixel_distance
from d3po_core.policy import Policy
from d3po_core.records import Trajectories


def flat(*levels: int) -> np.ndarray:
    return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


def test_black_and_white_are_one_apart():
    assert pixel_distance(flat(0, 255, 51), flat(255, 255, 102)).tolist() == pytest.approx([1.0, 0.0, 0.2])


def test_images_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="equal shapes"):
        pixel_distance(flat(0), flat(0, 0))


def test_a_prompts_diversity_is_the_mean_over_its_pairs():
    assert pairwise_distance(flat(0, 51, 102)) == pytest.approx((0.2 + 0.4 + 0.2) / 3)
    assert pairwise_distance(flat(0)) is None


@pytest.fixture
def moved(policy: Policy) -> Policy:
    """A policy whose adapter does something."""
    torch.manual_seed(3)
    policy.load_lora_state({name: torch.randn_like(value) * 0.3 for name, value in policy.lora_state().items()})
    return policy


def prompts_of(trajectories: Trajectories, embeds: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([embeds[prompt] for prompt in trajectories.prompts])


def test_the_pretrained_model_is_no_distance_from_itself(policy: Policy, sampled):
    trajectories, embeds = sampled
    assert kl_to_pretrained(policy, trajectories, prompts_of(trajectories, embeds)).tolist() == [0.0] * 12


def test_the_kl_is_the_log_ratio_at_the_policys_mean(moved: Policy, sampled):
    """For equal σ, log π(μ) − log π_pre(μ) = ‖μ − μ_pre‖² / (2σ²)."""
    trajectories, embeds = sampled
    prompts = prompts_of(trajectories, embeds)
    ratios = []
    for step in trajectories.trainable.nonzero().flatten().tolist():
        states = trajectories.latents[:, step]
        with torch.no_grad():
            mean, _ = moved.transition(states, step, prompts)
            own = moved.log_prob(states, step, mean, prompts)
            with moved.reference():
                ratios.append(own - moved.log_prob(states, step, mean, prompts))
    expected = torch.stack(ratios).mean(dim=0).numpy()
    found = kl_to_pretrained(moved, trajectories, prompts)
    assert found.min() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_without_noise_there_is_no_kl(folder):
    policy = tiny.load(folder, eta=0.0)
    trajectories = tiny.sample(policy, 1)
    with pytest.raises(ValueError, match="no KL"):
        kl_to_pretrained(policy, trajectories, prompts_of(trajectories, tiny.embeddings(policy)))
