"""CLIP score, PickScore and the aesthetic score against values computed by hand from the same architectures' parts."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from d3po_core.errors import ObjectiveError
from d3po_core.programmed.aesthetic import aesthetic_score, load_head
from d3po_core.programmed.clip import Clip, clip_score, pick_score
from d3po_core.programmed.config import AestheticConfig, ClipScoreConfig, PickScoreConfig
from d3po_core.programmed.loading import load_objective
from tests.d3po_core.programmed.tiny_models import PIXELS, WIDTH, build_clip

IMAGES = np.random.default_rng(0).integers(0, 256, (5, PIXELS, PIXELS, 3), dtype=np.uint8)
PROMPTS = ["a red square", "two dots", "x", "a thin line", "a big cat"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""What CLIP's pixels are normalised by."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="module")
def cosines(folder: Path) -> np.ndarray:
    """Each image's cosine with its prompt, from the networks' parts; one by one."""
    model = CLIPModel.from_pretrained(folder)
    clip = Clip(str(folder))
    found = []
    for image, prompt in zip(IMAGES, PROMPTS, strict=True):
        pixels = (torch.tensor(image) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        seen = (
            model.vision_model(pixels.permute(2, 0, 1)[None].float()).pooler_output @ model.visual_projection.weight.T
        )
        tokens = torch.tensor([clip.tokenizer(prompt)["input_ids"]])
        read = model.text_model(tokens).pooler_output @ model.text_projection.weight.T
        found.append(torch.cosine_similarity(seen, read).item())
    return np.array(found)


def test_clip_score_is_a_hundred_times_the_cosine_and_never_negative(folder: Path, cosines: np.ndarray):
    values = load_objective("c", ClipScoreConfig(kind="clip_score", model=str(folder)), "cpu")(IMAGES, PROMPTS)
    assert values == pytest.approx(100 * np.maximum(cosines, 0), abs=1e-4)
    assert (cosines > 0.01).any()
    assert (cosines < -0.01).any()


def test_pick_score_has_the_models_own_scale(folder: Path, cosines: np.ndarray):
    config = PickScoreConfig(kind="pick_score", model=str(folder), processor=str(folder), batch_size=2)
    scale = CLIPModel.from_pretrained(folder).logit_scale.exp().item()
    assert load_objective("p", config, "cpu")(IMAGES, PROMPTS) == pytest.approx(scale * cosines, abs=1e-4)


def test_batches_do_not_change_the_values(folder: Path):
    clip = Clip(str(folder))
    together = pick_score(clip, IMAGES, PROMPTS)
    alone = [pick_score(clip, IMAGES[i : i + 1], PROMPTS[i : i + 1])[0] for i in range(5)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_long_prompt_is_cut_and_other_sizes_are_brought_to_clips(folder: Path):
    long, large = "word " * 50, np.repeat(np.repeat(IMAGES[:1], 3, 1), 2, 2)
    [value] = clip_score(Clip(str(folder)), large, [long])
    assert np.isfinite(value)


def test_the_published_files_layout_is_read(folder: Path, tmp_path: Path):
    """The hub's CLIP has its settings in the names of years ago."""
    import json
    import shutil

    published = shutil.copytree(folder, tmp_path / "published")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (published / name).unlink()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.move(published / "tokenizer" / name, published / name)
    settings = {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": PIXELS, "size": PIXELS, "resample": 3}
    switches = dict.fromkeys(("do_center_crop", "do_normalize", "do_resize"), True)
    (published / "preprocessor_config.json").write_text(
        json.dumps({**settings, **switches, "image_mean": MEAN, "image_std": STD})
    )
    clip = Clip(str(published))
    assert isinstance(clip.image_processor, CLIPImageProcessorPil)
    assert np.array_equal(pick_score(clip, IMAGES, PROMPTS), pick_score(Clip(str(folder)), IMAGES, PROMPTS))


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ObjectiveError, match=f"CLIPModel could not be loaded from '{tmp_path}/none'"):
        Clip(str(tmp_path / "none"))


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path):
    import shutil

    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(CLIPModel.from_pretrained(folder).state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ObjectiveError, match="weights as safetensors"):
        Clip(str(pickled))


