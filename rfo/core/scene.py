"""What a task hands to a renderer: triangle meshes and balls, nothing of the engine that moved them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Scene", "SceneBalls", "SceneMesh"]


@dataclass(frozen=True)
class SceneMesh:
    """One triangle mesh.

    Attributes:
        vertices: Vertex positions [m], shape [vertex_count, 3].
        faces: Vertex indices, counter-clockwise seen from outside, shape [face_count, 3].
        colors: Linear RGB in [0, 1], one per vertex, shape [vertex_count, 3].
        smooth: Interpolate normals over the surface (True) or shade each face flat (False).
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]
    colors: npt.NDArray[np.float64]
    smooth: bool = False


@dataclass(frozen=True)
class SceneBalls:
    """Balls of one radius, such as the particles of a fluid.

    Attributes:
        centers: Positions [m], shape [ball_count, 3].
        radius: [m].
        colors: Linear RGB in [0, 1], shape [ball_count, 3].
    """

    centers: npt.NDArray[np.float64]
    radius: float
    colors: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """The picture of one environment at one instant, y up, ground at y = 0.

    Attributes:
        meshes: Everything to draw, the ground excepted.
        focus: Point that the camera follows [m], shape [3].
        extent: Radius of what should fill the picture [m].
        balls: Balls to draw besides the meshes.
    """

    meshes: tuple[SceneMesh, ...]
    focus: npt.NDArray[np.float64]
    extent: float
    balls: tuple[SceneBalls, ...] = ()
