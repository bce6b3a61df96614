"""Laws of soft matter, written as energies and stresses of one tetrahedron.

Everything is expressed in the edge matrix D (row i: vertex i+1 minus vertex 0) and the reference Gram matrix
G = B Bᵀ, where B is the inverse of the reference edge matrix: the first invariant is I_C = ⟨D Dᵀ, G⟩, and a first
Piola-Kirchhoff stress of the form F A contributes (V B A Bᵀ) D to the forces on vertices 1, 2, 3. So a tetrahedron
never forms its deformation gradient, and every term but the volumetric one is a symmetric 3 x 3 matrix times D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rfo.sim.trace import log

__all__ = ["Energy", "damping_objective", "damping_viscous", "stable_neo_hookean", "symmetric"]

Energy = Callable[[Any, Any, Any, Any], Any]
"""(I_C, J, mu [Pa], lambda [Pa]) → energy density [J/m³]; stresses follow by differentiation."""


def stable_neo_hookean(i_c: Any, j: Any, mu: Any, lam: Any) -> Any:
    """Stable neo-Hookean energy density [J/m³] (Smith, de Goes, Kim 2018, Eq. 14).

    The rest volume ratio alpha = 1 + mu/lambda - mu/(4 lambda) makes the undeformed body stress-free.
    """
    alpha = 1.0 + 0.75 * mu / lam
    return 0.5 * mu * (i_c - 3.0 - log(i_c + 1.0)) + 0.5 * lam * (j - alpha) * (j - alpha)


def damping_viscous(edges: Any, rates: Any, gram: Any, eta: Any) -> Any:
    """Forces per volume of P = eta dF/dt [Pa]: linear, and resists rotation too."""
    return eta * (gram @ rates)


def damping_objective(edges: Any, rates: Any, gram: Any, eta: Any) -> Any:
    """Forces per volume of P = eta F sym(Fᵀ dF/dt) [Pa]: a Kelvin-Voigt solid, indifferent to rigid motion."""
    product = edges @ rates.T
    strain_rate = symmetric(lambda i, j: 0.5 * (product[i, j] + product[j, i]))
    moved = strain_rate @ gram
    return eta * (symmetric(lambda i, j: (gram[i] * moved[:, j]).sum()) @ edges)


def symmetric(entry: Callable[[int, int], Any]) -> Any:
    """A symmetric 3 x 3 matrix from the entries on and above its diagonal."""
    return np.array([[entry(min(i, j), max(i, j)) for j in range(3)] for i in range(3)])
