"""The LoRA adapter of a UNet: made by peft, seeded by address, always float32, exported so that alpha survives."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig as PeftLoraConfig
from peft.tuners.lora.layer import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from d3po_core import noise
from d3po_core.config import LoraConfig
from d3po_core.errors import ModelError

__all__ = ["add_adapter", "export", "export_merged", "load", "merged", "parameters", "read_exported"]

_ADAPTER = "default"

Unet = Any
"""A diffusers UNet2DConditionModel: its lazy imports hide the methods from type checkers."""


def add_adapter(unet: Unet, config: LoraConfig, seed: int) -> None:
    """Add a fresh adapter: B zero, A ~ N(0, 1/rank²) from the seed by the parameter's name; the rest stays frozen.

    Raises:
        ModelError: where no module of the UNet has one of the target names.
    """
    wanted = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft says int and takes any number
        init_lora_weights="gaussian",
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
    )
    try:
        unet.add_adapter(wanted, adapter_name=_ADAPTER)
    except ValueError as problem:
        raise ModelError(
            f"lora.target_modules {list(config.target_modules)} do not fit this UNet: {problem}"
        ) from problem
    for name, parameter in parameters(unet).items():
        # peft gives an adapter its base layer's dtype; half-precision weights could not take updates of 1e-5.
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            values = noise.normal(parameter.shape, "lora", run_seed=seed, group=name) / config.rank
            parameter.data.copy_(torch.from_numpy(values))
        else:
            parameter.data.zero_()
        parameter.requires_grad_(True)
    unet.eval()


def parameters(unet: Unet) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by name (without the adapter's own name), sorted."""
    found = {
        name.replace(f".{_ADAPTER}.", "."): parameter
        for name, parameter in unet.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    return dict(sorted(found.items()))


def load(unet: Unet, state: dict[str, torch.Tensor]) -> None:
    """Copy tensors into the adapter, all of them or none.

    Raises:
        ValueError: naming what is missing, unknown or of another shape.
    """
    own = parameters(unet)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"The adapter's tensors do not fit this model: {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}. Were lora.target_modules or the model changed?"
        )
    for name, parameter in own.items():
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"The adapter's tensor {name} has shape {tuple(state[name].shape)}, expected {tuple(parameter.shape)}. "
                "Was lora.rank changed?"
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


@contextlib.contextmanager
@torch.no_grad()
def merged(unet: Unet) -> Iterator[None]:
    """The adapter added to the weights that it changes, W + (α/r) B A, and no longer computed beside them.

    A sixth of a step of sampling is saved. Afterwards the pretrained weights are the same tensors as before: they are
    put back, not computed back.
    """
    layers: list[Any] = [layer for layer in unet.modules() if isinstance(layer, LoraLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    pretrained = [weight.data for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        weight.data = weight.data + layer.get_delta_weight(_ADAPTER)
    unet.disable_adapters()
    try:
        yield
    finally:
        for weight, values in zip(weights, pretrained, strict=True):
            weight.data = values
        unet.enable_adapters()


def export(unet: Unet, folder: Path) -> None:
    """``pytorch_lora_weights.safetensors`` in diffusers' layout, with the metadata that holds rank and alpha."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet, adapter_name=_ADAPTER))
    metadata = unet.peft_config[_ADAPTER].to_dict()
    # Without metadata diffusers loses alpha. Sets have no order: sorted, the same adapter is the same file.
    metadata = {key: sorted(value) if isinstance(value, set) else value for key, value in metadata.items()}
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers={name: value.detach().cpu().contiguous() for name, value in layers.items()},
        unet_lora_adapter_metadata=metadata,
    )
    _sort_metadata(folder / "pytorch_lora_weights.safetensors")


def export_merged(unet: Unet, folder: Path) -> None:
    """The whole UNet with the adapter inside its weights, as plain ``UNet2DConditionModel.from_pretrained(folder)``."""
    with merged(unet):
        weights = {
            name.replace(".base_layer.", "."): value.detach().cpu()
            for name, value in unet.state_dict().items()
            if ".lora_A." not in name and ".lora_B." not in name
        }
    plain = UNet2DConditionModel.from_config(unet.config)
    plain.load_state_dict(weights)
    plain.save_pretrained(folder)


def read_exported(file: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """An exported adapter as ``load`` takes it, with the rank, alpha and modules that its metadata names.

    Raises:
        ModelError: where the file is no safetensors, or says nothing of rank and alpha (not written by ``export``).
    """
    try:
        with safe_open(file, "pt") as stored:
            metadata = json.loads((stored.metadata() or {}).get("lora_adapter_metadata", "{}"))
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # it is no dict
    except (OSError, SafetensorError, ValueError) as problem:
        raise ModelError(f"{file} cannot be read as an adapter: {problem}") from problem
    wanted = {field: metadata.get(f"unet.{field}") for field in ("r", "lora_alpha", "target_modules")}
    if not all(wanted.values()) or not isinstance(wanted["target_modules"], list):
        raise ModelError(
            f"{file} does not say its rank, alpha and modules (lora_adapter_metadata): expected an adapter that d3po "
            "export wrote"
        )
    config = LoraConfig(rank=wanted["r"], alpha=wanted["lora_alpha"], target_modules=tuple(wanted["target_modules"]))
    names = {
        name: name.removeprefix("unet.").replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")
        for name in tensors
    }
    return config, {own: tensors[name] for name, own in names.items()}


def _sort_metadata(file: Path) -> None:
    """Rewrite a safetensors file's header with sorted metadata: safetensors orders it by a hash that is new each time."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    spelled = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    spelled += b" " * (-len(spelled) % 8)  # tensors begin at a multiple of eight
    file.write_bytes(len(spelled).to_bytes(8, "little") + spelled + content[8 + size :])
