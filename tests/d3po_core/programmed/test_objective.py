"""Values are checked in one place: as many as images, finite numbers; otherwise the objective and the image are named."""

from collections.abc import Callable

import numpy as np
import pytest

from d3po_core.errors import ObjectiveError
from d3po_core.programmed import ProgrammedObjective

IMAGES = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
PROMPTS = [f"prompt {number}" for number in range(5)]


def objective(function: Callable, batch_size: int | None = None) -> ProgrammedObjective:
    return ProgrammedObjective(function, "levels", "brightness", batch_size)


def test_values_are_float64_in_the_images_order_whatever_the_batches():
    seen: list[tuple[int, str]] = []

    def brightness(images, prompts):
        seen.append((len(images), prompts[0]))
        return [float(image.mean()) for image in images]

    values = objective(brightness, batch_size=2)(IMAGES, PROMPTS)
    assert values.dtype == np.float64
    assert values.tolist() == [0, 1, 2, 3, 4]
    assert seen == [(2, "prompt 0"), (2, "prompt 2"), (1, "prompt 4")]
    assert objective(brightness)(IMAGES, PROMPTS).tolist() == [0, 1, 2, 3, 4]
    assert objective(brightness)(IMAGES[:0], []).tolist() == []


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda images, prompts: [1.0], r"brightness gave values of shape \[1\] for images a … e, expected \[5\]"),
        (lambda images, prompts: np.ones((5, 1)), r"shape \[5, 1\]"),
        (lambda images, prompts: None, r"shape \[\]"),
        (lambda images, prompts: ["dark"] * 5, r"brightness gave no numbers for images a … e: found \['dark'"),
        (lambda images, prompts: [0, 1, float("nan"), 3, 4], r"brightness gave nan for image c \('prompt 2'\)"),
        (lambda images, prompts: [0, 1, 2, 3, float("inf")], r"brightness gave inf for image e \('prompt 4'\)"),
        (lambda images, prompts: 1 / 0, "brightness failed for images a … e: ZeroDivisionError"),
    ],
)
def test_anything_else_is_an_error_that_says_what_to_do(function: Callable, said: str):
    with pytest.raises(ObjectiveError, match=said) as caught:
        objective(function)(IMAGES, PROMPTS, list("abcde"))
    assert "next: " in str(caught.value)


def test_an_image_without_a_name_is_named_by_its_number():
    with pytest.raises(ObjectiveError, match="nan for image 3 "):
        objective(lambda images, prompts: np.where(images[:, 0, 0, 0] == 3, np.nan, 0.0), batch_size=2)(IMAGES, PROMPTS)


def test_every_image_has_a_prompt():
    with pytest.raises(ValueError, match="a prompt for each of 5 images, found 4"):
        objective(lambda images, prompts: [0.0] * len(images))(IMAGES, PROMPTS[:4])
