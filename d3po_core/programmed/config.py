"""What a run may name beside the built-in objectives: one small section a kind. Importing this module imports no torch.

Every field is ``free``: paths, batch sizes and deadlines belong to the machine, and a judgement, once it is pulled, is
frozen with the definition that gave it.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from d3po_core.config import Dtype, Section, frozen_by

__all__ = [
    "AestheticConfig",
    "ClipScoreConfig",
    "CommandConfig",
    "PickScoreConfig",
    "ProgrammedConfig",
    "PythonConfig",
    "VlmAlignmentConfig",
    "kinds",
]

TARGET = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


class _Kind(Section):
    batch_size: int = frozen_by("free", 16, ge=1)
    """Images that are looked at together."""


class _ClipConfig(_Kind):
    model: str = frozen_by("free")
    """The CLIP model: a folder as transformers saves it, or a hub id."""
    revision: str | None = frozen_by("free", None)
    """The hub revision (commit) to load; a folder has none."""
    dtype: Dtype = frozen_by("free", "float32")
    """Weights and arithmetic of the networks."""


class AestheticConfig(_ClipConfig):
    kind: Literal["aesthetic"] = frozen_by("free")
    """LAION's aesthetic predictor on CLIP ViT-L/14."""
    head: str = frozen_by("free")
    """Its head as a safetensors file: one linear layer, or the chain of them that DDPO and D3PO used."""


class ClipScoreConfig(_ClipConfig):
    kind: Literal["clip_score"] = frozen_by("free")
    """How near picture and prompt are to CLIP."""


class PickScoreConfig(_ClipConfig):
    kind: Literal["pick_score"] = frozen_by("free")
    """PickScore: CLIP-H fine-tuned on people's choices."""
    processor: str | None = frozen_by("free", None)
    """Where tokenizer and image processor are, a folder or a hub id; empty: with the model. The published model has
    them elsewhere: ``laion/CLIP-ViT-H-14-laion2B-s32B-b79K``."""


class VlmAlignmentConfig(_Kind):
    kind: Literal["vlm_alignment"] = frozen_by("free")
    """DDPO's prompt alignment: BERTScore's recall of the prompt in a description of the picture."""
    model: str = frozen_by("free")
    """The vision-language model that describes: a folder as transformers saves it, or a hub id."""
    revision: str | None = frozen_by("free", None)
    """The hub revision (commit) to load; a folder has none."""
    dtype: Dtype = frozen_by("free", "float32")
    """Weights and arithmetic of the networks."""
    question: str = frozen_by("free", "Answer concisely: what is going on in this image?", min_length=1)
    """What it is asked, once for each picture."""
    max_new_tokens: int = frozen_by("free", 64, ge=1)
    """Where its answer is cut off."""
    reference: str = frozen_by("free", "The image contains {prompt}")
    """The sentence whose recall in the answer is the value; ``{prompt}`` is the prompt."""
    encoder: str = frozen_by("free")
    """BERTScore's text encoder (BERT, RoBERTa, DeBERTa …): a folder as transformers saves it, or a hub id."""
    encoder_revision: str | None = frozen_by("free", None)
    """The hub revision (commit) of the encoder."""
    encoder_layer: int | None = frozen_by("free", None, ge=0)
    """Which layer's output the tokens are compared by; 0 is the embedding, empty the last layer."""

    @model_validator(mode="after")
    def _has_a_place_for_the_prompt(self) -> "VlmAlignmentConfig":
        if "{prompt}" not in self.reference:
            raise ValueError(f"reference is {self.reference!r}, expected a sentence with {{prompt}} in it")
        return self


class PythonConfig(_Kind):
    kind: Literal["python"] = frozen_by("free")
    """A function of one's own, in this process."""
    target: str = frozen_by("free")
    """``module:function``; the module is installed, or lies in the folder that d3po is run in. The function is given
    images, [N, height, width, 3] uint8, and N prompts, and returns N numbers."""
    unit: str = frozen_by("free", "")
    """What the values are, for people."""

    @field_validator("target")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        if not re.fullmatch(TARGET, value):
            raise ValueError("expected module:function, e.g. my_objectives:redness")
        return value


class CommandConfig(_Kind):
    kind: Literal["command"] = frozen_by("free")
    """A program of one's own, in an environment of its own: JSON lines in, JSON lines out."""
    command: tuple[str, ...] = frozen_by("free", min_length=1)
    """The program and its arguments, as a list; no shell reads it."""
    timeout: float = frozen_by("free", 600.0, gt=0)
    """Seconds for one batch; the first has the program's start in it."""
    unit: str = frozen_by("free", "")
    """What the values are, for people."""


ProgrammedConfig = Annotated[
    AestheticConfig | ClipScoreConfig | PickScoreConfig | VlmAlignmentConfig | PythonConfig | CommandConfig,
    Field(discriminator="kind"),
]


def kinds() -> dict[str, type[Section]]:
    """Each kind's name with its section, for tables of fields."""
    sections: tuple[type[Section], ...] = (
        AestheticConfig, ClipScoreConfig, PickScoreConfig, VlmAlignmentConfig, PythonConfig, CommandConfig,
    )  # fmt: skip
    return {section.model_fields["kind"].annotation.__args__[0]: section for section in sections}  # type: ignore[union-attr]
