"""Pictures for people: contact sheets, before/after pairs, training curves; each as PNG bytes."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

__all__ = ["before_after", "contact_sheet", "differences", "training_curves"]

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


def before_after(before: np.ndarray, after: np.ndarray, prompts: Sequence[str], columns: int = 8) -> bytes:
    """The same prompts and the same noise: before above, after below, in bands."""
    bands = -(-len(prompts) // columns)
    height = 2 * CELL + CAPTION + 4
    sheet = _blank(columns, bands, height, left=52)
    draw = ImageDraw.Draw(sheet)
    for index, prompt in enumerate(prompts):
        band, column = divmod(index, columns)
        x, y = 52 + GAP + column * (CELL + GAP), GAP + band * (height + GAP)
        _place(sheet, before[index], x, y, "")
        _place(sheet, after[index], x, y + CELL + 4, prompt)
    for band in range(bands):
        y = GAP + band * (height + GAP)
        draw.text((4, y + CELL // 2), "before", fill="black", font=_font(12))
        draw.text((4, y + CELL + 4 + CELL // 2), "after", fill="black", font=_font(12))
    return _png(sheet)


def training_curves(metrics: pd.DataFrame) -> bytes:
    """Loss, implicit accuracy, margin and both log-ratios over the optimizer steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [
        ("loss", ["train/loss"]),
        ("implicit accuracy", ["train/implicit_acc"]),
        ("log-ratio, nats (mean over C, H, W)", ["train/logratio_preferred", "train/logratio_dispreferred"]),
        ("gradient norm", ["train/grad_norm"]),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), layout="constrained")
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            rows = metrics[metrics["name"] == name]
            axis.plot(rows["step"], rows["value"], label=name.partition("/")[2], marker=".")
        axis.set_title(title)
        axis.set_xlabel("optimizer step")
        if len(names) > 1:
            axis.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    plt.close(figure)
    return stream.getvalue()


def differences(panels: Mapping[str, Sequence[tuple[str, float, float]]]) -> bytes:
    """Panel -> (label, difference, standard error) of each bar: improvements side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tallest = max(len(bars) for bars in panels.values())
    figure, axes = plt.subplots(
        1, len(panels), figsize=(6 * len(panels), 1.2 + 0.6 * tallest), layout="constrained", squeeze=False
    )
    for axis, (title, bars) in zip(axes[0], panels.items(), strict=True):
        places = range(len(bars))
        axis.barh(places, [value for _, value, _ in bars], xerr=[2 * error for _, _, error in bars], color="#4878a8")
        axis.set_yticks(places, [label for label, _, _ in bars], fontsize=8)
        axis.invert_yaxis()
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(title)
        axis.set_xlabel("after − before, higher is better; bars: two standard errors")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    plt.close(figure)
    return stream.getvalue()


def _blank(columns: int, rows: int, height: int, left: int = 0) -> Image.Image:
    return Image.new("RGB", (left + GAP + columns * (CELL + GAP), GAP + rows * (height + GAP)), "white")


def _place(sheet: Image.Image, pixels: np.ndarray, x: int, y: int, caption: str) -> None:
    image = Image.fromarray(pixels)
    enlarge = Image.Resampling.NEAREST if image.width < CELL else Image.Resampling.LANCZOS
    sheet.paste(image.resize((CELL, CELL), enlarge), (x, y))
    draw, font = ImageDraw.Draw(sheet), _font(10)
    while caption and draw.textlength(caption, font=font) > CELL:
        caption = caption[:-2].rstrip("… ") + "…"
    draw.text((x, y + CELL + 2), caption, fill="black", font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
