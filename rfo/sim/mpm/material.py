"""Materials: how a particle's internal state answers a velocity gradient, and the stress it then carries.

A material is one function of numbers, traced, differentiated and compiled like every law. None of those below takes a
singular value decomposition: isotropic laws need the left Cauchy-Green tensor b or its logarithm only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rfo.sim.mpm.tensor import deviator, full, inner, log1p, packed, series, small_determinant, trace
from rfo.sim.trace import exp, log, maximum, minimum, sqrt

__all__ = ["Material", "Response", "corotated", "lame", "neo_hookean", "plasticine", "sand", "water"]

# Orders of the series in twice the elastic strain. A symmetric A without trace has no eigenvalue beyond
# p = sqrt(2/3) |A|, so what exp leaves out is at most p^6 / 7! of A, and what log leaves out p^8 / (9 (1 - p)):
# together 2e-12 at |A| = 0.05, 3e-10 at 0.1 and 7e-8 at 0.2. The last is one rounding of float32, hence the limit. What
# exp expands is the outcome of the substep before, where it was seen to be within the limit.
EXP_ORDER, LOG_ORDER = 6, 8
SERIES_LIMIT = 0.2
TINY = 1e-20
IDENTITY = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])


class Response(NamedTuple):
    """What a material returns.

    Attributes:
        stress: Kirchhoff stress, symmetric, as six numbers [Pa].
        state: New internal state.
        reach: Size of what a series was expanded in; 0 where the law is exact.
    """

    stress: Any
    state: Any
    reach: Any


@dataclass(frozen=True)
class Material:
    """A constitutive law with its figures.

    Attributes:
        name: Identifier.
        update: (R, state, parameters) → `Response`, where R = dt ∇v [3, 3] and the deformation gradient becomes
            (I + R) F.
        rest: Internal state of undeformed matter.
        parameters: Names and values of what `update` takes as parameters, the same for every particle unless a task
            passes its own.
        reach_limit: Largest `Response.reach` at which the law still holds; the engine stops a run beyond it.
    """

    name: str
    update: Callable[[Any, Any, Any], Response]
    rest: tuple[float, ...]
    parameters: Mapping[str, float]
    reach_limit: float = math.inf


def lame(young: float, poisson: float) -> tuple[float, float]:
    """Shear modulus and first Lamé parameter [Pa] from Young's modulus [Pa] and Poisson's ratio."""
    return young / (2.0 * (1.0 + poisson)), young * poisson / ((1.0 + poisson) * (1.0 - 2.0 * poisson))


def plasticine(young: float, poisson: float, yield_stress: float) -> Material:
    """Hencky elasticity with von Mises return mapping (Gao et al. 2017, supplement; PlasticineLab, Huang et al. 2021).

    State: deviatoric Hencky strain (xx, yy, xy, yz, xz) and log J. The return keeps its direction and limits its norm
    to yield_stress / (2 mu).
    """
    mu, lam = lame(young, poisson)

    def update(rate: Any, state: Any, parameters: Any) -> Response:
        mu, lam, limit = parameters
        strain, log_j, reach = _hencky_trial(rate, state[:5], state[5])
        norm = sqrt(inner(strain, strain) + TINY)
        strain = strain * minimum(0.5 * limit / (mu * norm), 1.0)
        stress = 2.0 * mu * strain + (lam + 2.0 / 3.0 * mu) * log_j * IDENTITY
        return Response(stress, np.array([*_five(strain), log_j]), reach)

    parameters = {"mu": mu, "lam": lam, "yield_stress": yield_stress}
    return Material("plasticine", update, (0.0,) * 6, parameters, reach_limit=SERIES_LIMIT)


def sand(young: float, poisson: float, friction_angle: float) -> Material:
    """Hencky elasticity with Drucker-Prager plasticity without cohesion (Klár et al. 2016, Eqs. 25-30).

    State: deviatoric Hencky strain (5) and its trace, and the volume gained while sand flew apart, which is given back
    before it resists compression again (Tampubolon et al. 2017).

    Args:
        young: Young's modulus [Pa].
        poisson: Poisson's ratio.
        friction_angle: [rad].
    """
    mu, lam = lame(young, poisson)
    sine = math.sin(friction_angle)
    alpha = math.sqrt(2.0 / 3.0) * 2.0 * sine / (3.0 - sine)

    def update(rate: Any, state: Any, parameters: Any) -> Response:
        mu, lam, alpha = parameters
        strain, volume, reach = _hencky_trial(rate, state[:5], state[5])
        volume = volume + state[6]
        norm = sqrt(inner(strain, strain) + TINY)
        pressed = minimum(volume, 0.0)
        allowed = -alpha * (3.0 * lam + 2.0 * mu) / (2.0 * mu) * pressed
        strain = strain * minimum(allowed / norm, 1.0)
        stress = 2.0 * mu * strain + (lam + 2.0 / 3.0 * mu) * pressed * IDENTITY
        return Response(stress, np.array([*_five(strain), pressed, maximum(volume, 0.0)]), reach)

    return Material("sand", update, (0.0,) * 7, {"mu": mu, "lam": lam, "alpha": alpha}, reach_limit=SERIES_LIMIT)


def water(young: float, poisson: float) -> Material:
    """A compressible fluid without viscosity, tau = lambda J (J - 1) I. State: J - 1, which float32 keeps exactly."""
    _, lam = lame(young, poisson)

    def update(rate: Any, state: Any, parameters: Any) -> Response:
        (lam,) = parameters
        swell = state[0] + (1.0 + state[0]) * (rate[0, 0] + rate[1, 1] + rate[2, 2])
        return Response(lam * (1.0 + swell) * swell * IDENTITY, np.array([swell]), 0.0)

    return Material("water", update, (0.0,), {"lam": lam})


def neo_hookean(young: float, poisson: float) -> Material:
    """Compressible neo-Hookean solid, tau = mu (b - I) + lambda log J I. State: b - I (6) and log J."""
    mu, lam = lame(young, poisson)

    def update(rate: Any, state: Any, parameters: Any) -> Response:
        mu, lam = parameters
        b, log_j = _advance(rate, state[:6]), state[6] + log(1.0 + small_determinant(rate))
        return Response(mu * b + lam * log_j * IDENTITY, np.array([*b, log_j]), 0.0)

    return Material("neo_hookean", update, (0.0,) * 7, {"mu": mu, "lam": lam})


def corotated(young: float, poisson: float) -> Material:
    """Fixed-corotated solid (Stomakhin et al. 2012), tau = 2 mu (b - V) + lambda (J - 1) J I with V = √b.

    State: b - I (6) and log J. The left stretch V comes from Denman and Beavers' iteration, which converges
    quadratically for every b that is positive definite.
    """
    mu, lam = lame(young, poisson)

    def update(rate: Any, state: Any, parameters: Any) -> Response:
        mu, lam = parameters
        b, log_j = _advance(rate, state[:6]), state[6] + log(1.0 + small_determinant(rate))
        j = exp(log_j)
        stretch = _square_root(b + IDENTITY, iterations=6)
        stress = 2.0 * mu * (b + IDENTITY - stretch) + lam * (j - 1.0) * j * IDENTITY
        return Response(stress, np.array([*b, log_j]), 0.0)

    return Material("corotated", update, (0.0,) * 7, {"mu": mu, "lam": lam})


def _five(six: Any) -> Any:
    return six[[0, 1, 3, 4, 5]]


def _advance(rate: Any, b: Any) -> Any:
    """(I + R)(I + b)(I + R)ᵀ - I, as six numbers, without cancellation."""
    left = full(b) + rate @ full(b) + rate  # (I + R)(I + b) - (I + Rᵀ)ᵀ + R, so that b' = left + Rᵀ + left Rᵀ
    moved = left + left @ rate.T
    return packed(moved) + packed(rate.T)


def _hencky_trial(rate: Any, five: Any, log_j: Any) -> tuple[Any, Any, Any]:
    """Elastic predictor: deviatoric Hencky strain (6), log J and the size of what the series expand in.

    That size is about twice the elastic strain, to which a substep adds: in plastic flow it stays near
    yield_stress / mu.
    """
    xx, yy, xy, yz, xz = five
    strain = np.array([xx, yy, -xx - yy, xy, yz, xz])
    grown = _advance(rate, series(2.0 * strain, [1.0 / math.factorial(n) for n in range(1, EXP_ORDER + 1)]))
    mean = trace(grown) / 3.0
    ratio = deviator(grown) / (1.0 + mean)
    logarithm = series(ratio, [(-1.0) ** (n + 1) / n for n in range(1, LOG_ORDER + 1)])
    log_j = log_j + log1p(small_determinant(rate))
    reach = sqrt(inner(ratio, ratio) + (rate * rate).sum())
    return 0.5 * deviator(logarithm), log_j, reach


def _square_root(six: Any, iterations: int) -> Any:
    """Square root of a symmetric positive definite matrix (Denman and Beavers 1976), scaled by its determinant."""
    y, z = six, IDENTITY
    for _ in range(iterations):
        inverse_y, inverse_z = _inverse(y), _inverse(z)
        y, z = 0.5 * (y + inverse_z), 0.5 * (z + inverse_y)
    return y


def _inverse(six: Any) -> Any:
    xx, yy, zz, xy, yz, xz = six
    adjugate = np.array(
        [
            yy * zz - yz * yz,
            xx * zz - xz * xz,
            xx * yy - xy * xy,
            xz * yz - xy * zz,
            xy * xz - xx * yz,
            xy * yz - xz * yy,
        ]
    )
    return adjugate * (1.0 / (xx * adjugate[0] + xy * adjugate[3] + xz * adjugate[5]))
