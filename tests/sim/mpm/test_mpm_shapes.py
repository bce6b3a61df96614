"""Distances of tools, as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from rfo.sim.mpm import Shape, box, box_shell, capsule, sphere
from rfo.sim.mpm.shapes import EPSILON

SHAPES = {
    "sphere": (sphere(0.1), (0.0, 0.1, 0.0), (0.0, 1.0, 0.0)),
    "capsule": (capsule(0.1, 0.4), (0.1, 0.0, 0.05), (1.0, 0.0, 0.0)),
    "box": (box((0.2, 0.1, 0.3)), (0.03, 0.05, -0.02), (0.0, 1.0, 0.0)),
    "rounded box": (box((0.2, 0.1, 0.3), radius=0.02), (0.1, 0.01, -0.02), (1.0, 0.0, 0.0)),
    "its core": (box((0.2, 0.1, 0.3), radius=0.02), (0.08, 0.01, -0.02), (1.0, 0.0, 0.0)),
    "hollow of a shell": (box_shell((0.2, 0.1, 0.3), 0.02), (0.1, 0.01, -0.02), (-1.0, 0.0, 0.0)),
    "bottom of a shell": (box_shell((0.2, 0.1, 0.3), 0.02), (0.03, -0.05, -0.02), (0.0, 1.0, 0.0)),
    "outside of a shell": (box_shell((0.2, 0.1, 0.3), 0.02), (0.122, 0.01, -0.02), (1.0, 0.0, 0.0)),
}
"""A shape, a point on a face (of a shell's outside near it: behind it the hollow counts), and where distance grows."""


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-6, 1e-7, -1e-7, -1e-6, -1e-5, -1e-3])
def test_distance_grows_as_far_as_a_point_moves(name: str, step: float) -> None:
    """At a face the normal is as long as elsewhere, however near a node lies: no hole in the contact."""
    shape, point, normal = SHAPES[name]
    here = _distance(shape, np.array(point))
    moved = _distance(shape, np.array(point) + step * np.array(normal))
    assert moved - here == pytest.approx(step, rel=1e-6, abs=1e-13)


def test_distance_is_the_same_from_both_sides_of_a_corner_s_region() -> None:
    """Where a point comes to lie beyond a second pair of faces, nothing jumps."""
    shape = box((0.2, 0.1, 0.3))
    for beyond in (1e-4, 1e-2):
        along = [_distance(shape, np.array([0.1 + beyond, 0.05 + s * 1e-9, 0.0])) for s in (-1.0, 1.0)]
        assert along[1] == pytest.approx(along[0], abs=EPSILON / beyond)
    assert _distance(shape, np.array([0.13, 0.09, 0.0])) == pytest.approx(0.05, rel=1e-8)


def _distance(shape: Shape, point: np.ndarray) -> float:
    return float(shape.distance(point, np.array(shape.figures)))
