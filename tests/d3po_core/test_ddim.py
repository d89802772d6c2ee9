"""METHOD 1: the schedule's numbers, parity with diffusers, the Gaussian."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import SD15_SCHEDULER

from d3po_core import ddim
from d3po_core.ddim import Schedule, check_trainable, noise_scale
from d3po_core.errors import ModelError


def schedule(T: int = 20, eta: float = 1.0, **changes: Any) -> Schedule:
    return Schedule.from_config({**SD15_SCHEDULER, **changes}, T, eta)


def test_sd15_timesteps_and_sigmas() -> None:
    sd15 = schedule()
    assert sd15.timesteps.tolist() == list(range(951, 0, -50))
    assert sd15.timesteps.dtype == torch.int64
    assert float(sd15.sigma[0]) == pytest.approx(0.64439, abs=5e-6)
    assert float(sd15.sigma[-1]) == pytest.approx(0.020648, abs=5e-7)
    assert bool(sd15.trainable.all())


@pytest.mark.parametrize("changes", [{"steps_offset": 0}, {"steps_offset": 1, "set_alpha_to_one": True}])
def test_where_sigma_is_zero_the_last_step_is_not_trainable(changes: dict[str, Any]) -> None:
    last = schedule(**changes)
    assert float(last.sigma[-1]) == 0.0
    assert last.trainable.tolist() == [True] * 19 + [False]
    x = torch.randn(2, 4, 8, 8)
    mean = ddim.mean(last, x, torch.randn_like(x), torch.tensor([19, 19]))
    assert bool(mean.isfinite().all())
    assert torch.equal(ddim.step(mean, last.sigma[[19, 19]], torch.randn_like(x), torch.float32), mean)
    assert not bool(ddim.log_prob(mean, mean, last.sigma[[19, 19]]).isfinite().any()), "there is no density"
    check_trainable(last)


def test_published_code_clamps_the_previous_timestep_and_gets_a_sigma() -> None:
    """The departure is stated in METHOD: with set_alpha_to_one the published code keeps 0.020648 where ours is 0."""
    alphas = DDIMScheduler(**{k: v for k, v in SD15_SCHEDULER.items() if k.startswith("beta")}).alphas_cumprod.double()
    assert float(noise_scale(alphas[1], alphas[0], 1.0)) == pytest.approx(0.020648, abs=5e-7)


def test_eta_zero_leaves_nothing_to_train_on() -> None:
    deterministic = schedule(eta=0.0)
    assert not bool(deterministic.trainable.any())
    with pytest.raises(ModelError, match=r"eta is 0.0.*nothing to train on.*d3po init"):
        check_trainable(deterministic)


@pytest.mark.parametrize("eta", [1.017, -0.1, math.nan])
def test_eta_outside_its_range_is_refused(eta: float) -> None:
    with pytest.raises(ModelError, match="eta"):
        schedule(eta=eta)


def test_the_mean_is_not_a_number_from_eta_1017() -> None:
    sd15 = schedule()

    def direction(eta: float) -> torch.Tensor:
        return (1 - sd15.alpha_prev - noise_scale(sd15.alpha, sd15.alpha_prev, eta) ** 2).sqrt()

    assert bool(direction(1.016).isfinite().all())
    assert bool(direction(1.017).isnan().any())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_mean_and_sigma_are_diffusers_own(prediction: str, eta: float) -> None:
    """diffusers' step with a noise of our choice is μ + σ z."""
    ours = schedule(T=10, eta=eta, prediction_type=prediction)
    known = {k: v for k, v in SD15_SCHEDULER.items() if not k.startswith(("_", "skip"))}
    theirs = DDIMScheduler(**{**known, "prediction_type": prediction})
    theirs.set_timesteps(10)
    assert theirs.timesteps.tolist() == ours.timesteps.tolist()
    torch.manual_seed(0)
    x, output, z = torch.randn(3, 1, 4, 8, 8).unbind(0)
    for step, t in enumerate(theirs.timesteps):
        step_B = torch.tensor([step])
        expected = theirs.step(output, int(t), x, eta=eta, variance_noise=z).prev_sample
        mean = ddim.mean(ours, x, output, step_B)
        assert torch.allclose(ddim.step(mean, ours.sigma[step_B], z, torch.float32), expected, atol=2e-5)


def test_v_prediction_is_the_epsilon_prediction_converted_and_guidance_commutes() -> None:
    by_eps, by_v = schedule(), schedule(prediction_type="v_prediction")
    torch.manual_seed(0)
    x, uncond, cond = torch.randn(3, 20, 4, 8, 8, dtype=torch.float64).unbind(0)
    steps = torch.arange(20)
    a, s = by_eps.alpha.sqrt().view(-1, 1, 1, 1), (1 - by_eps.alpha).sqrt().view(-1, 1, 1, 1)

    def as_v(eps: torch.Tensor) -> torch.Tensor:
        return a * eps - s * (x - s * eps) / a

    guided = uncond + 5 * (cond - uncond)
    guided_v = as_v(uncond) + 5 * (as_v(cond) - as_v(uncond))
    expected = ddim.mean(by_eps, x, guided, steps)
    assert torch.allclose(ddim.mean(by_v, x, guided_v, steps), expected, rtol=1e-9, atol=1e-9)


