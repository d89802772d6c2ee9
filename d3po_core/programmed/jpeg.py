"""How well an image compresses: the published objective of DDPO and D3PO (JPEG size at quality 95)."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

__all__ = ["jpeg_compressibility", "jpeg_incompressibility", "jpeg_size_kb"]


def jpeg_size_kb(images_NhwC: np.ndarray) -> np.ndarray:
    """Size of each image as JPEG at quality 95 (Pillow's other defaults), in kB of 1000 bytes.

    Args:
        images_NhwC: [N, h, w, 3] uint8 RGB.

    Returns:
        [N] float64.
    """
    if images_NhwC.dtype != np.uint8 or images_NhwC.ndim != 4 or images_NhwC.shape[-1] != 3:
        raise ValueError(f"Expected uint8 images [N, h, w, 3], found {images_NhwC.dtype} {images_NhwC.shape}.")
    sizes = []
    for image in images_NhwC:
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
        sizes.append(buffer.tell() / 1000)
    return np.asarray(sizes, dtype=np.float64)


def jpeg_compressibility(images_NhwC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """−kB: the smaller file is the better image. The prompts are not looked at."""
    return -jpeg_size_kb(images_NhwC)


def jpeg_incompressibility(images_NhwC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """kB: the larger file is the better image. The prompts are not looked at."""
    return jpeg_size_kb(images_NhwC)
