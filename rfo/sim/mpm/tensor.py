"""Symmetric 3 x 3 matrices as six numbers, and their logarithm and exponential near the identity.

Order of the six: xx, yy, zz, xy, yz, xz. A matrix A without trace satisfies A³ = q A + r I with q = tr(A²)/2 and
r = det A (Cayley-Hamilton), so every power series in A is a combination of I, A and A² with scalar coefficients. No
eigenvalues are formed: nothing happens where two of them coincide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["deviator", "full", "inner", "log1p", "packed", "series", "small_determinant", "trace"]


def full(six: Any) -> Any:
    """The matrix of six numbers, [6] → [3, 3]."""
    xx, yy, zz, xy, yz, xz = six
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def packed(matrix: Any) -> Any:
    """The six numbers of a symmetric matrix, [3, 3] → [6]."""
    m = matrix
    return np.array([m[0, 0], m[1, 1], m[2, 2], m[0, 1], m[1, 2], m[0, 2]])


def trace(six: Any) -> Any:
    """Trace."""
    return six[0] + six[1] + six[2]


def inner(a: Any, b: Any) -> Any:
    """Σ a_ij b_ij of two symmetric matrices."""
    diagonal = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return diagonal + 2.0 * (a[3] * b[3] + a[4] * b[4] + a[5] * b[5])


def deviator(six: Any) -> Any:
    """The part without trace."""
    mean = trace(six) / 3.0
    return np.array([six[0] - mean, six[1] - mean, six[2] - mean, six[3], six[4], six[5]])


def square(six: Any) -> Any:
    """A A."""
    xx, yy, zz, xy, yz, xz = six
    return np.array(
        [
            xx * xx + xy * xy + xz * xz,
            yy * yy + xy * xy + yz * yz,
            zz * zz + xz * xz + yz * yz,
            xy * (xx + yy) + xz * yz,
            yz * (yy + zz) + xy * xz,
            xz * (xx + zz) + xy * yz,
        ]
    )


def determinant(six: Any) -> Any:
    """Determinant."""
    xx, yy, zz, xy, yz, xz = six
    return xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)


def series(six: Any, coefficients: Sequence[float]) -> Any:
    """Σ c_n Aⁿ over n = 1, 2, ... of a symmetric matrix A without trace, as six numbers.

    Args:
        six: The matrix.
        coefficients: c_1, c_2, ...
    """
    squared = square(six)
    q, r = 0.5 * trace(squared), determinant(six)
    # Horner's rule on coefficients of I, A, A²: powers of a small strain would underflow, which is slow.
    total: tuple[Any, Any, Any] = (0.0, 0.0, 0.0)
    for coefficient in reversed(coefficients):
        total = (total[2] * r, coefficient + total[0] + total[2] * q, total[1])
    result = total[1] * six + total[2] * squared
    return result + total[0] * np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])


def small_determinant(matrix: Any) -> Any:
    """det(I + R) - 1 without cancellation, for any 3 x 3 matrix R."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    minors = (a * e - b * d) + (a * i - c * g) + (e * i - f * h)
    return (a + e + i) + minors + (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


def log1p(t: Any) -> Any:
    """log(1 + t) without cancellation: 2 artanh(t / (2 + t)) by its series, to 2e-8 of itself for |t| < 0.35."""
    s = t / (2.0 + t)
    squared, result = s * s, 0.0
    for n in (9, 7, 5, 3):
        result = squared * (1.0 / n + result)
    return 2.0 * s * (1.0 + result)
