"""Prompt embeddings in zarr, once per prompt: write them, read the wanted ones back.

Letters: n prompts, L prompt tokens, D text width. One chunk is one prompt's embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from storage.digests import content_digest, merge_digests
from storage.errors import CorruptDataError, MissingDataError
from storage.layout import PROMPTS_FILE, remedy_for
from storage.zarr_arrays import open_array, open_group, read_array, texts, write_array

__all__ = ["PROMPTS_FORMAT", "StoredPrompts", "write_prompts"]

PROMPTS_FORMAT = "d3po-prompts/1"


def write_prompts(path: Path, prompts: Sequence[str], embeds: NDArray[Any]) -> dict[str, str]:
    """Write prompt embeddings, once per prompt, into a folder.

    Args:
        path: An attempt's folder.
        prompts: [n] different prompts; ``""`` is the unconditional one.
        embeds: [n, L, D] float32.

    Returns:
        ``embeddings``: the digest of what was computed, whatever the order of the prompts.

    Raises:
        ValueError: Prompts repeat, shapes do not fit, or a value is not finite.
    """
    if len(set(prompts)) != len(prompts) or not prompts:
        raise ValueError(f"Expected one or more different prompts, got {list(prompts)}")
    if embeds.dtype != np.float32 or embeds.ndim != 3 or len(embeds) != len(prompts):
        raise ValueError(f"embeds are [{len(prompts)}, L, D] float32, got {embeds.shape} {embeds.dtype}")
    if not np.isfinite(embeds).all():
        raise ValueError("Prompt embeddings are finite; got NaN or infinity")
    group = zarr.create_group(path / PROMPTS_FILE, attributes={"format": PROMPTS_FORMAT, "prompts": list(prompts)})
    write_array(group, "embeds", embeds, ("prompt", "token", "feature"), np.nan, per_row=True)
    digests = {
        prompt: content_digest({"prompt": prompt, "embeds": row}) for prompt, row in zip(prompts, embeds, strict=True)
    }
    return {"embeddings": merge_digests(digests)}


class StoredPrompts:
    """Prompt embeddings that are opened once and read often.

    Args:
        path: The folder of the prompts' commit.

    Raises:
        MissingDataError: A file is gone.
        CorruptDataError: The parts do not fit each other.
        UnknownFormatError: Another version of the programme wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        group = open_group(path / PROMPTS_FILE, PROMPTS_FORMAT)
        self._embeds = open_array(group, "embeds")
        self._row_of = {prompt: row for row, prompt in enumerate(texts(group, "prompts"))}
        if self._embeds.ndim != 3 or len(self._row_of) != self._embeds.shape[0]:
            raise CorruptDataError(
                f"{path / PROMPTS_FILE} has {len(self._row_of)} prompts and embeddings {self._embeds.shape}; expected "
                "one [L, D] for each",
                remedy_for(path),
            )

    @property
    def bytes_each(self) -> int:
        """Of one prompt's embedding."""
        return int(self._embeds.nbytes) // len(self._row_of)

    def read(self, wanted: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Embeddings, [L, D] float32 by prompt.

        Args:
            wanted: Different prompts; all of them by default.

        Raises:
            MissingDataError: A prompt is not there, or the file is gone.
            CorruptDataError: A chunk's checksum is wrong, or a value is not finite.
        """
        prompts = list(self._row_of if wanted is None else wanted)
        if unknown := [prompt for prompt in prompts if prompt not in self._row_of]:
            raise MissingDataError(
                f"{self._path} has no embedding of {unknown[:3]}; it has {len(self._row_of)} prompts",
                remedy_for(self._path),
            )
        embeds = read_array(self._embeds, None if wanted is None else [self._row_of[prompt] for prompt in prompts])
        finite = np.isfinite(embeds).all(axis=(1, 2))
        if not finite.all():
            raise CorruptDataError(
                f"{self._path / PROMPTS_FILE}: of {len(prompts)} embeddings {int(finite.sum())} are finite",
                remedy_for(self._path),
            )
        return dict(zip(prompts, embeds, strict=True))
