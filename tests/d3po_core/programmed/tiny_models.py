"""The architectures of the learned objectives, built small with random weights and saved as transformers saves them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.d3po_core.tiny import write_tokenizer

PIXELS = 16
WIDTH = 8
"""Of CLIP's common space."""
WORDS = ("the", "image", "contains", "a", "red", "square", "blue", "circle", "two", "dots", "and", "of", "what", "is")


def build_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel with its processor: images of 16 × 16, two layers each side, D = 8."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(folder / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **small, "vocab_size": vocabulary, "max_position_embeddings": 16,
            "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1,
        },
        vision_config={**small, "image_size": PIXELS, "patch_size": 8},
        projection_dim=WIDTH,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(_image_processor(), CLIPTokenizer.from_pretrained(folder / "tokenizer")).save_pretrained(folder)
    return folder


def build_roberta(folder: Path, seed: int = 0) -> Path:
    """A RobertaModel of three layers whose tokens are the words above."""
    torch.manual_seed(seed)
    tokenizer = _words("<s>", "</s>")
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=40, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_llava(folder: Path, seed: int = 11, template: bool = True) -> Path:
    """LLaVA: CLIP's eyes, Llama's mouth, one image token for each of four patches. Of this seed it says words."""
    torch.manual_seed(seed)
    tokenizer = _words("<s>", "</s>", "<image>")
    small: dict = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small["initializer_range"] = 1.0  # so that it says of different pictures different things
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=PIXELS, patch_size=8),
        text_config=LlamaConfig(
            **small, vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        _image_processor(),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template="{% for part in messages[0]['content'] %}{{ '<image> ' if part['type'] == 'image' else part['text'] }}"
        "{% endfor %}"
        if template
        else None,
    ).save_pretrained(folder)
    return folder


def _image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}, do_resize=True
    )


def _words(begin: str, end: str, *more: str) -> PreTrainedTokenizerFast:
    """One token a word, with marks at both ends."""
    tokens = [begin, "<pad>", end, "<unk>", *more, *WORDS]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, 0), (end, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=begin, eos_token=end, cls_token=begin, sep_token=end, pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=list(more), model_max_length=32,
    )  # fmt: skip
