"""Vectors and rotations over numbers or expressions.

Spatial vectors are arrays of six, angular part first, about the origin of the frame they are written in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rfo.sim.trace import cos, sin, sqrt

__all__ = [
    "axis_rotation",
    "cross",
    "dot",
    "integrate_quaternion",
    "inverse_rotate",
    "motion_cross",
    "quaternion_matrix",
]

SERIES = (1.0, -1.0 / 2.0, 1.0 / 24.0, -1.0 / 720.0), (1.0, -1.0 / 6.0, 1.0 / 120.0, -1.0 / 5040.0)
"""cos √x and sin √x / √x as polynomials in x; a substep turns a body by a fraction of a radian."""


def dot(a: Any, b: Any) -> Any:
    """Inner product."""
    return sum((x * y for x, y in zip(a, b, strict=True)), start=0.0)


def cross(a: Any, b: Any) -> Any:
    """Vector product."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def motion_cross(a: Any, b: Any) -> Any:
    """Rate of the motion vector b carried along by the motion a (Featherstone 2008, Eq. 2.31)."""
    return np.concatenate([cross(a[:3], b[:3]), cross(a[:3], b[3:]) + cross(a[3:], b[:3])])


def inverse_rotate(rotation: Any, vector: Any) -> Any:
    """Rᵀ v."""
    return rotation.T @ vector


def axis_rotation(axis: Any, angle: Any) -> Any:
    """Rotation about a constant unit axis (Rodrigues), shape [3, 3]."""
    c, s = cos(angle), sin(angle)
    x, y, z = axis
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    along = np.outer(axis, axis)
    return along + c * (np.eye(3) - along) + s * skew


def quaternion_matrix(q: Any) -> Any:
    """Rotation of a quaternion (w, x, y, z) of any length, shape [3, 3].

    Orthogonal whatever the length: differences along the quaternion then have the derivative that the adjoint returns.
    """
    w, x, y, z = q
    scale = 2.0 / dot(q, q)
    sx, sy, sz = scale * x, scale * y, scale * z
    xx, yy, zz = sx * x, sy * y, sz * z
    xy, xz, yz, wx, wy, wz = sx * y, sx * z, sy * z, sx * w, sy * w, sz * w
    return np.array(
        [
            [1.0 - (yy + zz), xy - wz, xz + wy],
            [xy + wz, 1.0 - (xx + zz), yz - wx],
            [xz - wy, yz + wx, 1.0 - (xx + yy)],
        ]
    )


def integrate_quaternion(q: Any, omega: Any, dt: float) -> Any:
    """Turns a quaternion by the angular velocity omega, in its own axes [rad/s], for dt [s], and normalises it.

    Exact up to the eighth power of half the angle.
    """
    half = 0.5 * dt * omega
    square = dot(half, half)
    c, s = (sum_powers(coefficients, square) for coefficients in SERIES)
    turned = multiply(q, np.array([c, *(s * half)]))
    return turned * (1.0 / sqrt(dot(turned, turned)))


def sum_powers(coefficients: tuple[float, ...], x: Any) -> Any:
    """Polynomial in x by Horner's rule."""
    result = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def multiply(a: Any, b: Any) -> Any:
    """Product of quaternions."""
    w, v = a[0] * b[0] - dot(a[1:], b[1:]), a[0] * b[1:] + b[0] * a[1:] + cross(a[1:], b[1:])
    return np.array([w, *v])
