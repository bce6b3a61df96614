"""Where a scene is seen from: a pinhole camera, and one that follows a moving body."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rfo.core.errors import UsageError
from rfo.core.scene import Scene

__all__ = ["Camera", "FollowCamera"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without roll: y is up in the picture.

    Attributes:
        eye: Position of the camera [m].
        target: Point in the middle of the picture [m].
        fov: Vertical field of view [degrees].
    """

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fov: float = 28.0

    def __post_init__(self) -> None:
        toward = np.subtract(self.target, self.eye)
        if not np.isfinite(toward).all():
            raise UsageError(f"camera: eye {self.eye} or target {self.target} is not finite")
        if math.hypot(toward[0], toward[2]) < 1e-9:
            raise UsageError("camera: eye is straight above or below its target; move it sideways a little")
        if not 0.0 < self.fov < 180.0:
            raise UsageError(f"camera: fov must lie between 0 and 180 degrees, got {self.fov}")

    def basis(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns the unit vectors right, up and forward, each of shape [3]."""
        forward = np.subtract(self.target, self.eye).astype(np.float64)
        forward /= np.linalg.norm(forward)
        right = np.array([-forward[2], 0.0, forward[0]])
        right /= np.linalg.norm(right)
        return right, np.cross(right, forward), forward

    def pixel_slope(self, height: int) -> float:
        """Returns the height of a pixel one metre in front of the camera [m], in a picture of `height` rows."""
        return math.tan(math.radians(self.fov) / 2.0) / (0.5 * height)

    def project(self, points: FloatArray, width: int, height: int) -> tuple[FloatArray, FloatArray]:
        """Maps points to the picture.

        Args:
            points: Positions [m], shape [P, 3].
            width: Picture width [px].
            height: Picture height [px].

        Returns:
            Pixel coordinates, x to the right and y down, shape [P, 2], and distances along the view axis [m], shape
            [P] (negative behind the camera, where the pixel coordinates mean nothing).
        """
        right, up, forward = self.basis()
        local = (points - np.asarray(self.eye)) @ np.stack([right, up, forward], axis=1)
        depth = local[:, 2]
        scale = 1.0 / self.pixel_slope(height)
        safe = np.where(np.abs(depth) < 1e-12, 1e-12, depth)
        x = 0.5 * width + scale * local[:, 0] / safe
        y = 0.5 * height - scale * local[:, 1] / safe
        return np.stack([x, y], axis=1), depth


@dataclass
class FollowCamera:
    """A camera that keeps a moving body in the picture, smoothly.

    The focus is tracked by an alpha-beta filter: exponential smoothing of position and velocity, so that a body at a
    steady speed stays in the middle instead of running ahead by speed x time constant. The height is smoothed more
    than the rest, so that the camera does not jump with the body, as long as the body stays in the picture.

    Attributes:
        offset: From focus to eye, in units of `Scene.extent`. The default is a three-quarter view for bodies that run
            along +x, seen from their side and a little from ahead.
        look: From focus to the middle of the picture, in units of `Scene.extent`.
        fov: Vertical field of view [degrees].
        time_constant: Of the horizontal smoothing [s].
        height_time_constant: Of the vertical smoothing [s].
        height_lag: Largest distance of the body from the smoothed height, in units of `Scene.extent`.
    """

    offset: tuple[float, float, float] = (1.5, 0.95, 3.75)
    look: tuple[float, float, float] = (0.12, 0.02, 0.0)
    fov: float = 28.0
    time_constant: float = 0.15
    height_time_constant: float = 1.2
    height_lag: float = 0.5
    _position: FloatArray | None = field(default=None, init=False, repr=False)
    _velocity: FloatArray = field(default_factory=lambda: np.zeros(3), init=False, repr=False)

    def reset(self) -> None:
        """Forgets the body followed so far; the next `update` starts on its focus."""
        self._position, self._velocity = None, np.zeros(3)

    def update(self, scene: Scene, dt: float) -> Camera:
        """Follows a scene and returns the camera that sees it.

        Args:
            scene: What to look at; its `extent` sets the distance.
            dt: Time since the previous call [s].
        """
        focus = np.asarray(scene.focus, dtype=np.float64)
        if self._position is None:
            self._position = focus.copy()
        constants = np.array([self.time_constant, self.height_time_constant, self.time_constant])
        alpha = 1.0 - np.exp(-dt / np.maximum(constants, 1e-9))
        # Critically damped choice of the velocity gain for a given position gain.
        beta = alpha**2 / (2.0 - alpha)
        beta[1] = 0.0
        predicted = self._position + self._velocity * dt
        residual = focus - predicted
        self._position = predicted + alpha * residual
        self._velocity = self._velocity + beta * residual / max(dt, 1e-9)
        lag = self.height_lag * float(scene.extent)
        self._position[1] = np.clip(self._position[1], focus[1] - lag, focus[1] + lag)
        return self._camera(self._position, float(scene.extent))

    def _camera(self, focus: FloatArray, extent: float) -> Camera:
        eye = focus + extent * np.asarray(self.offset)
        target = focus + extent * np.asarray(self.look)
        eye[1] = max(eye[1], 0.1 * extent)
        return Camera(_triple(eye), _triple(target), self.fov)


def _triple(vector: FloatArray) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])
