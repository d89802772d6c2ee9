"""Pictures for people: contact sheets, the same prompts side by side; each as PNG bytes."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["contact_sheet", "png", "side_by_side"]

CELL = 128
"""Pixels of an image on a sheet; smaller ones are enlarged with hard edges."""
GAP = 6
CAPTION = 16


def contact_sheet(images: Sequence[np.ndarray], captions: Sequence[str], columns: int = 8) -> bytes:
    """Images in a grid, each with its caption below."""
    rows = -(-len(images) // columns)
    sheet = _blank(columns, rows, CELL + CAPTION)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        _place(sheet, image, GAP + column * (CELL + GAP), GAP + row * (CELL + CAPTION + GAP), caption)
    return _png(sheet)


def side_by_side(rows: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str], columns: int = 8) -> bytes:
    """The same prompts and the same noise below each other, a row for each name (``before``, ``after``), in bands.

    Args:
        rows: Name → [N] images, each [height, width, 3] uint8.
        captions: [N] what stands below the last row's image.
        columns: Images side by side in a band.
    """
    columns = min(columns, len(captions))
    bands, left = -(-len(captions) // columns), 52
    height = len(rows) * (CELL + 4) + CAPTION
    sheet = _blank(columns, bands, height, left=left)
    draw = ImageDraw.Draw(sheet)
    for band in range(bands):
        top = GAP + band * (height + GAP)
        for row, (name, images) in enumerate(rows.items()):
            y, last = top + row * (CELL + 4), row + 1 == len(rows)
            draw.text((4, y + CELL // 2), _shortened(draw, name, left - 6, 12), fill="black", font=_font(12))
            for column, index in enumerate(range(band * columns, min(len(captions), (band + 1) * columns))):
                caption = captions[index] if last else ""
                _place(sheet, images[index], left + GAP + column * (CELL + GAP), y, caption)
    return _png(sheet)


def _blank(columns: int, rows: int, height: int, left: int = 0) -> Image.Image:
    return Image.new("RGB", (left + GAP + columns * (CELL + GAP), GAP + rows * (height + GAP)), "white")


def _place(sheet: Image.Image, pixels: np.ndarray, x: int, y: int, caption: str) -> None:
    image = Image.fromarray(pixels)
    enlarge = Image.Resampling.NEAREST if image.width < CELL else Image.Resampling.LANCZOS
    sheet.paste(image.resize((CELL, CELL), enlarge), (x, y))
    draw = ImageDraw.Draw(sheet)
    draw.text((x, y + CELL + 2), _shortened(draw, caption, CELL, 10), fill="black", font=_font(10))


def _shortened(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """As much of a text as fits into so many pixels."""
    while text and draw.textlength(text, font=_font(size)) > width:
        text = text[:-2].rstrip("… ") + "…"
    return text


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def png(pixels: np.ndarray) -> bytes:
    """An image's file, without loss."""
    return _png(Image.fromarray(pixels))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
