"""A small LLaVA describes, a small RoBERTa compares: BERTScore's recall by hand, token by token."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, RobertaModel

from d3po_core.errors import ObjectiveError
from d3po_core.programmed.alignment import Describer
from d3po_core.programmed.bert_score import TextEncoder, token_recall
from d3po_core.programmed.config import VlmAlignmentConfig
from d3po_core.programmed.loading import load_objective
from tests.d3po_core.programmed.tiny_models import PIXELS, build_llava, build_roberta

IMAGES = np.random.default_rng(3).integers(0, 256, (4, PIXELS, PIXELS, 3), dtype=np.uint8)
IMAGES[1] //= 8
IMAGES[2] = 255
QUESTION = "what is the image of"


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("roberta") / "roberta")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava(tmp_path_factory.mktemp("llava") / "llava")


def test_recall_of_two_tokens_by_hand():
    """The reference's (1, 0) finds (0.6, 0.8) with 0.6, its (0, 2) finds it with 0.8; its mark (−1, 0) does not count."""
    reference = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    candidate = torch.tensor([[0.6, 0.8], [-0.6, 0.0]])
    counted = torch.tensor([False, True, True])
    assert token_recall(reference, counted, candidate) == pytest.approx(0.7)
    assert token_recall(reference, torch.tensor([True, True, True]), candidate) == pytest.approx((1 + 0.6 + 0.8) / 3)


@pytest.mark.parametrize("layer", [None, 0, 2])
def test_recall_of_sentences_is_that_of_their_tokens(roberta: Path, layer: int | None):
    encoder = TextEncoder(str(roberta), layer=layer)
    references, candidates = ["a red square", "two dots and a blue circle"], ["the image contains a red circle", "two"]
    model = RobertaModel.from_pretrained(roberta, add_pooling_layer=False).eval()

    def tokens(text: str) -> torch.Tensor:
        numbers = torch.tensor([encoder.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(numbers, output_hidden_states=True).hidden_states[-1 if layer is None else layer][0]
        return hidden / hidden.norm(dim=1, keepdim=True)

    wanted = [
        np.mean([max(float(r @ c) for c in tokens(candidate)) for r in tokens(reference)[1:-1]])
        for reference, candidate in zip(references, candidates, strict=True)
    ]
    assert encoder.recall(references, candidates) == pytest.approx(wanted, abs=1e-6)


def test_what_is_said_again_is_recalled_and_what_is_not_said_is_not(roberta: Path):
    encoder = TextEncoder(str(roberta))
    assert encoder.recall(["a red square"], ["a red square"]) == pytest.approx([1.0], abs=1e-6)
    assert encoder.recall(["a red square"], ["  "]) == [0.0]
    by_words = TextEncoder(str(roberta), layer=0)
    right, wrong = by_words.recall(["red square", "red square"], ["a red square", "a blue circle"])
    assert right > wrong


def test_what_is_described_is_what_the_model_says(llava: Path):
    describer = Describer(str(llava), question=QUESTION, max_new_tokens=6)
    assert describer.asked == f"<image> {QUESTION}"
    said = describer.describe(IMAGES)
    assert len(set(said)) > 1, "it looks at the pictures"
    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    for image, text in zip(IMAGES, said, strict=True):
        inputs = describer.processor(images=Image.fromarray(image), text=describer.asked, return_tensors="pt")
        numbers = inputs["input_ids"]
        for _ in range(6):  # greedily, without generate()
            with torch.no_grad():
                logits = model(input_ids=numbers, pixel_values=inputs["pixel_values"]).logits[0, -1]
            numbers = torch.cat([numbers, logits.argmax().reshape(1, 1)], 1)
            if numbers[0, -1] == model.config.text_config.eos_token_id:
                break
        new = numbers[0, inputs["input_ids"].shape[1] :]
        assert text == describer.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_alignment_is_the_recall_of_the_prompt_in_the_description(llava: Path, roberta: Path):
    config = VlmAlignmentConfig(
        kind="vlm_alignment", model=str(llava), encoder=str(roberta), question=QUESTION, max_new_tokens=6,
        reference="the image contains {prompt}", batch_size=2,
    )  # fmt: skip
    prompts = ["a red square", "two dots", "a blue circle", "a red circle"]
    said = Describer(str(llava), question=QUESTION, max_new_tokens=6).describe(IMAGES)
    wanted = TextEncoder(str(roberta)).recall([f"the image contains {prompt}" for prompt in prompts], said)
    values = load_objective("v", config, "cpu")(IMAGES, prompts)
    assert values == pytest.approx(wanted, abs=1e-5)
    assert len(set(values)) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_says_the_same(llava: Path, roberta: Path):
    config = VlmAlignmentConfig(
        kind="vlm_alignment", model=str(llava), encoder=str(roberta), question=QUESTION, max_new_tokens=6
    )
    prompts = ["a red square"] * len(IMAGES)
    there, here = (load_objective("v", config, device)(IMAGES, prompts) for device in ("cuda", "cpu"))
    assert there == pytest.approx(here, abs=1e-4)


def test_a_model_that_cannot_be_asked_is_refused(tmp_path: Path):
    folder = build_llava(tmp_path / "base", template=False)
    with pytest.raises(ObjectiveError, match="no chat template"):
        Describer(str(folder), question="what", max_new_tokens=1)


def test_the_reference_sentence_has_a_place_for_the_prompt():
    with pytest.raises(ValueError, match=r"expected a sentence with \{prompt\} in it"):
        VlmAlignmentConfig(kind="vlm_alignment", model="m", encoder="e", reference="The image contains it")
