"""The pipeline as a policy: guidance, dtypes, prompts, images, the reference."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from d3po_core import ddim
from d3po_core.errors import ModelError
from d3po_core.policy import Policy


@pytest.fixture
def inputs(policy: Policy) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 4, 8, 8), torch.tensor([0, 2, 3]), policy.encode(tiny.PROMPTS[:3])


def with_adapter(policy: Policy) -> Policy:
    """Give the adapter an effect: a fresh one has B = 0."""
    torch.manual_seed(1)
    policy.load_lora_state({name: 0.3 * torch.randn_like(value) for name, value in policy.lora_state().items()})
    return policy


def test_mean_is_ddims_over_the_guided_prediction(policy: Policy, inputs: tuple[torch.Tensor, ...]) -> None:
    x, steps, embeds = inputs
    mean, sigma = policy.transition(x, steps, embeds)
    t = policy.schedule.timesteps[steps]
    with torch.no_grad():
        cond = policy.unet(x, t, encoder_hidden_states=embeds).sample
        uncond = policy.unet(x, t, encoder_hidden_states=policy.encode([""]).expand(3, -1, -1)).sample
    expected = ddim.mean(policy.schedule, x, uncond + 3.0 * (cond - uncond), steps)
    assert mean.dtype == torch.float32
    assert torch.allclose(mean, expected, atol=1e-5)
    assert torch.equal(sigma, policy.schedule.sigma[steps])


@pytest.mark.parametrize(("weight", "rows"), [(3.0, 6), (1.0, 3), (0.0, 6)])
def test_one_network_call_with_two_rows_an_image_or_one_without_guidance(
    folder: Path, inputs: tuple[torch.Tensor, ...], weight: float, rows: int
) -> None:
    policy = tiny.load(folder, guidance_scale=weight)
    calls = []
    policy.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    policy.transition(*inputs)
    assert calls == [rows]


def test_one_step_for_all_rows(policy: Policy, inputs: tuple[torch.Tensor, ...]) -> None:
    x, _, embeds = inputs
    assert torch.equal(policy.transition(x, 2, embeds)[0], policy.transition(x, torch.tensor([2, 2, 2]), embeds)[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_below_float32_the_mean_and_the_adapter_stay_float32(folder: Path, dtype: str) -> None:
    policy = tiny.load(folder, dtype=dtype)
    assert policy.unet.conv_in.weight.dtype == getattr(torch, dtype)
    assert {value.dtype for value in policy.lora_parameters().values()} == {torch.float32}
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    embeds = policy.encode(["a red square"])
    with torch.no_grad():
        half, _ = policy.transition(x, 1, embeds)
        full, _ = tiny.load(folder).transition(x, 1, embeds)
    assert half.dtype == torch.float32
    assert 0 < float((half - full).abs().max()) < 0.1


def test_network_is_in_eval_mode_and_only_the_adapter_learns(policy: Policy) -> None:
    assert not any(module.training for module in policy.unet.modules())
    learning = {name for name, parameter in policy.unet.named_parameters() if parameter.requires_grad}
    assert len(learning) == len(policy.lora_parameters()) > 0
    assert all("lora_" in name for name in learning)


def test_reference_is_the_pretrained_model_and_the_adapter_comes_back(
    folder: Path, policy: Policy, inputs: tuple[torch.Tensor, ...]
) -> None:
    bare = tiny.load(folder, lora=None)
    own = with_adapter(policy).transition(*inputs)[0]
    with policy.reference() as reference:
        off = reference.transition(*inputs)[0]
    assert torch.equal(off, bare.transition(*inputs)[0])
    assert not torch.allclose(own, off, atol=1e-3)
    assert torch.equal(policy.transition(*inputs)[0], own)
    with pytest.raises(RuntimeError, match="inside"), policy.reference():
        raise RuntimeError("inside")
    assert torch.equal(policy.transition(*inputs)[0], own)


def test_a_fresh_adapter_changes_nothing(folder: Path, policy: Policy, inputs: tuple[torch.Tensor, ...]) -> None:
    assert torch.equal(policy.transition(*inputs)[0], tiny.load(folder, lora=None).transition(*inputs)[0])


def test_prompts_are_encoded_as_the_pipeline_does_and_alone(folder: Path, policy: Policy) -> None:
    together, alone = policy.encode(tiny.PROMPTS), policy.encode(tiny.PROMPTS[2:3])
    assert together.shape == (4, 16, 16)
    assert together.dtype == torch.float32
    assert torch.equal(together[2:3], alone)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs, null = pipeline.encode_prompt(tiny.PROMPTS[2], torch.device("cpu"), 1, True)
    assert torch.allclose(alone, theirs, atol=1e-6)
    assert torch.allclose(policy.null_embeds, null, atol=1e-6)


def test_long_prompts_are_refused_by_name_or_truncated(folder: Path, policy: Policy) -> None:
    policy.check_prompts([*tiny.PROMPTS, ""])
    with pytest.raises(ModelError, match=r"1 prompts are longer than the 16 tokens.*'a very long.*truncate"):
        policy.encode(["a very long prompt indeed"])
    truncating = tiny.load(folder, long_prompts="truncate")
    assert truncating.encode(["a very long prompt indeed"]).shape == (1, 16, 16)


def test_images_are_the_vaes_and_independent_of_their_neighbours(folder: Path, policy: Policy) -> None:
    torch.manual_seed(0)
    latents = torch.randn(3, 4, 8, 8)
    images = policy.decode(latents)
    assert images.shape == (3, 16, 16, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(policy.decode(latents[1:2])[0], images[1])
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    with torch.no_grad():
        pixels = vae.decode(latents / vae.config.scaling_factor).sample
    expected = ((pixels / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(images - expected).max() <= 0.51


def test_text_encoder_and_vae_are_loaded_only_when_used(folder: Path) -> None:
    policy = tiny.load(folder)
    policy.use_null_embeds(torch.zeros(16, 16))
    policy.transition(torch.zeros(1, 4, 8, 8), 0, torch.zeros(1, 16, 16))
    assert not {"text_encoder", "vae", "tokenizer"} & vars(policy.parts).keys()


def test_dimensions(policy: Policy) -> None:
    assert policy.latent_shape == (4, 8, 8)
    assert policy.dimensions == 256
