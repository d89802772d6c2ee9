"""A diffusers pipeline of Stable Diffusion 1.x/2.x layout as a Gaussian policy (METHOD 1).

The network is in eval() mode throughout and its parameters, but for the adapter's, never change; the reference is the
same network with its adapter off, never a second copy. Text encoder and VAE are loaded when first used and run in
float32, so training needs neither. This module samples nothing and trains nothing: see rollout.py and training.py.

Letters: B rows, N images or prompts, C × H × W latent, L prompt tokens, D text width, h × w pixels.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from d3po_core import adapters, ddim
from d3po_core.compiling import compile_blocks
from d3po_core.config import LoraConfig, ModelConfig, SamplingConfig
from d3po_core.devices import keep_freed_memory, make_deterministic, pick_device, torch_dtype, use_threads
from d3po_core.model_files import copy_pipeline, locate, model_digest, read_json
from d3po_core.pipeline_parts import PipelineParts, load_part

__all__ = ["Policy", "model_digest"]


class Policy:
    """π(x_{t-1} | x_t, prompt): the guided mean and σ of one denoising step, with an adapter that can be off."""

    def __init__(
        self,
        *,
        folder: Path,
        unet: adapters.Unet,
        schedule: ddim.Schedule,
        sampling: SamplingConfig,
        dtype: torch.dtype,
        device: torch.device,
        lora: LoraConfig | None,
        threads: int | None = None,
    ) -> None:
        self.folder, self.unet, self.schedule, self.sampling = folder, unet, schedule, sampling
        self.dtype, self.device, self.lora, self.threads = dtype, device, lora, threads
        self.parts = PipelineParts(folder, device)
        self._null_embeds: torch.Tensor | None = None
        self._lora_parameters = adapters.parameters(unet)

    @classmethod
    def load(
        cls,
        model: ModelConfig,
        sampling: SamplingConfig,
        lora: LoraConfig | None = None,
        *,
        threads: int | None = None,
        lora_seed: int = 0,
    ) -> "Policy":
        """Read the UNet and the scheduler's own file; check both before any weight is read.

        Args:
            model: where the pipeline is, its dtype and device.
            sampling: T, η and guidance of this policy.
            lora: the adapter to add, freshly made (A gaussian from ``lora_seed`` by address, B zero); None for the
                bare model.
            threads: torch threads, fixed wherever this policy starts to compute; None leaves them as they are.
            lora_seed: the run's seed.

        Raises:
            ModelError: naming the part or the setting that is missing or refused.
        """
        use_threads(threads)
        make_deterministic()
        keep_freed_memory()
        folder = locate(model.path, model.revision)
        schedule = ddim.Schedule.from_config(
            read_json(folder / "scheduler" / "scheduler_config.json"), sampling.num_inference_steps, sampling.eta
        )
        dtype, device = torch_dtype(model.dtype), pick_device(model.device)
        unet = load_part(UNet2DConditionModel, folder, "unet", dtype, device)
        unet.to(memory_format=torch.channels_last)  # training is a tenth faster, on CPUs too (benchmarks/README.md)
        if lora is not None:
            adapters.add_adapter(unet, lora, lora_seed)
        if model.compile == "blocks":
            compile_blocks(unet)
        return cls(
            folder=folder,
            unet=unet,
            schedule=schedule,
            sampling=sampling,
            dtype=dtype,
            device=device,
            lora=lora,
            threads=threads,
        )

    # ---- the process -------------------------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one latent."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @property
    def image_size(self) -> int:
        """Pixels along the width of a decoded image; from the VAE's file, whose weights need not be loaded."""
        levels = len(read_json(self.folder / "vae" / "config.json")["block_out_channels"])
        return self.latent_shape[-1] * 2 ** (levels - 1)

    @property
    def dimensions(self) -> int:
        """D = C·H·W: what a log-prob's mean is multiplied by to get its sum."""
        return int(np.prod(self.latent_shape))

    @property
    def network_dtype(self) -> torch.dtype:
        """What the pretrained weights are kept in."""
        return self.unet.conv_in.weight.dtype

    @property
    def latent_dtype(self) -> torch.dtype:
        """What latents are cast to before their log-prob is taken."""
        return torch_dtype(self.sampling.latent_dtype)

    def transition(
        self, latents_BCHW: torch.Tensor, step_B: torch.Tensor | int, embeds_BLD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The guided mean and σ of one denoising step. Source: METHOD 1; D3PO Eq. 4.

        Args:
            latents_BCHW: x_t, any device and dtype.
            step_B: int64 index into the schedule per row (0 is the noisiest), or one for all.
            embeds_BLD: each row's prompt, as ``encode`` gives it.

        Returns:
            μ [B, C, H, W] float32 and σ [B] float64, on the policy's device.
        """
        rows = len(latents_BCHW)
        step_B = torch.as_tensor(step_B, dtype=torch.int64).reshape(-1).expand(rows)
        latents_BCHW = latents_BCHW.to(self.device)
        prediction = self._guided_prediction(latents_BCHW, self.schedule.timesteps[step_B], embeds_BLD)
        mean = ddim.mean(self.schedule, latents_BCHW, prediction, step_B)
        return mean, self.schedule.sigma[step_B].to(self.device)

    def log_prob(
        self,
        latents_BCHW: torch.Tensor,
        step_B: torch.Tensor | int,
        actions_BCHW: torch.Tensor,
        embeds_BLD: torch.Tensor,
    ) -> torch.Tensor:
        """log π(action | latents, prompt) in nats, mean over C, H, W: [B] float64 on the policy's device."""
        mean, sigma = self.transition(latents_BCHW, step_B, embeds_BLD)
        return ddim.log_prob(actions_BCHW, mean, sigma)

    def predicted_noise(
        self, clean_BCHW: torch.Tensor, timesteps_B: torch.Tensor, noise_BCHW: torch.Tensor, embeds_BLD: torch.Tensor
    ) -> torch.Tensor:
        """ε̂(√ᾱ x_0 + √(1−ᾱ) ε, t, prompt), without guidance: what a denoising loss compares with ε.

        Args:
            clean_BCHW: x_0.
            timesteps_B: int64, of the training timesteps.
            noise_BCHW: ε, float32.
            embeds_BLD: each row's prompt.

        Returns:
            [B, C, H, W] float32 on the policy's device.
        """
        noise = noise_BCHW.to(self.device)
        noisy = ddim.add_noise(self.schedule, clean_BCHW.to(self.device), noise, timesteps_B)
        prediction = self._network(noisy, timesteps_B, embeds_BLD.to(self.device))
        return ddim.noise_of(self.schedule, noisy, prediction, timesteps_B)

    def _guided_prediction(
        self, latents_BCHW: torch.Tensor, timesteps_B: torch.Tensor, embeds_BLD: torch.Tensor
    ) -> torch.Tensor:
        """ε_uncond + w (ε_cond − ε_uncond), both rows in one call; w = 1 needs the conditional row alone."""
        weight, rows = self.sampling.guidance_scale, len(latents_BCHW)
        embeds = embeds_BLD.to(self.device)
        if weight != 1.0:
            null = self.null_embeds.to(embeds).expand(rows, -1, -1)
            latents_BCHW, embeds = latents_BCHW.repeat(2, 1, 1, 1), torch.cat([null, embeds])
            timesteps_B = timesteps_B.repeat(2)
        prediction = self._network(latents_BCHW, timesteps_B, embeds)
        if weight == 1.0:
            return prediction
        unconditional, conditional = prediction.chunk(2)
        return unconditional + weight * (conditional - unconditional)

    def _network(self, latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """One UNet call; the output in float32 or wider, before anything is made of it."""
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=half):
            output = self.unet(
                latents.to(self.network_dtype),
                timesteps.to(self.device),
                encoder_hidden_states=embeds.to(self.network_dtype).contiguous(),
            ).sample
        return output.to(torch.promote_types(output.dtype, torch.float32))

    # ---- prompts and images ------------------------------------------------------------------------------------

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts of more tokens than the text encoder takes, unless they are to be truncated.

        Raises:
            ModelError: naming such prompts with their token counts.
        """
        if self.sampling.long_prompts == "refuse":
            self.parts.refuse_long_prompts(prompts)

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text-encoder output [n, L, D] float32 on the CPU; each prompt alone, so that no neighbour changes it."""
        self.check_prompts(prompts)
        return self.parts.encode(prompts)

    @property
    def null_embeds(self) -> torch.Tensor:
        """[1, L, D] float32: the unconditional prompt, ``""``."""
        if self._null_embeds is None:
            self._null_embeds = self.encode([""])
        return self._null_embeds

    def use_null_embeds(self, embeds_LD: torch.Tensor) -> None:
        """Take the unconditional prompt's embedding as it was stored, so that the text encoder need not be loaded."""
        self._null_embeds = embeds_LD.reshape(1, *embeds_LD.shape[-2:]).to(self.device)

    def decode(self, latents_NCHW: torch.Tensor) -> np.ndarray:
        """x_0 as RGB images [N, h, w, 3] uint8, decoded in slices, which bounds the memory whatever N is."""
        return self.parts.decode(latents_NCHW)

    def encode_images(self, images_NhwC: np.ndarray) -> torch.Tensor:
        """[N, h, w, 3] uint8 images as x_0: [N, C, H, W] in the latent dtype, on the CPU. What ``decode`` undoes.

        Raises:
            ValueError: where the images have another size than the model's.
        """
        _, height, width = self.latent_shape
        factor = self.image_size // width
        if images_NhwC.shape[1:3] != (height * factor, width * factor):
            raise ValueError(
                f"Expected images of {height * factor} × {width * factor} pixels, found {images_NhwC.shape[1:3]}."
            )
        return self.parts.encode_images(images_NhwC).to(self.latent_dtype)

    def use_gradient_checkpointing(self, on: bool) -> None:
        """Compute each block again in the backward pass instead of keeping what is inside it; the same gradient."""
        if on:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()

    # ---- the adapter -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reference(self) -> Iterator["Policy"]:
        """The pretrained model: the same network with its adapter off. Module state: one thread at a time."""
        if self.lora is None:
            yield self
            return
        self.unet.disable_adapters()
        try:
            yield self
        finally:
            self.unet.enable_adapters()

    @contextlib.contextmanager
    def merged(self) -> Iterator["Policy"]:
        """The same policy for sampling, its adapter inside the weights, to rounding; without gradient. Module state.

        In half precision W + ΔW would round away much of an adapter: there it stays beside them.
        """
        if self.lora is None or self.network_dtype != torch.float32 or self.dtype != torch.float32:
            yield self
            return
        with adapters.merged(self.unet):
            yield self

    def lora_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's tensors by name, sorted; empty for the bare model."""
        return self._lora_parameters

    def lora_state(self) -> dict[str, torch.Tensor]:
        """Copies of the adapter's tensors by name: float32, CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.lora_parameters().items()}

    def load_lora_state(self, state: dict[str, torch.Tensor]) -> None:
        """Set the adapter's tensors.

        Raises:
            ValueError: naming what is missing, unknown or of another shape.
        """
        adapters.load(self.unet, state)

    def export_adapter(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors`` for plain ``load_lora_weights(folder)``, alpha included."""
        if self.lora is None:
            raise ValueError("This policy was loaded without a LoRA: there is no adapter to export.")
        adapters.export(self.unet, folder)

    def export_merged(self, folder: Path) -> None:
        """Write the whole pipeline with the adapter inside the UNet's weights, for plain ``from_pretrained(folder)``.

        Raises:
            ValueError: The weights are in half precision, where W + ΔW would round away much of an adapter.
        """
        if self.lora is None or self.network_dtype != torch.float32:
            raise ValueError(f"Merging takes an adapter and float32 weights; these are {self.network_dtype}.")
        copy_pipeline(self.folder, folder, without="unet")
        adapters.export_merged(self.unet, folder / "unet")
