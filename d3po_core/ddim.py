"""DDIM as a Gaussian policy: the schedule, the mean, σ, the log-prob and the step (METHOD 1; Song et al. 2021, Eq. 12).

Letters: B rows, T denoising steps, C × H × W latent. ᾱ is the cumulative product of the alphas. The schedule is made
    from the *scheduler's own configuration file*: `StableDiffusionPipeline` silently rewrites ``steps_offset`` and
    ``clip_sample``. The order in which a diffusers scheduler would step is not used: only its betas, offset, final
    alpha and prediction type.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from d3po_core.errors import ModelError

__all__ = [
    "Schedule",
    "add_noise",
    "check_scheduler",
    "check_trainable",
    "kl",
    "log_prob",
    "mean",
    "noise_of",
    "noise_scale",
    "step",
]

_LOG_2PI = math.log(2 * math.pi)
_OTHER_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The T steps of one way of sampling, with what each needs. Tensors are on the CPU."""

    timesteps: torch.Tensor
    """[T] int64, falling."""
    alpha: torch.Tensor
    """[T] float64: ᾱ at the step's timestep."""
    alpha_prev: torch.Tensor
    """[T] float64: ᾱ at the timestep it goes to; the final alpha at the end."""
    sigma: torch.Tensor
    """[T] float64: the policy's standard deviation."""
    trainable: torch.Tensor
    """[T] bool: σ > 0, so that there is a density."""
    prediction_type: str
    """``epsilon`` or ``v_prediction``."""
    eta: float
    training_alpha: torch.Tensor
    """[N] float64: ᾱ at each of the timesteps that the model was trained with."""

    def __len__(self) -> int:
        return len(self.timesteps)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], num_inference_steps: int, eta: float) -> "Schedule":
        """The schedule of a scheduler's configuration file.

        Args:
            config: the parsed ``scheduler_config.json``, as it lies on disk.
            num_inference_steps: T.
            eta: η in [0, 1].

        Raises:
            ModelError: naming the setting, where the method has no density for it.
        """
        from diffusers import DDIMScheduler

        known = check_scheduler(config, num_inference_steps)
        if not 0.0 <= eta <= 1.0:
            raise ModelError(f"eta is {eta}, expected 0 … 1: above 1 the mean is not a number (METHOD 1).")
        scheduler: Any = DDIMScheduler(**known)
        alphas = scheduler.alphas_cumprod.double()
        stride = len(alphas) // num_inference_steps
        timesteps = torch.arange(num_inference_steps - 1, -1, -1) * stride + known["steps_offset"]
        previous = timesteps - stride
        alpha = alphas[timesteps]
        final = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64)
        alpha_prev = torch.where(previous >= 0, alphas[previous.clamp(min=0)], final)
        if known["prediction_type"] == "epsilon" and bool((alpha <= 0).any()):
            raise ModelError("scheduler: ᾱ is 0 (zero terminal SNR) with epsilon prediction: x̂0 would divide by zero.")
        sigma = noise_scale(alpha, alpha_prev, eta)
        return cls(
            timesteps=timesteps,
            alpha=alpha,
            alpha_prev=alpha_prev,
            sigma=sigma,
            trainable=sigma > 0,
            prediction_type=known["prediction_type"],
            eta=eta,
            training_alpha=alphas,
        )


