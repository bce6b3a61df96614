"""The two laws of a substep: what a tetrahedron does to its corners, and how a vertex moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import numpy as np

from rfo.sim.fem.contact import Ground, HeightField, Plane, Shape, cross, obstacle_surface, respond
from rfo.sim.fem.material import Energy, Strain, damping_objective, damping_viscous, symmetric
from rfo.sim.kernel import Access, Corners, Fixed, Item, Law, Single, Table, Uniform
from rfo.sim.trace import constant, reverse

__all__ = [
    "CONTACT_PARAMETERS",
    "POSE",
    "TET_PARAMETERS",
    "Activation",
    "Damping",
    "tetrahedron_law",
    "vertex_inputs",
    "vertex_law",
]

Activation = Literal["fiber", "volumetric"]
Damping = Literal["viscous", "objective"]

TET_PARAMETERS = ("mu", "lam", "eta", "strength")
"""Figures of a tetrahedron that an engine may take as inputs, one value per environment and tetrahedron."""

CONTACT_PARAMETERS = ("stiffness", "damping", "friction", "slip_speed")
"""Figures of `FemContact` that an engine may take as inputs, one value per environment."""

POSE = 13
"""Numbers of an obstacle's pose: position, quaternion, velocity, angular velocity."""

_DAMPING: dict[Damping, Callable[..., Any]] = {"viscous": damping_viscous, "objective": damping_objective}


def tetrahedron_law(energy: Energy, activation: Activation, damping: Damping, varied: Collection[str] = ()) -> Law:
    """Forces of one tetrahedron on its corners [N], added to `f`.

    Arguments of the law: corner positions `x` [m] and velocities `v` [m/s], the activation of its muscle, and per
    tetrahedron `rest` (B, with F = Dᵀ B) [1/m], `gram` (G = B Bᵀ as xx, yy, zz, xy, yz, xz) [1/m²], `volume` [m³],
    `inverse_det` [1/m³], `fiber` (B d for the muscle's unit direction d) [1/m], and `TET_PARAMETERS`: `mu`, `lam`
    [Pa], `eta` [Pa s], `strength` [Pa].

    Args:
        energy: Constitutive law.
        activation: How muscles act.
        damping: Damping law.
        varied: Those of `TET_PARAMETERS` that differ from environment to environment, and have adjoints.
    """

    def forces(
        x: Any,
        v: Any,
        muscle: Any,
        rest: Any,
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
        cofactor = np.array([cross(edges[1], edges[2]), cross(edges[2], edges[0]), cross(edges[0], edges[1])])
        lowered = g @ metric
        raised = symmetric(lambda i, j: (lowered[i] * g[:, j]).sum())  # G M G
        strain = Strain(
            i_c=(metric * g).sum(),
            ii_c=(metric * raised).sum(),
            j=(edges[0] * cofactor[0]).sum() * inverse_det,
            f=edges.T @ rest,
        )
        # Everything below is multiplied by -V from the start: the constants absorb it.
        by_i, by_ii, pressure, *by_f = reverse(
            [constant(energy(strain, mu, lam))], [-volume], [strain.i_c, strain.ii_c, strain.j, *strain.f.flat]
        )
        stiffness, motion = _DAMPING[damping](edges, rates, g, -volume * eta)
        stiffness = stiffness + 4.0 * by_ii * raised
        active = (-volume * strength) * muscle[0]
        if activation == "fiber":
            stiffness = stiffness + active * np.outer(fiber, fiber)
        else:
            pressure = pressure + active
        if damping == "objective":
            pull = (stiffness + 2.0 * by_i * g) @ edges
        else:  # the two terms with G share one product
            pull = g @ (2.0 * by_i * edges + motion) + stiffness @ edges
        pull = pull + (pressure * inverse_det) * cofactor
        pull = pull + rest @ np.array(by_f, dtype=object).reshape(3, 3).T
        return {"f": np.stack([-pull.sum(axis=0), *pull])}

    inputs: dict[str, Access] = {
        "x": Corners((4, 3)),
        "v": Corners((4, 3)),
        "muscle": Corners((1,), "muscles"),
        "rest": Fixed((3, 3)),
        "gram": Fixed((6,)),
        "volume": Fixed(),
        "inverse_det": Fixed(),
        "fiber": Fixed((3,)),
    }
    inputs |= {name: Item() if name in varied else Fixed() for name in TET_PARAMETERS}
    return Law("tetrahedron", forces, inputs, {"f": Corners((4, 3))})


def vertex_law(
    ground: Ground | None = None, obstacles: Sequence[Shape] = (), ramp: float = 0.0, varied: Collection[str] = ()
) -> Law:
    """Semi-implicit Euler step of one vertex, with contact: the ground first, then each obstacle.

    Arguments of the law: position `x` [m], velocity `v` [m/s], force `f` [N], `mass` [kg], and for all vertices `dt`
    [s], `gravity` [m/s²] and `contact` (`respond`); with obstacles, their poses (`obstacle_surface`) at the start of
    the control step and the `time` since [s]; over a height field, its `heights` [m].

    Args:
        ground: The ground; the plane y = 0 by default.
        obstacles: Shapes that move as they are told.
        ramp: `FemContact.ramp` [m].
        varied: Those of `CONTACT_PARAMETERS` that differ from environment to environment, and have adjoints; each is an
            argument of its own, and the entry in `contact` is not read.
    """
    floor = ground or Plane()

    def advance(
        x: Any, v: Any, f: Any, mass: Any, dt: Any, gravity: Any, contact: Any, **others: Any
    ) -> dict[str, Any]:
        step = dt / mass
        contact = [others.get(name, shared) for name, shared in zip(CONTACT_PARAMETERS, contact, strict=True)]
        v_next = v + step * f + dt * gravity
        distance, normal = floor.surface(x, others.get("heights"))
        v_next = respond(distance, normal, np.zeros(3), v_next, step, contact, ramp)
        for i, shape in enumerate(obstacles):
            distance, normal, carried = obstacle_surface(shape, x, others["obstacles"][i], others["time"])
            v_next = respond(distance, normal, carried, v_next, step, contact, ramp)
        return {"x_next": x + dt * v_next, "v_next": v_next}

    inputs = {"f": Item((3,)), **vertex_inputs(floor, obstacles, varied)}
    return Law("vertex", advance, inputs, {"x_next": Item((3,)), "v_next": Item((3,))})


def vertex_inputs(floor: Ground, obstacles: Sequence[Shape], varied: Collection[str]) -> dict[str, Access]:
    """What the law of a vertex reads beside forces, whatever integrates it; arguments as of `vertex_law`."""
    inputs: dict[str, Access] = {
        "x": Item((3,)),
        "v": Item((3,)),
        "mass": Fixed(),
        "dt": Uniform(),
        "gravity": Uniform((3,)),
        "contact": Uniform((4,)),
    }
    inputs |= {name: Single() for name in CONTACT_PARAMETERS if name in varied}
    if isinstance(floor, HeightField):
        inputs["heights"] = Table()
    if obstacles:
        # Every vertex reads the same entries: corners whose indices are the obstacles' own.
        inputs |= {"obstacles": Corners((len(obstacles), POSE), "obstacle_index"), "time": Uniform()}
    return inputs


def _symmetric(entries: Any) -> Any:
    xx, yy, zz, xy, yz, xz = entries
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
