"""Tools: rigid shapes by their signed distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfo.sim.trace import maximum, minimum, select, sqrt

__all__ = ["Distance", "Shape", "box", "box_shell", "capsule", "rounded_box", "sphere"]

EPSILON = 1e-12  # [m²], keeps the square root differentiable where a box does not need it

Distance = Callable[[Any, Any], Any]
"""(point in the tool's frame [m], its four figures) → signed distance [m], negative inside.

Outside it must not change by more than the point moves: what lies far from the middle of some nodes is not measured to
each of them.
"""


@dataclass(frozen=True)
class Shape:
    """A rigid shape in its own frame.

    Attributes:
        figures: Half extents (x, y, z) and radius or thickness [m].
        distance: Signed distance; all tools of an engine share one.
    """

    figures: tuple[float, float, float, float]
    distance: Distance


def rounded_box(point: Any, figures: Any) -> Any:
    """Distance to a box with half extents `figures[:3]`, grown by the radius `figures[3]`.

    Without half extents it is a sphere, with one a capsule, without a radius a box: one law for all of them.
    """
    return _box_distance(abs(point) - figures[:3]) - figures[3]


def open_box(point: Any, figures: Any) -> Any:
    """Distance to the walls of a box that is open above.

    `figures` are the half extents of the hollow and the walls' thickness. Inside the walls the distance is that of the
    hollow, whatever lies nearer: matter stops up to one and a half grid cells deep in a wall, and a normal that turned
    outward half-way would let it through.
    """
    half, wall = figures[:3], figures[3]
    over = abs(point) - half
    hollow = -_box_distance(np.array([over[0], -half[1] - point[1], over[2]]))
    centred = point + wall * np.array([0.0, 0.5, 0.0])
    outer = _box_distance(abs(centred) - (half + wall * np.array([1.0, 0.5, 1.0])))
    return select(outer, maximum(outer, hollow), hollow)


def _box_distance(beyond: Any) -> Any:
    """Distance to a box, given how far a point lies beyond each pair of its faces.

    Beyond one pair only it is that distance itself: a root of a square that is kept from zero would lose its slope, and
    with it the normal, within a micrometre of the face.
    """
    x, y, z = beyond
    less, more = minimum(x, y), maximum(x, y)
    greatest, middle = maximum(more, z), maximum(less, minimum(more, z))
    outside = maximum(beyond, 0.0)
    return select(middle, sqrt((outside * outside).sum() + EPSILON), greatest)


def sphere(radius: float) -> Shape:
    """A sphere [m]."""
    return Shape((0.0, 0.0, 0.0, radius), rounded_box)


def capsule(radius: float, length: float) -> Shape:
    """A capsule along z: a cylinder of `length` with a half sphere on either end [m]."""
    return Shape((0.0, 0.0, 0.5 * length, radius), rounded_box)


def box(size: tuple[float, float, float], radius: float = 0.0) -> Shape:
    """A box of `size`, its edges rounded by `radius` within it [m]."""
    x, y, z = (0.5 * s - radius for s in size)
    return Shape((x, y, z, radius), rounded_box)


def box_shell(size: tuple[float, float, float], wall: float) -> Shape:
    """A box with a hollow of `size`, open above (+y), with walls and a bottom of thickness `wall` [m]."""
    return Shape((0.5 * size[0], 0.5 * size[1], 0.5 * size[2], wall), open_box)