def check_scheduler(config: Mapping[str, Any], num_inference_steps: int) -> dict[str, Any]:
    """The settings of a scheduler's configuration that DDIM has, with the defaults of the class that wrote the file.

    Any class is taken whose training noise is given by betas (DDIM, PNDM, DDPM, Euler …): the sampler's own rule is not
    used. A field that the file leaves out has the value that *its* class gives it.

    Raises:
        ModelError: naming the setting, for an unknown class, sample clipping, thresholding, spacings other than
            leading, ``sample`` prediction, or steps that do not fit the training timesteps.
    """
    import diffusers

    name = config.get("_class_name", "DDIMScheduler")
    scheduler_class = getattr(diffusers, name, None)
    if scheduler_class is None or not hasattr(scheduler_class, "from_config"):
        raise ModelError(f"scheduler: _class_name is {name!r}, which this diffusers does not know.")
    own = {
        key: parameter.default
        for key, parameter in inspect.signature(scheduler_class.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    if "beta_schedule" not in own:
        raise ModelError(
            f"scheduler: {name} has no betas, expected one like DDIMScheduler or PNDMScheduler: its noise cannot be "
            "expressed as DDIM's."
        )

    def value(key: str, otherwise: Any) -> Any:
        return config[key] if key in config else own.get(key, otherwise)

    for flag in ("clip_sample", "thresholding", *_OTHER_SPACINGS):
        if value(flag, False):
            raise ModelError(
                f"scheduler: {flag} is on ({name}), expected false: a clipped or re-spaced step has no density here. "
                f'Set "{flag}": false in scheduler/scheduler_config.json if the model was not trained to need it.'
            )
    spacing = value("timestep_spacing", "leading")
    if spacing != "leading":
        raise ModelError(f"scheduler: timestep_spacing is {spacing!r} ({name}), expected 'leading'.")
    prediction = value("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(f"scheduler: prediction_type is {prediction!r}, expected 'epsilon' or 'v_prediction'.")
    total, offset = value("num_train_timesteps", 1000), value("steps_offset", 0)
    fits = 1 <= num_inference_steps <= total
    if not fits or (num_inference_steps - 1) * (total // num_inference_steps) + offset >= total:
        raise ModelError(
            f"num_inference_steps is {num_inference_steps}, which with steps_offset {offset} does not fit the "
            f"{total} timesteps the model was trained with. Set sampling.num_inference_steps lower."
        )
    return {
        "num_train_timesteps": total,
        "beta_start": value("beta_start", 0.0001),
        "beta_end": value("beta_end", 0.02),
        "beta_schedule": value("beta_schedule", "linear"),
        "trained_betas": value("trained_betas", None),
        "rescale_betas_zero_snr": bool(value("rescale_betas_zero_snr", False)),
        "set_alpha_to_one": value("set_alpha_to_one", True),
        "steps_offset": offset,
        "prediction_type": prediction,
        "clip_sample": False,
    }


def check_trainable(schedule: Schedule) -> None:
    """Refuse a schedule that leaves nothing to train on.

    Raises:
        ModelError: where σ is 0 at every step (η = 0).
    """
    if not bool(schedule.trainable.any()):
        raise ModelError(
            f"eta is {schedule.eta}: σ is 0 at each of the {len(schedule)} steps, so that no action has a density and "
            "there is nothing to train on. Set sampling.eta to 1.0 in a new run (`d3po init`); 0 is for evaluation."
        )


def noise_scale(alpha: torch.Tensor, alpha_prev: torch.Tensor, eta: float) -> torch.Tensor:
    """σ_t = η √((1−ᾱ_prev)/(1−ᾱ_t)) √(1 − ᾱ_t/ᾱ_prev), element by element. Source: DDIM Eq. 16, METHOD 1."""
    return eta * ((1 - alpha_prev) / (1 - alpha)).sqrt() * (1 - alpha / alpha_prev).sqrt()


def mean(
    schedule: Schedule, latents_BCHW: torch.Tensor, prediction_BCHW: torch.Tensor, step_B: torch.Tensor
) -> torch.Tensor:
    """μ = √ᾱ_prev x̂0 + √(1 − ᾱ_prev − σ²) ε: the policy's mean action.

    Args:
        latents_BCHW: x_t; widened to at least float32.
        prediction_BCHW: the network's (guided) output; widened to at least float32.
        step_B: int64 index into the schedule, 0 is the noisiest step.

    Returns:
        [B, C, H, W], float32 (float64 where an argument is).
    """
    dtype = torch.promote_types(torch.promote_types(latents_BCHW.dtype, prediction_BCHW.dtype), torch.float32)
    x, output = latents_BCHW.to(dtype), prediction_BCHW.to(dtype)

    def column(values: torch.Tensor) -> torch.Tensor:
        return values[step_B.to(values.device)].to(device=x.device, dtype=dtype).view(-1, 1, 1, 1)

    root_alpha, root_rest = column(schedule.alpha.sqrt()), column((1 - schedule.alpha).sqrt())
    if schedule.prediction_type == "v_prediction":
        x0 = root_alpha * x - root_rest * output
        noise = root_alpha * output + root_rest * x
    else:
        noise = output
        x0 = (x - root_rest * noise) / root_alpha
    direction = 1 - schedule.alpha_prev - schedule.sigma**2
    # At η = 1 the last step's direction is 0 up to rounding; η ≤ 1 was checked, so below 0 is only rounding.
    direction = torch.where(direction.abs() < 1e-12, torch.zeros_like(direction), direction)
    return column(schedule.alpha_prev.sqrt()) * x0 + column(direction.sqrt()) * noise


def log_prob(action_BCHW: torch.Tensor, mean_BCHW: torch.Tensor, sigma_B: torch.Tensor) -> torch.Tensor:
    """log N(a; μ, σ² I) in nats, the **mean** over C, H, W; the sum is C·H·W times it.

    The action has to be in the dtype it is kept in already: casting later moves the last step's value by 1e-4 (float16)
    or 3.5e-3 (bfloat16).

    Returns:
        [B] float64 (float32 on devices without it); not finite where σ is 0, which has no density.
    """
    wide = torch.float32 if mean_BCHW.device.type == "mps" else torch.float64
    sigma = sigma_B.to(device=mean_BCHW.device, dtype=wide)
    squares = ((action_BCHW.to(mean_BCHW.device, wide) - mean_BCHW.to(wide)) ** 2).flatten(1).mean(dim=1)
    return -squares / (2 * sigma**2) - sigma.log() - 0.5 * _LOG_2PI


def kl(mean_BCHW: torch.Tensor, other_BCHW: torch.Tensor, sigma_B: torch.Tensor) -> torch.Tensor:
    """KL(N(μ, σ² I) ‖ N(μ', σ² I)) = ‖μ − μ'‖² / (2σ²) in nats, the **mean** over C, H, W: [B] float64. Source: METHOD 3."""
    squares = (mean_BCHW.double() - other_BCHW.double()).square().flatten(1).mean(dim=1)
    return squares / (2 * sigma_B.to(squares) ** 2)


def step(
    mean_BCHW: torch.Tensor, sigma_B: torch.Tensor, noise_BCHW: torch.Tensor, latent_dtype: torch.dtype
) -> torch.Tensor:
    """x_{t-1} = μ + σ z, cast to the dtype that latents are kept in; with σ = 0 the mean itself."""
    sigma = sigma_B.to(mean_BCHW).view(-1, 1, 1, 1)
    return (mean_BCHW + sigma * noise_BCHW.to(mean_BCHW)).to(latent_dtype)


def add_noise(
    schedule: Schedule, clean_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor
) -> torch.Tensor:
    """√ᾱ_t x_0 + √(1−ᾱ_t) ε at any of the training timesteps: float32 or wider. Source: Ho et al., 2020, Eq. 4."""
    root_alpha, root_rest = _roots(schedule, timesteps_B, noise_BCHW)
    return root_alpha * clean_BCHW.to(noise_BCHW) + root_rest * noise_BCHW


def noise_of(
    schedule: Schedule, noisy_BCHW: torch.Tensor, prediction_BCHW: torch.Tensor, timesteps_B: torch.Tensor
) -> torch.Tensor:
    """The noise ε that a network's output stands for at a training timestep; for ``v_prediction`` √ᾱ v + √(1−ᾱ) x_t."""
    if schedule.prediction_type == "epsilon":
        return prediction_BCHW
    root_alpha, root_rest = _roots(schedule, timesteps_B, prediction_BCHW)
    return root_alpha * prediction_BCHW + root_rest * noisy_BCHW


def _roots(schedule: Schedule, timesteps_B: torch.Tensor, like_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    alpha = schedule.training_alpha[timesteps_B.cpu()].view(-1, 1, 1, 1)
    return alpha.sqrt().to(like_BCHW), (1 - alpha).sqrt().to(like_BCHW)
