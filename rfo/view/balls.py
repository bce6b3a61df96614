"""Balls to fragments: each is a disc in the picture, shaded and hidden as the sphere it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rfo.core.scene import SceneBalls
from rfo.view.camera import Camera
from rfo.view.fragments import Fragments, frontmost

__all__ = ["Discs", "proxies", "rasterise_balls"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]

# Directions to the corners of an octahedron, and its faces seen from outside.
_CORNERS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=np.float64)
_FACES = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])


@dataclass(frozen=True)
class Discs:
    """Balls as a camera sees them.

    Attributes:
        center: In the picture, x right and y down in samples, shape [B, 2].
        radius: In samples, shape [B].
        depth: Of the centres along the view axis [m], shape [B].
        position: Centres [m], shape [B, 3].
        size: Radii [m], shape [B].
        color: Linear RGB, shape [B, 3].
        axes: The camera's right, up and backward directions, shape [3, 3].
    """

    center: FloatArray
    radius: FloatArray
    depth: FloatArray
    position: FloatArray
    size: FloatArray
    color: FloatArray
    axes: FloatArray

    @classmethod
    def seen(cls, balls: SceneBalls, camera: Camera, width: int, height: int, n: int, near: float) -> Discs:
        """The balls that a picture of `width` x `height` pixels with n x n samples each may show."""
        center, depth = camera.project(balls.centers, width, height)
        safe = np.maximum(depth, near)
        radius = balls.radius / (safe * camera.pixel_slope(height))
        seen = (depth - balls.radius > near) & (center + radius[:, None] > 0.0).all(axis=1)
        seen &= (center - radius[:, None] < [width, height]).all(axis=1)
        right, up, forward = camera.basis()
        size = np.full(int(seen.sum()), balls.radius)
        axes = np.stack([right, up, -forward])
        return cls(center[seen] * n, radius[seen] * n, depth[seen], balls.centers[seen], size, balls.colors[seen], axes)

    def moved(self, by: npt.NDArray[np.int64]) -> Discs:
        """The same in a picture whose first sample lies at `by`, shape [2]."""
        return Discs(self.center - by, self.radius, self.depth, self.position, self.size, self.color, self.axes)

    def surface(self, ball: npt.NDArray[np.int64], sample: npt.NDArray[np.int64], columns: int) -> SingleArray:
        """Position [m], normal and colour of points on the balls, shape [9, P]."""
        normal = self._normals(ball, sample % columns, sample // columns)
        position = self.position[ball] + self.size[ball, None] * normal
        return np.asarray(np.concatenate([position, normal, self.color[ball]], axis=1).T, dtype=np.float32)

    def _normals(
        self, ball: npt.NDArray[np.int64], column: npt.NDArray[np.int64], row: npt.NDArray[np.int64]
    ) -> FloatArray:
        across = np.stack([column + 0.5, row + 0.5], axis=1) - self.center[ball]
        across /= self.radius[ball, None]
        toward = np.sqrt(np.maximum(1.0 - (across**2).sum(axis=1), 0.0))
        return np.asarray(np.stack([across[:, 0], -across[:, 1], toward], axis=1) @ self.axes)


def rasterise_balls(discs: Discs, width: int, height: int) -> Fragments:
    """Finds the ball in front at each sample; `face` numbers the balls, `nearness` is the inverse depth.

    Args:
        discs: The balls.
        width: Samples per row.
        height: Rows.
    """
    x, y, r = discs.center[:, 0], discs.center[:, 1], discs.radius
    top = np.clip(np.ceil(y - r - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.ceil(y + r - 0.5), 0, height).astype(np.int64)
    rows = np.maximum(bottom - top, 0)
    ball = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(ball)) - np.repeat(np.cumsum(rows) - rows, rows) + top[ball]
    rise = row + 0.5 - y[ball]
    half = np.sqrt(np.maximum(r[ball] ** 2 - rise**2, 0.0))
    begin = np.clip(np.ceil(x[ball] - half - 0.5), 0, width).astype(np.int64)
    count = np.clip(np.ceil(x[ball] + half - 0.5), 0, width).astype(np.int64) - begin
    span = np.repeat(np.arange(len(count)), count)
    column = np.arange(len(span)) - (np.cumsum(count) - count)[span] + begin[span]
    squared = (rise[span] ** 2 + (column + 0.5 - x[ball[span]]) ** 2) / r[ball[span]] ** 2
    bulge = discs.size[ball[span]] * np.sqrt(np.maximum(1.0 - squared, 0.0))
    near = (1.0 / (discs.depth[ball[span]] - bulge)).astype(np.float32)
    return frontmost(row[span] * width + column, ball[span], near, width * height)


def proxies(balls: SceneBalls) -> FloatArray:
    """Triangles that block light as the balls do, nearly, shape [8 B, 3, 3]."""
    corners = balls.centers[:, None] + balls.radius * _CORNERS
    return np.asarray(corners[:, _FACES].reshape(-1, 3, 3))
