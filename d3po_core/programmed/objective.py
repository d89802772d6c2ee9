"""What every programmed objective is: a function of images and prompts, whose values are checked in this one place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from d3po_core.errors import ObjectiveError

__all__ = ["ProgrammedObjective"]


@dataclass(frozen=True, slots=True)
class ProgrammedObjective:
    """A function of images and prompts; higher is better."""

    function: Callable[[np.ndarray, Sequence[str]], Sequence[float] | np.ndarray]
    unit: str
    """What its values are, for people."""
    name: str = "programmed objective"
    """What it is called in a configuration and in errors."""
    batch_size: int | None = None
    """Images that the function is given at once; None: all of them."""

    def __call__(self, images_NhwC: np.ndarray, prompts: Sequence[str], ids: Sequence[str] | None = None) -> np.ndarray:
        """Values of images, one batch after the other.

        Args:
            images_NhwC: [N, h, w, 3] uint8 RGB.
            prompts: their N prompts.
            ids: what the images are called in errors; their numbers if empty.

        Returns:
            [N] float64, all finite.

        Raises:
            ObjectiveError: the function failed, or gave another number of values, or one that is no finite number; it
                names the objective and the image.
            ValueError: there are not as many prompts as images.
        """
        if len(prompts) != len(images_NhwC):
            raise ValueError(
                f"{self.name}: expected a prompt for each of {len(images_NhwC)} images, found {len(prompts)}."
            )
        names = list(ids) if ids is not None else [f"{number}" for number in range(len(prompts))]
        size = self.batch_size or max(len(prompts), 1)
        batches = [slice(start, start + size) for start in range(0, len(prompts), size)]
        values = [self._batch(images_NhwC[part], prompts[part], names[part]) for part in batches]
        return np.concatenate(values) if values else np.zeros(0)

    def _batch(self, images_NhwC: np.ndarray, prompts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        shown = f"image {names[0]}" if len(names) == 1 else f"images {names[0]} … {names[-1]}"
        try:
            given = self.function(images_NhwC, prompts)
        except ObjectiveError:
            raise
        except Exception as problem:
            raise ObjectiveError(
                f"the objective {self.name} failed for {shown}: {type(problem).__name__}: {problem}"
            ) from problem
        try:
            values = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError):
            raise ObjectiveError(
                f"the objective {self.name} gave no numbers for {shown}: found {_short(given)}"
            ) from None
        if values.shape != (len(names),):
            raise ObjectiveError(
                f"the objective {self.name} gave values of shape {list(values.shape)} for {shown}, "
                f"expected [{len(names)}]: one number an image"
            )
        for name, prompt, value in zip(names, prompts, values, strict=True):
            if not np.isfinite(value):
                raise ObjectiveError(
                    f"the objective {self.name} gave {value} for image {name} ({prompt!r}), expected a finite number"
                )
        return values


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} …"
