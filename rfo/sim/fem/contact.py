"""What a vertex can touch: a ground and kinematic obstacles, each known by its signed distance.

A shape gives a distance; its normal is the distance's derivative, by the tracer, and the response (`respond`) is the
same for all. Distances are smooth where a vertex can be, so that gradients are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rfo.core.errors import UsageError
from rfo.sim.trace import clamp, floor, lookup, maximum, minimum, reverse, sqrt

__all__ = ["Box", "Capsule", "FemContact", "Ground", "HeightField", "Plane", "Shape", "Sphere", "Terrain", "respond"]


ROUNDING = 0.1
"""Width over which the positive part in the normal force is rounded off, as a share of the spring force at rest."""


@dataclass(frozen=True)
class FemContact:
    """How surfaces respond: penalty contact.

    Attributes:
        stiffness: Spring of one vertex [N/m].
        damping: Hunt-Crossley damping, as a share of the spring force per speed [s/m].
        friction: Coulomb coefficient.
        slip_speed: Speed below which friction fades to zero [m/s].
        ramp: Depth over which the spring reaches its stiffness [m]; zero for a spring that has it at once, whose force
            has a kink where a vertex touches down or lifts off.
    """

    stiffness: float
    damping: float
    friction: float
    slip_speed: float = 0.05
    ramp: float = 0.0


@dataclass(frozen=True)
class Plane:
    """A plane.

    Attributes:
        normal: Direction away from the solid, of any length.
        offset: Distance of the plane from the origin along the normal [m].
    """

    normal: tuple[float, float, float] = (0.0, 1.0, 0.0)
    offset: float = 0.0

    def surface(self, p: Any, heights: Any) -> tuple[Any, Any]:
        """Signed distance [m] and unit normal at a point."""
        normal = np.array(self.normal) / np.linalg.norm(self.normal)
        return (normal * p).sum() - self.offset, normal


@dataclass(frozen=True)
class Terrain:
    """A ground whose height is a smooth function, written with numbers and `rfo.sim.trace`.

    Attributes:
        height: (x, z) [m] → height [m].
    """

    height: Callable[[Any, Any], Any]

    def surface(self, p: Any, heights: Any) -> tuple[Any, Any]:
        """Distance to the tangent plane below the point [m] and its unit normal."""
        return _tangent_plane(p, self.height(p[0], p[2]))


@dataclass(frozen=True)
class HeightField:
    """A ground given by heights on a grid, smoothed by bicubic B-splines: twice differentiable, level beyond the rim.

    Attributes:
        heights: Control heights [m], shape [nx, nz], at least 4 x 4.
        spacing: Distance between neighbours [m].
        origin: Position (x, z) of heights[0, 0] [m].
    """

    heights: npt.NDArray[np.float64]
    spacing: float
    origin: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.heights.ndim != 2 or min(self.heights.shape) < 4 or self.spacing <= 0.0:
            raise UsageError(
                f"a height field takes at least 4 x 4 heights and a positive spacing, got {self.heights.shape} and "
                f"{self.spacing}"
            )

    def surface(self, p: Any, heights: Any) -> tuple[Any, Any]:
        """Distance to the tangent plane below the point [m] and its unit normal."""
        cells, weights = [], []
        for axis, count, start in zip((0, 2), self.heights.shape, self.origin, strict=True):
            # The spline is defined between the second and the last but one control point.
            u = clamp((p[axis] - start) * (1.0 / self.spacing), 1.0, count - 2.0)
            cell = minimum(floor(u), count - 3.0)
            cells.append(cell)
            weights.append(_b_spline(u - cell))
        first = (cells[0] - 1.0) * float(self.heights.shape[1]) + (cells[1] - 1.0)
        height: Any = 0.0
        for i in range(4):
            row = sum(weights[1][k] * lookup(heights, first + float(i * self.heights.shape[1] + k)) for k in range(4))
            height = height + weights[0][i] * row
        return _tangent_plane(p, height)


Ground = Plane | Terrain | HeightField


@dataclass(frozen=True)
class Sphere:
    """A ball of a radius [m]."""

    radius: float

    def distance(self, p: Any) -> Any:
        """Signed distance [m] of a point in the shape's frame."""
        return sqrt((p * p).sum() + 1e-12 * self.radius**2) - self.radius


@dataclass(frozen=True)
class Capsule:
    """A segment from -half_length to +half_length along the shape's y axis, with a radius [m]."""

    radius: float
    half_length: float

    def distance(self, p: Any) -> Any:
        """Signed distance [m] of a point in the shape's frame."""
        along = p[1] - clamp(p[1], -self.half_length, self.half_length)
        return sqrt(p[0] * p[0] + along * along + p[2] * p[2] + 1e-12 * self.radius**2) - self.radius


