"""Laws of soft matter, written as energies and stresses of one tetrahedron.

Everything is expressed in the edge matrix D (row i: vertex i+1 minus vertex 0) and the reference Gram matrix
G = B Bᵀ, where B is the inverse of the transposed reference edge matrix, so that F = Dᵀ B. The invariants follow from
the metric M = D Dᵀ alone, I_C = ⟨M, G⟩ and tr C² = ⟨M G M, G⟩, and a first Piola-Kirchhoff stress of the form F A
contributes (V B A Bᵀ) D to the forces on vertices 1, 2, 3. So a tetrahedron forms its deformation gradient only for an
energy that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from rfo.core.errors import UsageError
from rfo.sim.trace import detach, log, sqrt

__all__ = [
    "MATERIALS",
    "Energy",
    "Strain",
    "corotated",
    "damping_objective",
    "damping_viscous",
    "material",
    "st_venant_kirchhoff",
    "stable_neo_hookean",
    "symmetric",
]


@dataclass(frozen=True)
class Strain:
    """What an energy may depend on; what it does not use costs nothing.

    Attributes:
        i_c: First invariant tr C, with C = FᵀF.
        ii_c: tr C².
        j: Volume ratio det F.
        f: Deformation gradient, shape [3, 3].
    """

    i_c: Any
    ii_c: Any
    j: Any
    f: Any


Energy = Callable[[Strain, Any, Any], Any]
"""(strain, mu [Pa], lambda [Pa]) → energy density [J/m³]; stresses and their adjoints follow by differentiation."""


def stable_neo_hookean(strain: Strain, mu: Any, lam: Any) -> Any:
    """Stable neo-Hookean energy density [J/m³] (Smith, de Goes, Kim 2018, Eq. 14).

    The rest volume ratio alpha = 1 + mu/lambda - mu/(4 lambda) makes the undeformed body stress-free.
    """
    alpha = 1.0 + 0.75 * mu / lam
    return 0.5 * mu * (strain.i_c - 3.0 - log(strain.i_c + 1.0)) + 0.5 * lam * (strain.j - alpha) * (strain.j - alpha)


def st_venant_kirchhoff(strain: Strain, mu: Any, lam: Any) -> Any:
    """St. Venant-Kirchhoff energy density [J/m³], mu tr E² + lambda/2 (tr E)² with E = (C - 1)/2.

    It softens under compression and does not resist inversion: for moderate strains.
    """
    trace_e, trace_e2 = 0.5 * (strain.i_c - 3.0), 0.25 * (strain.ii_c - 2.0 * strain.i_c + 3.0)
    return mu * trace_e2 + 0.5 * lam * trace_e * trace_e


def corotated(strain: Strain, mu: Any, lam: Any) -> Any:
    """Fixed corotated energy density [J/m³], mu |F - R|² + lambda/2 (J - 1)² (Stomakhin et al. 2012, Eq. 6).

    No polar decomposition: |F - R|² = I_C - 2 tr S + 3, and tr S follows from the invariants (`stretch_trace`).
    """
    distance = strain.i_c - 2.0 * stretch_trace(strain) + 3.0
    return mu * distance + 0.5 * lam * (strain.j - 1.0) * (strain.j - 1.0)


def stretch_trace(strain: Strain) -> Any:
    """The sum s of F's singular values (the smallest negative where det F < 0): tr S of the polar form F = R S.

    s is the largest root of q(s) = (s² - I_C)²/4 - II - 2 J s with II = (I_C² - tr C²)/2, a consequence of
    s² = I_C + 2 tr cof S and (tr cof S)² = II + 2 J s. q is convex right of that root and s <= √(3 I_C), so Newton's
    method descends to it from there without fail; 2 q' is the product of the pairwise sums of the singular values, zero
    only where the rotation itself is undefined. Five iterations carry no derivative; each of the two after them makes
    one more derivative exact (first: the force, second: the force's adjoint).
    """
    i_c, ii, j = strain.i_c, 0.5 * (strain.i_c * strain.i_c - strain.ii_c), strain.j

    def newton(s: Any, i_c: Any, ii: Any, j: Any) -> Any:
        excess = s * s - i_c
        return s - (0.25 * excess * excess - ii - 2.0 * j * s) / (s * excess - 2.0 * j)

    fixed = (detach(i_c), detach(ii), detach(j))
    s = sqrt(3.0 * fixed[0])
    for _ in range(5):
        s = newton(s, *fixed)
    for _ in range(2):
        s = newton(s, i_c, ii, j)
    return s


MATERIALS: dict[str, Energy] = {
    "stable-neo-hookean": stable_neo_hookean,
    "corotated": corotated,
    "st-venant-kirchhoff": st_venant_kirchhoff,
}
"""Energies by name."""


def material(name: str) -> Energy:
    """Returns the energy of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in MATERIALS:
        near = get_close_matches(name, MATERIALS, n=1)
        raise UsageError(
            f"no material is called {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(MATERIALS)}")
        )
    return MATERIALS[name]


def damping_viscous(edges: Any, rates: Any, gram: Any, eta: Any) -> tuple[Any, Any]:
    """P = eta dF/dt [Pa]: linear, and resists rotation too.

    Returns:
        (A, U) such that the forces per volume are A D + G U.
    """
    return np.zeros((3, 3)), eta * rates


def damping_objective(edges: Any, rates: Any, gram: Any, eta: Any) -> tuple[Any, Any]:
    """P = eta F sym(Fᵀ dF/dt) [Pa]: a Kelvin-Voigt solid, indifferent to rigid motion.

    Returns:
        (A, U) such that the forces per volume are A D + G U.
    """
    product = edges @ rates.T
    strain_rate = symmetric(lambda i, j: 0.5 * (product[i, j] + product[j, i]))
    moved = strain_rate @ gram
    return eta * symmetric(lambda i, j: (gram[i] * moved[:, j]).sum()), np.zeros((3, 3))


def symmetric(entry: Callable[[int, int], Any]) -> Any:
    """A symmetric 3 x 3 matrix from the entries on and above its diagonal."""
    return np.array([[entry(min(i, j), max(i, j)) for j in range(3)] for i in range(3)])
