"""torch.compile on the repeated blocks: the same numbers, and a bounded number of graphs."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel

from d3po_core import adapters
from d3po_core.compiling import RECOMPILATIONS, compile_blocks
from d3po_core.config import ModelConfig
from d3po_core.policy import Policy


def test_a_policy_is_compiled_block_by_block_when_asked(folder: Path) -> None:
    def compiled(kind: str) -> set[str]:
        model = ModelConfig(path=str(folder), compile=kind, device="cpu")
        unet = Policy.load(model, tiny.sampling(), tiny.LORA).unet
        return {type(module).__name__ for module in unet.modules() if module._compiled_call_impl is not None}

    assert compiled("none") == set()
    assert compiled("blocks") == {"ResnetBlock2D", "BasicTransformerBlock"}


def small_unet() -> UNet2DConditionModel:
    """One level, with an adapter that is not zero."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
    ).eval()
    adapters.add_adapter(unet.requires_grad_(False), tiny.LORA, 7)
    return unet


@pytest.mark.slow
def test_compiled_blocks_give_the_same_numbers_and_gradients() -> None:
    """Batches of several sizes share their graphs."""
    plain = small_unet().double()
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    torch._dynamo.utils.counters.clear()
    for rows in (2, 5, 7):
        latents, embeds = torch.randn(rows, 4, 8, 8).double(), torch.randn(rows, 16, 16).double()
        found = []
        for unet in (plain, compiled):
            output = unet(latents, torch.arange(rows), encoder_hidden_states=embeds).sample
            gradients = torch.autograd.grad(output.square().sum(), list(adapters.parameters(unet).values()))
            found.append((output.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
        (output, gradient), (compiled_output, compiled_gradient) = found
        assert torch.allclose(compiled_output, output, rtol=1e-6, atol=1e-9)
        assert float((compiled_gradient - gradient).norm()) <= 1e-6 * float(gradient.norm())
    blocks = 6
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2 * blocks < RECOMPILATIONS


BITS = """
import hashlib, sys
sys.path[:0] = sys.argv[1:3]
import torch
from d3po_core import adapters
from d3po_core.compiling import compile_blocks
from test_compiling import small_unet

torch.set_num_threads(1)
unet = small_unet()
trained = list(adapters.parameters(unet).values())
with torch.no_grad():
    for parameter in trained:
        parameter.copy_(torch.randn(parameter.shape) * 0.1)
compile_blocks(unet)
for rows in map(int, sys.argv[3:]):
    torch.manual_seed(rows)
    latents, embeds = torch.randn(rows, 4, 8, 8), torch.randn(rows, 16, 16)
    output = unet(latents, torch.arange(rows), encoder_hidden_states=embeds).sample
    found = [output.detach(), *torch.autograd.grad(output.square().sum(), trained)]
    print(rows, hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in found)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_a_process_that_begins_in_the_middle_computes_the_same_bits(tmp_path: Path) -> None:
    """As a training does that was killed: without a common first batch these gradients differ.

    The second finds the first's compiled code, where it compiles the same.
    """
    through, resumed = (_bits(sizes, tmp_path) for sizes in (["2", "5"], ["5"]))
    assert len(through) == 2
    assert through[1:] == resumed


def _bits(sizes: list[str], cache: Path) -> list[str]:
    here = Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-c", BITS, str(here), str(here.parents[1]), *sizes],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE, text=True, timeout=1800, check=True,
    ).stdout.splitlines()  # fmt: skip
