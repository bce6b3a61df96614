"""Colours of the pictures: body tones and the diverging map that shows muscle activation.

Every colour handed to a mesh is linear RGB; the constants are written in sRGB, as a designer picks them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["BODY", "BODY_DARK", "PROP", "SERIES", "activation_color", "linear_from_srgb", "srgb_from_linear"]

FloatArray = npt.NDArray[np.float64]


def linear_from_srgb(srgb: npt.ArrayLike) -> FloatArray:
    """Converts sRGB in [0, 1] to linear RGB (IEC 61966-2-1), any shape."""
    value = np.asarray(srgb, dtype=np.float64)
    return np.where(value <= 0.04045, value / 12.92, ((np.maximum(value, 0.0) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: npt.ArrayLike) -> FloatArray:
    """Converts linear RGB to sRGB in [0, 1], clipped, any shape."""
    value = np.clip(np.asarray(linear, dtype=np.float64), 0.0, 1.0)
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1.0 / 2.4) - 0.055)


def _hex(code: str) -> FloatArray:
    return linear_from_srgb([int(code[i : i + 2], 16) / 255.0 for i in (0, 2, 4)])


BODY: Final = _hex("E2C4A2")
"""Warm sand: passive tissue, torsos. Linear RGB, shape [3]."""

BODY_DARK: Final = _hex("8C7B6B")
"""Umber: secondary parts. Linear RGB, shape [3]."""

PROP: Final = _hex("7E8FA6")
"""Slate: tools, rails and obstacles. Linear RGB, shape [3]."""

SERIES: Final = ("#D1495B", "#1F7A8C", "#E0A030", "#6C5B7B", "#4F8A5B", "#8C6A4F", "#3D5A99", "#9A9A9A")
"""Line colours of the plots, sRGB, in the order in which they are used."""

# Activation at which each tone stands: extension, rest, contraction.
_STOPS: Final = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
_TONES: Final = np.stack([_hex("0E86A8"), _hex("58B0C0"), _hex("C4BDB4"), _hex("F0935F"), _hex("E5402F")])


def activation_color(activation: npt.ArrayLike) -> FloatArray:
    """Colours muscle activation: teal when it extends, a cool grey at rest, vermilion when it contracts.

    Args:
        activation: Values in [-1, 1] (clipped), any shape [...].

    Returns:
        Linear RGB, shape [..., 3].
    """
    value = np.clip(np.asarray(activation, dtype=np.float64), -1.0, 1.0)
    return np.stack([np.interp(value, _STOPS, _TONES[:, channel]) for channel in range(3)], axis=-1)
