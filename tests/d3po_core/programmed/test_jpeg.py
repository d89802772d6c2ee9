"""JPEG size, in kB of 1000 bytes at quality 95."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from d3po_core.programmed import OBJECTIVES, jpeg_size_kb


def test_size_is_the_files_in_thousands_of_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    plain = np.full((1, 64, 64, 3), 128, dtype=np.uint8)
    images = np.concatenate([noise, plain])
    sizes = jpeg_size_kb(images)
    assert sizes.dtype == np.float64
    for image, size in zip(images, sizes, strict=True):
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        assert size == len(buffer.getvalue()) / 1000
    assert sizes[2] < 1 < sizes[0]


def test_higher_is_better_in_both_directions() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    images = np.concatenate([noise, np.zeros_like(noise)])
    compressible, incompressible = (
        OBJECTIVES[name](images, ["", ""]) for name in ("jpeg_compressibility", "jpeg_incompressibility")
    )
    assert compressible[1] > compressible[0]
    assert incompressible[0] > incompressible[1]
    assert np.array_equal(compressible, -incompressible)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="float32"):
        jpeg_size_kb(np.zeros((1, 8, 8, 3), dtype=np.float32))