def test_log_prob_is_the_gaussians_and_sum_is_dimensions_times_mean() -> None:
    torch.manual_seed(0)
    mean, action = torch.randn(2, 3, 4, 8, 8).unbind(0)
    sigma = torch.tensor([0.02, 0.3, 0.64], dtype=torch.float64)
    density = torch.distributions.Normal(mean.double(), sigma.view(-1, 1, 1, 1)).log_prob(action.double())
    ours = ddim.log_prob(action, mean, sigma)
    assert ours.dtype == torch.float64
    assert torch.allclose(ours, density.mean((1, 2, 3)), rtol=1e-12)
    assert torch.allclose(ours * 4 * 8 * 8, density.sum((1, 2, 3)), rtol=1e-12)


def test_expected_log_prob_of_a_sample_is_the_entropy() -> None:
    """A closed form: E log N(a; μ, σ²) = −½ log(2πe σ²), within five standard errors of 65,536 draws."""
    torch.manual_seed(0)
    sigma = torch.tensor([0.3], dtype=torch.float64)
    mean = torch.zeros(1, 4, 128, 128)
    action = ddim.step(mean, sigma, torch.randn_like(mean), torch.float32)
    expected = -0.5 * math.log(2 * math.pi * math.e * 0.09)
    assert float(ddim.log_prob(action, mean, sigma)) == pytest.approx(expected, abs=5 * math.sqrt(0.5 / mean.numel()))


@pytest.mark.parametrize(("dtype", "magnitude"), [(torch.float16, 1e-4), (torch.bfloat16, 3.5e-3)])
def test_casting_after_the_log_prob_moves_the_last_step(dtype: torch.dtype, magnitude: float) -> None:
    """Why the action is cast first: at SD 1.5's last σ the late cast is of the order of DDPO's clip range and more."""
    torch.manual_seed(0)
    sigma = schedule().sigma[-1:]
    mean = torch.randn(1, 4, 64, 64)
    z = torch.randn_like(mean)
    early = ddim.log_prob(ddim.step(mean, sigma, z, dtype), mean, sigma)
    late = ddim.log_prob(ddim.step(mean, sigma, z, torch.float32), mean, sigma)
    assert magnitude / 10 < abs(float(early - late)) < magnitude * 10


def test_half_precision_arguments_are_widened_first() -> None:
    sd15 = schedule()
    torch.manual_seed(0)
    x, output = torch.randn(2, 1, 4, 8, 8).half().unbind(0)
    half = ddim.mean(sd15, x, output, torch.tensor([19]))
    assert half.dtype == torch.float32
    assert torch.equal(half, ddim.mean(sd15, x.float(), output.float(), torch.tensor([19])))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"_class_name": "DDIMScheduler", "clip_sample": True}, "clip_sample"),
        ({"thresholding": True}, "thresholding"),
        ({"timestep_spacing": "trailing"}, "timestep_spacing is 'trailing'"),
        ({"timestep_spacing": "linspace"}, "timestep_spacing is 'linspace'"),
        ({"prediction_type": "sample"}, "prediction_type is 'sample'"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "NoSuchScheduler"}, "NoSuchScheduler"),
        ({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, "steps_offset": 49}, "zero terminal SNR"),
    ],
)
def test_what_has_no_density_here_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        schedule(**changes)


def test_fields_left_out_have_the_default_of_the_class_that_wrote_the_file() -> None:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    with pytest.raises(ModelError, match="clip_sample"):  # DDIM clips unless told not to
        Schedule.from_config({"_class_name": "DDIMScheduler", **betas}, 20, 1.0)
    pndm = Schedule.from_config({"_class_name": "PNDMScheduler", **betas}, 20, 1.0)  # PNDM: set_alpha_to_one is false
    assert float(pndm.sigma[-1]) == pytest.approx(0.020648, abs=5e-7)
    with pytest.raises(ModelError, match="'linspace'"):  # Euler spaces otherwise
        Schedule.from_config({"_class_name": "EulerDiscreteScheduler", **betas}, 20, 1.0)


def test_the_pipeline_rewrites_the_file_so_the_file_is_read(folder: Path, tmp_path: Path) -> None:
    """StableDiffusionPipeline turns steps_offset 0 into 1 without a word that a programme would notice."""
    import shutil

    from diffusers import StableDiffusionPipeline

    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**SD15_SCHEDULER, "steps_offset": 0}))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    assert pipeline.scheduler.config.steps_offset == 1
    own = Schedule.from_config(json.loads(file.read_text()), 20, 1.0)
    assert own.timesteps[-1] == 0
    assert not bool(own.trainable[-1])


def test_more_steps_than_timesteps_are_refused() -> None:
    assert schedule(T=999).timesteps[-1] == 1
    with pytest.raises(ModelError, match="num_inference_steps is 1000"):
        schedule(T=1000)
    with pytest.raises(ModelError, match="num_inference_steps is 1001"):
        schedule(T=1001)
