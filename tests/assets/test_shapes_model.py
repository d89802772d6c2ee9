"""The bundled model: it loads plainly, is small, has SD 1.5's schedule and draws what prompts name."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import StableDiffusionPipeline

from assets.shapes_world import check_model, classifier, world

MODEL = Path(__file__).parents[2] / "assets" / "shapes"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    """The model as anyone would load it."""
    loaded = StableDiffusionPipeline.from_pretrained(MODEL, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def read_prompts(name: str) -> list[str]:
    """Return the prompts of one of the model's lists."""
    return (MODEL / f"prompts-{name}.txt").read_text().splitlines()


def test_size_and_files() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert (MODEL / "model_index.json").exists()
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl"}]


def test_plain_load_is_float32(pipeline: StableDiffusionPipeline) -> None:
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {value.dtype for value in part.parameters()} == {torch.float32}
    assert pipeline.safety_checker is None


def test_schedule_is_that_of_stable_diffusion(pipeline: StableDiffusionPipeline) -> None:
    config = pipeline.scheduler.config
    expected = {
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
    }
    assert {name: config[name] for name in expected} == expected
    pipeline.scheduler.set_timesteps(20)
    assert pipeline.scheduler.timesteps[[0, -1]].tolist() == [951, 1]


def test_latents_are_scaled_to_unit_deviation(pipeline: StableDiffusionPipeline) -> None:
    pictures, _ = world.make_dataset(96, seed=3)
    with torch.no_grad():
        latents = pipeline.vae.encode(classifier.to_pixels(pictures)).latent_dist.mean
    assert latents.shape == (96, 4, 16, 16)
    scaled = latents * pipeline.vae.config.scaling_factor
    assert scaled.std().item() == pytest.approx(1, abs=0.1)
    assert pipeline.vae.config.scaling_factor != 1


def test_each_word_is_one_token(pipeline: StableDiffusionPipeline) -> None:
    ids = pipeline.tokenizer(world.all_prompts()).input_ids
    assert {len(row) for row in ids} == {9}
    assert len({tuple(row) for row in ids}) == 192
    assert pipeline.tokenizer("").input_ids == [
        pipeline.tokenizer.bos_token_id,
        pipeline.tokenizer.eos_token_id,
    ]


def test_prompt_lists_split_the_world() -> None:
    train, held_out = read_prompts("train"), read_prompts("heldout")
    assert (len(train), len(held_out)) == (144, 48)
    assert sorted(train + held_out) == sorted(world.all_prompts())
    assert (train, held_out) == world.split_prompts()


def test_classifier_on_fresh_pictures() -> None:
    pictures, scenes = world.make_dataset(300, seed=20_001)
    found = classifier.classify(pictures)
    for question in ("colour", "shape"):
        right = [answer == getattr(scene, question) for answer, scene in zip(found[question], scenes, strict=True)]
        assert np.mean(right) >= 0.99, question


def test_agreement_tells_right_from_wrong_prompts() -> None:
    pictures, scenes = world.make_dataset(96, seed=20_002)
    right = [scene.prompt for scene in scenes]
    assert classifier.agreement(pictures, right).mean() > 0.9
    assert classifier.agreement(pictures, right[4:] + right[:4]).mean() < 0.1
    with pytest.raises(ValueError, match="not a prompt"):
        classifier.agreement(pictures[:1], ["a red house"])


def test_samples_show_their_prompts(pipeline: StableDiffusionPipeline) -> None:
    prompts = [world.all_prompts()[i * 41 % 192] for i in range(24)]
    pictures = check_model.sample(pipeline, prompts, seed=5)
    found = classifier.classify(pictures)
    right = check_model.right_answers(prompts, found)
    assert len(prompts) == 24
    assert right["colour"].mean() >= 0.80
    assert right["shape"].mean() >= 0.65
    assert len(set(found["texture"])) >= 3
