"""The two laws of a substep: what a tetrahedron does to its corners, and how a vertex moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from rfo.sim.fem.material import Energy, damping_objective, damping_viscous, symmetric
from rfo.sim.kernel import Corners, Fixed, Item, Law, Uniform
from rfo.sim.trace import maximum, reverse, sqrt

__all__ = ["Activation", "Damping", "tetrahedron_law", "vertex_law"]

Activation = Literal["fiber", "volumetric"]
Damping = Literal["viscous", "objective"]

_DAMPING: dict[Damping, Callable[..., Any]] = {"viscous": damping_viscous, "objective": damping_objective}


def tetrahedron_law(energy: Energy, activation: Activation, damping: Damping) -> Law:
    """Forces of one tetrahedron on its corners [N], added to `f`.

    Arguments of the law: corner positions `x` [m] and velocities `v` [m/s], the activation of its muscle, and per
    tetrahedron `gram` (G as xx, yy, zz, xy, yz, xz) [1/m²], `volume` [m³], `inverse_det` [1/m³], `fiber` (B d for the
    muscle's unit direction d) [1/m], `strength` [Pa], `mu`, `lam` [Pa] and `eta` [Pa s].
    """

    def forces(
        x: Any,
        v: Any,
        muscle: Any,
        gram: Any,
        volume: Any,
        inverse_det: Any,
        fiber: Any,
        strength: Any,
        mu: Any,
        lam: Any,
        eta: Any,
    ) -> dict[str, Any]:
        edges, rates = x[1:] - x[0], v[1:] - v[0]
        g = _symmetric(gram)
        metric = symmetric(lambda i, j: (edges[i] * edges[j]).sum())
        cofactor = np.array([_cross(edges[1], edges[2]), _cross(edges[2], edges[0]), _cross(edges[0], edges[1])])
        i_c = (metric * g).sum()
        j = (edges[0] * cofactor[0]).sum() * inverse_det
        stretch, pressure = reverse([energy(i_c, j, mu, lam)], [1.0], [i_c, j])
        stiffness = 2.0 * stretch * g
        if activation == "fiber":
            stiffness = stiffness + (strength * muscle[0]) * np.outer(fiber, fiber)
        else:
            pressure = pressure + strength * muscle[0]
        pull = stiffness @ edges + _DAMPING[damping](edges, rates, g, eta) + (pressure * inverse_det) * cofactor
        pull = -volume * pull
        return {"f": np.stack([-pull.sum(axis=0), *pull])}

    inputs = {
        "x": Corners((4, 3)),
        "v": Corners((4, 3)),
        "muscle": Corners((1,), "muscles"),
        "gram": Fixed((6,)),
        "volume": Fixed(),
        "inverse_det": Fixed(),
        "fiber": Fixed((3,)),
        "strength": Fixed(),
        "mu": Fixed(),
        "lam": Fixed(),
        "eta": Fixed(),
    }
    return Law("tetrahedron", forces, inputs, {"f": Corners((4, 3))})


def vertex_law() -> Law:
    """Semi-implicit Euler step of one vertex, with contact against the ground y = 0.

    The normal force is a spring with Hunt-Crossley damping, f_n = k y⁻ (1 - d v_y); damping and Coulomb friction,
    smoothed below `slip_speed`, are implicit in the velocity, so each is a contraction whatever its stiffness.

    Arguments of the law: position `x` [m], velocity `v` [m/s], force `f` [N], `mass` [kg], and for all vertices `dt`
    [s], `gravity` [m/s²] and `contact`: stiffness [N/m], damping d [s/m], friction coefficient, slip speed [m/s].
    """

    def advance(x: Any, v: Any, f: Any, mass: Any, dt: Any, gravity: Any, contact: Any) -> dict[str, Any]:
        stiffness, damping, friction, slip_speed = contact
        step = dt / mass
        spring = stiffness * maximum(-x[1], 0.0)
        free = v + step * f + dt * gravity
        v_y = (free[1] + step * spring) / (1.0 + step * spring * damping)
        normal = spring * maximum(1.0 - damping * v_y, 0.0)
        speed = sqrt(free[0] * free[0] + free[2] * free[2] + slip_speed * slip_speed)
        slip = speed / (speed + step * friction * normal)
        v_next = np.array([free[0] * slip, v_y, free[2] * slip])
        return {"x_next": x + dt * v_next, "v_next": v_next}

    inputs = {
        "x": Item((3,)),
        "v": Item((3,)),
        "f": Item((3,)),
        "mass": Fixed(),
        "dt": Uniform(),
        "gravity": Uniform((3,)),
        "contact": Uniform((4,)),
    }
    return Law("vertex", advance, inputs, {"x_next": Item((3,)), "v_next": Item((3,))})


def _symmetric(entries: Any) -> Any:
    xx, yy, zz, xy, yz, xz = entries
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _cross(a: Any, b: Any) -> Any:
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
