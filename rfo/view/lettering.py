"""Words in pictures: one font everywhere, and text as tables of coverage that can be laid on any surface."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["font", "lettering", "sample_lettering", "text_ratio"]

SingleArray = npt.NDArray[np.float32]


def sample_lettering(table: SingleArray, u: SingleArray, v: SingleArray) -> SingleArray:
    """Samples coverage bilinearly at coordinates in [0, 1], u to the right and v down; zero outside."""
    rows, columns = table.shape
    i = np.clip(v * rows - np.float32(0.5), 0.0, rows - 1.001)
    j = np.clip(u * columns - np.float32(0.5), 0.0, columns - 1.001)
    i0, j0 = i.astype(np.int32), j.astype(np.int32)
    i, j = i - i0, j - j0
    top = table[i0, j0] * (1 - j) + table[i0, j0 + 1] * j
    bottom = table[i0 + 1, j0] * (1 - j) + table[i0 + 1, j0 + 1] * j
    inside = (u > 0) & (u < 1) & (v > 0) & (v < 1)
    return np.asarray((top * (1 - i) + bottom * i) * inside, dtype=np.float32)


@lru_cache(maxsize=16)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns the sans-serif font that matplotlib brings along, so that pictures are the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


@lru_cache(maxsize=512)
def _master(text: str) -> Image.Image:
    box = font(96, bold=True).getbbox(text)
    image = Image.new("L", (int(box[2]) + 24, 112), 0)
    ImageDraw.Draw(image).text((12, -2), text, fill=255, font=font(96, bold=True))
    return image


def text_ratio(text: str) -> float:
    """Returns width over height of the text with its margins."""
    image = _master(text)
    return image.width / image.height


@lru_cache(maxsize=512)
def lettering(text: str, width: int, height: int) -> SingleArray:
    """Returns text as coverage in [0, 1] at about the size at which it is seen, so that sampling does not alias.

    Never larger than it is first drawn: seen from very near it is interpolated.
    """
    image = _master(text)
    image = image.resize((min(width, image.width), min(height, image.height)), Image.Resampling.LANCZOS)
    coverage: SingleArray = np.array(image, dtype=np.float32)
    coverage /= np.float32(255.0)
    return coverage
