"""torch.compile on the UNet's repeated blocks: one small graph for many places, not one large graph for all.

What inductor makes of a graph follows from the first batch that it meets, so a process that resumes in the middle would
compute with other rounding than one that went through. Hence each kind of call meets the same small batch first.
"""

from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from peft.tuners.tuners_utils import BaseTunerLayer

__all__ = ["compile_blocks"]

RECOMPILATIONS = 64
"""Per kind of block: SD 1.5's differ in fewer shapes. Beyond it a block runs uncompiled, with torch's warning."""

FIRST_ROWS, FROM = (3, 17), 16
"""Of a first batch below and from 16 rows on, where torch chooses another convolution. Unlike any other dimension of a
UNet: one that equals the batch's would be taken for the same."""


def compile_blocks(unet: Any) -> None:
    """Compile each residual and transformer block when it is first run, for any batch size, the same in every process."""
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    torch._inductor.config.deterministic = True  # on a GPU: nothing that moves a sum is chosen by timing
    for module in unet.modules():
        if isinstance(module, (BasicTransformerBlock, ResnetBlock2D)):
            module.compile(dynamic=True)
    unet.register_forward_pre_hook(_FirstBatch(), with_kwargs=True)


class _FirstBatch:
    """Before the first call of each kind (with or without gradient, adapter on, off or merged, few rows or many): a batch
    that is the same in every process. One row has a graph of its own, which no other batch uses."""

    def __init__(self) -> None:
        self._met: set[tuple[bool, ...]] = set()

    def __call__(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = args[0].shape[0]
        kind = (rows >= FROM, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *_adapter_state(unet))
        if rows == 1 or kind in self._met:
            return
        self._met.add(kind)
        try:
            self._run(unet, args, kwargs, rows)
        except Exception:
            self._met.discard(kind)
            raise

    @staticmethod
    def _run(unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rows: int) -> None:
        first = FIRST_ROWS[rows >= FROM]
        output = unet(
            *(_first_rows(value, rows, first) for value in args),
            **{name: _first_rows(value, rows, first) for name, value in kwargs.items()},
        )[0]
        trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        if output.requires_grad and trained:  # the backward graphs are made by the first backward
            torch.autograd.grad(output.float().sum(), trained, allow_unused=True)


def _first_rows(value: Any, rows: int, first: int) -> Any:
    """Copies of the first row in the memory format of ``value``, where it has a row for each of the batch."""
    if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[0] != rows:
        return value
    repeated = value.detach()[:1].repeat(first, *(1,) * (value.ndim - 1))
    channels_last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return repeated.contiguous(memory_format=torch.channels_last) if channels_last else repeated


def _adapter_state(unet: Any) -> tuple[bool, ...]:
    layer = next((module for module in unet.modules() if isinstance(module, BaseTunerLayer)), None)
    return () if layer is None else (layer.disable_adapters, layer.merged)
