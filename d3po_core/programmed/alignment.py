"""DDPO's prompt alignment: a vision-language model says what it sees, and the value is how much of the prompt is in that.

Source: DDPO (Black et al. 2023), Section 5.3: LLaVA's description, BERTScore's recall of the prompt.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from d3po_core.errors import ObjectiveError
from d3po_core.programmed.bert_score import TextEncoder
from d3po_core.programmed.pretrained import load_pretrained

__all__ = ["Describer", "vlm_alignment"]


class Describer:
    """A vision-language model that is asked one question about pictures; its likeliest words, so always the same."""

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        question: str,
        max_new_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load it.

        Args:
            model: a folder as transformers saves it, with a chat template, or a hub id.
            revision: the hub revision.
            question: what it is asked about each picture.
            max_new_tokens: where an answer is cut off.
            dtype: of weights and arithmetic.
            device: where it computes.

        Raises:
            ObjectiveError: it cannot be loaded, or has no chat template.
        """
        self.model = load_pretrained(AutoModelForImageTextToText, model, revision, dtype=dtype).to(device)
        self.processor = load_pretrained(AutoProcessor, model, revision)
        if getattr(self.processor, "chat_template", None) is None:
            raise ObjectiveError(
                f"model {model!r} has no chat template (chat_template.jinja), so it cannot be asked a question",
                "choose an instruction-tuned vision-language model",
            )
        self.processor.tokenizer.padding_side = "left"
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        self.asked = self.processor.apply_chat_template(asked, add_generation_prompt=True)
        self.max_new_tokens = max_new_tokens

    @torch.no_grad()
    def describe(self, images_NhwC: np.ndarray) -> list[str]:
        """What it says of each uint8 RGB image."""
        inputs = self.processor(
            images=[[Image.fromarray(image)] for image in images_NhwC],
            text=[self.asked] * len(images_NhwC),
            padding=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        said = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)
        new = said[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]


def vlm_alignment(
    describer: Describer, encoder: TextEncoder, reference: str, images_NhwC: np.ndarray, prompts: Sequence[str]
) -> np.ndarray:
    """[N] in −1 … 1: BERTScore's recall of the prompt, set into ``reference``, in the description."""
    wanted = [reference.replace("{prompt}", prompt) for prompt in prompts]
    return np.array(encoder.recall(wanted, describer.describe(images_NhwC)))
