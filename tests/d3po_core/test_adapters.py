"""The LoRA: seeded, float32, and exported so that plain diffusers gives the same network."""

from pathlib import Path

import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline

from d3po_core.config import LoraConfig
from d3po_core.errors import ModelError
from d3po_core.policy import Policy


def test_a_fresh_adapter_is_gaussian_by_address_and_b_is_zero(folder: Path, policy: Policy) -> None:
    again = tiny.load(folder).lora_state()
    other = Policy.load(tiny.ModelConfig(path=str(folder), device="cpu"), tiny.sampling(), tiny.LORA, lora_seed=8)
    for name, value in policy.lora_state().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, again[name])
        if "lora_B" in name:
            assert not bool(value.any())
        else:
            assert not torch.equal(value, other.lora_state()[name])
    drawn = torch.cat([value.flatten() for name, value in policy.lora_state().items() if "lora_A" in name])
    assert float(drawn.std()) == pytest.approx(1 / tiny.LORA.rank, rel=0.1)


def test_state_round_trip_and_mistakes_change_nothing(policy: Policy) -> None:
    before = policy.lora_state()
    name = next(iter(before))
    with pytest.raises(ValueError, match="1 missing"):
        policy.load_lora_state({key: value + 1 for key, value in before.items() if key != name})
    with pytest.raises(ValueError, match="1 unknown"):
        policy.load_lora_state({**before, "other": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"lora\.rank"):
        policy.load_lora_state({**{key: value + 1 for key, value in before.items()}, name: torch.zeros(7, 7)})
    assert all(torch.equal(value, before[key]) for key, value in policy.lora_state().items())
    changed = {key: value + 1 for key, value in before.items()}
    policy.load_lora_state(changed)
    assert all(torch.equal(value, changed[key]) for key, value in policy.lora_state().items())


def test_unknown_target_modules_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="to_nowhere"):
        tiny.load(folder, LoraConfig(target_modules=("to_nowhere",)))


@pytest.mark.parametrize("alpha", [1.0, 8.0])
@pytest.mark.parametrize("convolutions", [(), ("conv1", "conv2")])
def test_plain_diffusers_loads_the_export_and_gives_the_same_network(
    folder: Path, tmp_path: Path, alpha: float, convolutions: tuple[str, ...]
) -> None:
    """METHOD 5.8: alpha differs from the rank, so a lost alpha would scale the adapter wrongly."""
    targets = (*LoraConfig().target_modules, *convolutions)
    policy = tiny.load(folder, LoraConfig(rank=2, alpha=alpha, target_modules=targets))
    assert any(name.endswith("conv1.lora_B.weight") for name in policy.lora_state()) == bool(convolutions)
    torch.manual_seed(1)
    policy.load_lora_state({name: 0.3 * torch.randn_like(value) for name, value in policy.lora_state().items()})
    policy.export_adapter(tmp_path / "adapter")
    assert [file.name for file in (tmp_path / "adapter").iterdir()] == ["pytorch_lora_weights.safetensors"]
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    x, t, embeds = torch.randn(2, 4, 8, 8), torch.tensor([501, 1]), policy.encode(tiny.PROMPTS[:2])
    with torch.no_grad():
        bare = pipeline.unet(x, t, encoder_hidden_states=embeds).sample
        pipeline.load_lora_weights(tmp_path / "adapter")
        loaded = pipeline.unet(x, t, encoder_hidden_states=embeds).sample
        own = policy.unet(x, t, encoder_hidden_states=embeds).sample
    assert torch.allclose(loaded, own, rtol=1e-4, atol=1e-5), "as float32 sums in another memory format can be"
    assert not torch.allclose(bare, own, atol=1e-2)


def test_the_same_adapter_is_the_same_file(policy: Policy, tmp_path: Path) -> None:
    """safetensors writes its metadata in a new order each time; ten exports would hardly agree by luck."""
    contents = set()
    for number in range(10):
        policy.export_adapter(tmp_path / str(number))
        contents.add((tmp_path / str(number) / "pytorch_lora_weights.safetensors").read_bytes())
    assert len(contents) == 1


def test_without_a_lora_there_is_nothing_to_export(folder: Path, tmp_path: Path) -> None:
    bare = tiny.load(folder, lora=None)
    assert bare.lora_state() == {}
    with pytest.raises(ValueError, match="no adapter"):
        bare.export_adapter(tmp_path)


def test_merged_for_sampling_is_the_same_policy_and_leaves_the_pretrained_weights_alone(folder: Path) -> None:
    wide = tiny.LORA.model_copy(update={"target_modules": ("to_q", "to_out.0", "conv1")})
    policy = tiny.load(folder, wide)
    generator = torch.Generator().manual_seed(3)
    policy.load_lora_state(
        {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in policy.lora_state().items()}
    )
    pretrained = {name: value.clone() for name, value in policy.unet.state_dict().items()}
    state, embeds = torch.randn(3, 4, 8, 8, generator=generator), policy.encode(tiny.PROMPTS[:3])
    with torch.no_grad():
        beside, _ = policy.transition(state, 0, embeds)
        with policy.reference():
            without, _ = policy.transition(state, 0, embeds)
        with policy.merged():
            inside, _ = policy.transition(state, 0, embeds)
        with pytest.raises(ValueError, match="is raised"), policy.merged():
            raise ValueError("is raised")
        after, _ = policy.transition(state, 0, embeds)
    assert torch.allclose(inside, beside, atol=1e-4)
    assert not torch.allclose(inside, without, atol=1e-2)
    assert torch.equal(after, beside)
    assert all(torch.equal(value, pretrained[name]) for name, value in policy.unet.state_dict().items())


def test_in_half_precision_the_adapter_stays_beside_the_weights(folder: Path) -> None:
    policy = tiny.load(folder, dtype="bfloat16")
    weights = [weight.clone() for weight in policy.unet.parameters()]
    with policy.merged():
        assert all(torch.equal(a, b) for a, b in zip(weights, policy.unet.parameters(), strict=True))