@dataclass(frozen=True)
class Box:
    """A box with rounded edges.

    Attributes:
        half_extents: Half of its edge lengths, rounding included [m].
        rounding: Radius of its edges [m].
    """

    half_extents: tuple[float, float, float]
    rounding: float = 0.01

    def distance(self, p: Any) -> Any:
        """Signed distance [m] of a point in the shape's frame."""
        q = [maximum(p[i], -p[i]) - (half - self.rounding) for i, half in enumerate(self.half_extents)]
        # Under the root, a millionth of the rounding keeps the derivative finite inside the core.
        outside = sqrt(sum(maximum(x, 0.0) * maximum(x, 0.0) for x in q) + (1e-6 * self.rounding) ** 2)
        return outside + minimum(maximum(q[0], maximum(q[1], q[2])), 0.0) - self.rounding


Shape = Sphere | Capsule | Box


def obstacle_surface(shape: Shape, p: Any, pose: Any, time: Any) -> tuple[Any, Any, Any]:
    """Signed distance to a moving shape, its normal, and its velocity at the point.

    Args:
        shape: The shape.
        p: Point [m], shape [3].
        pose: Position [m], unit quaternion (w, x, y, z), velocity [m/s], angular velocity [rad/s]; shape [13]. Over a
            control step the position moves linearly; the quaternion turns to third order in the angle.
        time: Time since the pose was given [s].
    """
    position, q, velocity, spin = pose[:3] + time * pose[7:10], pose[3:7], pose[7:10], pose[10:13]
    turned = np.array(
        [q[0] - 0.5 * time * (spin * q[1:]).sum(), *(q[1:] + 0.5 * time * (q[0] * spin + cross(spin, q[1:])))]
    )
    turned = turned / sqrt((turned * turned).sum())
    arm = p - position
    local = _rotate(turned[0], -turned[1:], arm)
    if isinstance(shape, Sphere):
        local = arm  # a ball looks the same from everywhere
    distance = shape.distance(local)
    normal = np.array(reverse([distance], [1.0], list(local)), dtype=object)
    if not isinstance(shape, Sphere):
        normal = _rotate(turned[0], turned[1:], normal)
    return distance, normal, velocity + cross(spin, arm)


def respond(distance: Any, normal: Any, carried: Any, v: Any, step: Any, contact: Any, ramp: float = 0.0) -> Any:
    """Velocity after contact [m/s].

    The normal force is a spring with Hunt-Crossley damping, f_n = k d⁻ (1 - c v_n)⁺, its positive part rounded off;
    damping and Coulomb friction, smoothed below the slip speed, are implicit in the velocity, so each is a contraction
    whatever its stiffness. With a ramp the map has a continuous derivative everywhere.

    Args:
        distance: Signed distance to the surface [m].
        normal: Unit normal, shape [3].
        carried: Velocity of the surface [m/s], shape [3].
        v: Velocity before contact [m/s], shape [3].
        step: Substep over mass [s/kg].
        contact: Stiffness [N/m], damping c [s/m], friction coefficient, slip speed [m/s].
        ramp: Depth over which the stiffness is reached [m].
    """
    stiffness, damping, friction, slip_speed = contact
    spring = stiffness * ramped(maximum(-distance, 0.0), ramp)
    relative = v - carried
    approach = (relative * normal).sum()
    tangential = relative - approach * normal
    force = spring * damped_share(damping * approach) / (1.0 + step * spring * damping)
    along = approach + step * force
    speed = sqrt((tangential * tangential).sum() + slip_speed * slip_speed)
    slip = speed / (speed + step * friction * force)
    return carried + tangential * slip + along * normal


def ramped(depth: Any, ramp: float) -> Any:
    """Depth [m] as a spring feels it that reaches its stiffness at the depth `ramp` [m]: quadratic, then linear."""
    if ramp == 0.0:
        return depth
    shallow = minimum(depth, ramp)
    return depth - shallow + shallow * shallow * (0.5 / ramp)


def damped_share(leaving: Any) -> Any:
    """Share of the spring force that Hunt-Crossley damping leaves: (1 - c v_n)⁺, rounded off, 1 at rest.

    Args:
        leaving: c v_n, damping times the normal velocity; above 1 a vertex leaves faster than the spring may push.
    """
    eager = 1.0 - leaving
    return (eager + sqrt(eager * eager + ROUNDING * ROUNDING)) * (1.0 / (1.0 + math.sqrt(1.0 + ROUNDING * ROUNDING)))


def cross(a: Any, b: Any) -> Any:
    """Cross product of two vectors."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _rotate(w: Any, u: Any, r: Any) -> Any:
    twice = 2.0 * cross(u, r)
    return r + w * twice + cross(u, twice)


def _b_spline(t: Any) -> list[Any]:
    s = 1.0 - t
    return [
        s * s * s / 6.0,
        (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
        (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0,
        t * t * t / 6.0,
    ]


def _tangent_plane(p: Any, height: Any) -> tuple[Any, Any]:
    slope_x, slope_z = reverse([height], [1.0], [p[0], p[2]])
    cosine = 1.0 / sqrt(1.0 + slope_x * slope_x + slope_z * slope_z)
    return (p[1] - height) * cosine, np.array([-slope_x * cosine, cosine, -slope_z * cosine])