# ---- the aesthetic head ------------------------------------------------------------------------------------------------


def chain(*widths: int) -> tuple[dict[str, torch.Tensor], torch.nn.Sequential]:
    """Linear layers and their tensors, named as the published ``nn.Sequential`` with dropouts between names them."""
    torch.manual_seed(1)
    layers = [torch.nn.Linear(before, after) for before, after in pairwise(widths)]
    names = ["layers.0", "layers.2", "layers.4", "layers.6", "layers.7", "layers.10"]
    tensors = {
        f"{name}.{part}": getattr(layer, part).data for name, layer in zip(names, layers, strict=False)
        for part in ("weight", "bias")
    }  # fmt: skip
    return dict(sorted(tensors.items())), torch.nn.Sequential(*layers)


@pytest.mark.parametrize("widths", [(WIDTH, 1), (WIDTH, 16, 12, 6, 4, 3, 1)], ids=["one layer", "chain"])
def test_the_aesthetic_score_is_linear_in_the_unit_vector(folder: Path, tmp_path: Path, widths: tuple[int, ...]):
    tensors, layers = chain(*widths)
    if len(widths) == 2:
        tensors = {name.removeprefix("layers.0."): tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "head.safetensors")
    config = AestheticConfig(kind="aesthetic", model=str(folder), head=str(tmp_path / "head.safetensors"))
    with torch.no_grad():
        wanted = layers(Clip(str(folder)).images(IMAGES))[:, 0].numpy()
    values = load_objective("a", config, "cpu")(IMAGES, PROMPTS)
    assert values == pytest.approx(wanted, abs=1e-6)
    assert np.array_equal(values, load_objective("a", config, "cpu")(IMAGES, [""] * 5)), "the prompt is not looked at"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_says_the_same(folder: Path, tmp_path: Path):
    tensors, _ = chain(WIDTH, 4, 1)
    save_file(tensors, tmp_path / "head.safetensors")
    for config in (
        AestheticConfig(kind="aesthetic", model=str(folder), head=str(tmp_path / "head.safetensors")),
        PickScoreConfig(kind="pick_score", model=str(folder)),
    ):
        there, here = (load_objective("o", config, device)(IMAGES, PROMPTS) for device in ("cuda", "cpu"))
        assert there == pytest.approx(here, abs=1e-3)


def test_one_layer_by_hand(folder: Path, tmp_path: Path):
    """Σ w·x + b of the unit vector x."""
    weight, bias = torch.arange(WIDTH).float()[None], torch.tensor([0.5])
    save_file({"weight": weight, "bias": bias}, tmp_path / "head.safetensors")
    clip = Clip(str(folder))
    x = clip.images(IMAGES[:1])[0]
    assert x.norm().item() == pytest.approx(1, abs=1e-6)
    [value] = aesthetic_score(clip, load_head(tmp_path / "head.safetensors", WIDTH), IMAGES[:1], ["a"])
    assert value == pytest.approx(sum(i * x[i].item() for i in range(WIDTH)) + 0.5, abs=1e-6)


def test_a_pickled_head_is_refused_with_the_conversion(tmp_path: Path):
    torch.save({"weight": torch.zeros(1, WIDTH), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    with pytest.raises(ObjectiveError, match=r"pickles \(.pth\) are not read[\s\S]*save_file\(torch.load\('head.pth'"):
        load_head(tmp_path / "head.pth", WIDTH)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": torch.zeros(1, 5), "bias": torch.zeros(1)}, "the layers 5 → 1, expected a chain from 8"),
        ({"weight": torch.zeros(2, WIDTH), "bias": torch.zeros(2)}, "the layers 8 → 2, expected a chain from 8"),
        ({"bias": torch.zeros(1)}, "the layers none"),
        ({"weight": torch.zeros(1, WIDTH)}, "and a bias"),
    ],
)
def test_a_head_that_does_not_fit(tmp_path: Path, tensors: dict, said: str):
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(ObjectiveError, match=said):
        load_head(tmp_path / "head.safetensors", WIDTH)


def test_no_head(tmp_path: Path):
    with pytest.raises(ObjectiveError, match="there is no such file"):
        load_head(tmp_path / "none.safetensors", WIDTH)
