"""BERTScore's recall: how much of a reference sentence is found again in a candidate, token by token.

Source: Zhang et al. 2020, BERTScore, Equation 1, without idf weights and without rescaling. Its own package is not
depended on: it is unmaintained, its ways to load an encoder go by a table of names and the hub, and the one number that
is wanted here is the ten lines of ``token_recall``.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, GPT2Tokenizer, RobertaTokenizer

from d3po_core.programmed.pretrained import load_pretrained

__all__ = ["TextEncoder", "token_recall"]


def token_recall(reference_RD: torch.Tensor, counted_R: torch.Tensor, candidate_CD: torch.Tensor) -> float:
    """The mean over the reference's counted tokens of the largest cosine with any token of the candidate.

    Args:
        reference_RD: [R, D] the reference's tokens.
        counted_R: [R] bool, which of them count: not the marks at beginning and end.
        candidate_CD: [C, D] the candidate's tokens, with the marks, as the published code has it.

    Returns:
        In −1 … 1.
    """
    cosines_RC = functional.normalize(reference_RD, dim=-1) @ functional.normalize(candidate_CD, dim=-1).T
    return cosines_RC.max(dim=1).values[counted_R].double().mean().item()


class TextEncoder:
    """Contextual token vectors of sentences, by one layer of a text encoder."""

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        layer: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load it.

        Args:
            model: a folder as transformers saves it, or a hub id.
            revision: the hub revision.
            layer: the layer whose output is taken, 0 the embedding; None: the last.
            dtype: of weights and arithmetic.
            device: where it computes.

        Raises:
            ObjectiveError: it cannot be loaded.
        """
        self.model = load_pretrained(AutoModel, model, revision, dtype=dtype).to(device)
        self.tokenizer = load_pretrained(AutoTokenizer, model, revision)
        self.layer = -1 if layer is None else layer

    def recall(self, references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        """Of each reference in its candidate; an empty candidate recalls nothing: 0."""
        pairs = zip(self._tokens(references), self._tokens(candidates), candidates, strict=True)
        return [
            token_recall(reference, counted, candidate) if text.strip() else 0.0
            for (reference, counted), (candidate, _), text in pairs
        ]

    @torch.no_grad()
    def _tokens(self, texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each text's [tokens, D] float32 vectors, and which are no marks."""
        # These read a word at the beginning as they read one within a sentence only where a space stands before it.
        space = " " if isinstance(self.tokenizer, (RobertaTokenizer, GPT2Tokenizer)) else ""
        encoded = self.tokenizer(
            [space + text.strip() for text in texts],
            padding=True,
            truncation=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        marks = encoded.pop("special_tokens_mask").bool()
        hidden = self.model(**encoded, output_hidden_states=True).hidden_states[self.layer].float()
        present = encoded["attention_mask"].bool()
        return [(row[here], ~mark[here]) for row, here, mark in zip(hidden, present, marks, strict=True)]
