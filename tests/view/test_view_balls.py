"""Balls: drawn as the spheres they stand for, and hidden by what is before them."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from rfo.core.errors import UsageError
from rfo.core.scene import Scene, SceneBalls, SceneMesh
from rfo.view.camera import Camera
from rfo.view.raster import render

CAMERA = Camera((0.8, 1.0, 3.0), (0.0, 0.3, 0.0))
RED, BLUE = (0.7, 0.05, 0.05), (0.05, 0.05, 0.7)


def balls(*centers: tuple[float, float, float], radius: float = 0.2, color: tuple[float, ...] = RED) -> SceneBalls:
    """Balls of one colour."""
    return SceneBalls(np.array(centers), radius, np.tile(color, (len(centers), 1)))


def sphere(center: tuple[float, float, float], radius: float = 0.2, color: tuple[float, ...] = RED) -> SceneMesh:
    """The same as a fine mesh."""
    shape = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    vertices = np.asarray(shape.vertices) + center
    return SceneMesh(vertices, np.asarray(shape.faces), np.tile(color, (len(vertices), 1)), True)


def picture(meshes: tuple[SceneMesh, ...], *some: SceneBalls) -> np.ndarray:
    """A small picture around (0, 0.3, 0)."""
    return render(Scene(meshes, np.array([0.0, 0.3, 0.0]), 0.6, some), CAMERA, 160, 90).astype(int)


def test_a_ball_looks_like_a_sphere() -> None:
    """Shading, outline and shadow are nearly those of a fine mesh."""
    difference = np.abs(picture((), balls((0.0, 0.4, 0.0))) - picture((sphere((0.0, 0.4, 0.0)),)))
    assert difference.mean() < 1.0
    assert np.quantile(difference, 0.99) < 16


def test_depth_decides_between_balls_and_meshes() -> None:
    """A red ball before a blue one, or before a blue mesh, is red in the middle; behind them it is not seen."""
    near, far = (0.2, 0.5, 0.8), (0.0, 0.3, 0.0)

    def red_minus_blue(image: np.ndarray) -> int:
        return int(image[45, 80, 0] - image[45, 80, 2])

    assert red_minus_blue(picture((), balls(far, color=BLUE), balls(near))) > 60
    assert red_minus_blue(picture((), balls(near, color=BLUE), balls(far))) < -60
    assert red_minus_blue(picture((sphere(far, color=BLUE),), balls(near))) > 60
    assert red_minus_blue(picture((sphere(near, color=BLUE),), balls(far))) < -60


def test_balls_outside_the_picture_are_left_out() -> None:
    """A ball behind the camera or far to the side changes nothing but shadows."""
    assert np.array_equal(picture((), balls((0.8, 1.0, 4.0))), picture((), balls((0.8, 1.0, 5.0))))


def test_malformed_balls_are_refused() -> None:
    """Colours for every ball, finite centres and a positive radius."""
    good = balls((0.0, 0.3, 0.0))
    for bad in (
        SceneBalls(good.centers, 0.0, good.colors),
        SceneBalls(good.centers * np.nan, 0.2, good.colors),
        SceneBalls(good.centers, 0.2, np.zeros((2, 3))),
    ):
        with pytest.raises(UsageError, match="balls 0"):
            picture((), bad)
