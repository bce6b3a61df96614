"""The two laws of an MPM substep: how a particle deforms, and how a grid node moves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rfo.sim.kernel import Law, Planar, Uniform
from rfo.sim.mpm.material import Material
from rfo.sim.mpm.model import Ground, MpmModel
from rfo.sim.mpm.shapes import Distance
from rfo.sim.mpm.tensor import full
from rfo.sim.trace import clamp, exp, maximum, minimum, reverse, select, sqrt

__all__ = [
    "FADED",
    "FADING",
    "FRAME",
    "PLACE",
    "SHAPE",
    "distance_law",
    "node_law",
    "particle_law",
    "place_law",
    "tool_reach",
]

FRAME = 13  # of a tool: position [m], unit quaternion (w, x, y, z), velocity [m/s], angular velocity [rad/s]
PLACE = 12  # of a tool: position [m], rotation matrix, row by row
SHAPE = 4
FADING = 666.0  # of a tool's effect with distance [1/m]
FADED = 0.06  # distance at which nothing is left of it, 1e-18 [m]: smaller numbers would underflow, which is slow
SLIP = 1e-3  # speed below which friction fades to zero [m/s]


def particle_law(material: Material, dt: float, dx: float) -> Law:
    """Deforms a particle by its velocity gradient and returns the affine momentum it scatters (Hu et al. 2018, Eq. 29).

    Arguments: velocity gradient `c` [1/s], internal state `s`, `figures`: mass [kg], volume [m³] and the material's
    parameters. Results: the new state, `a`, the momentum per node of distance [kg m/s], and `reach`.
    """

    def deform(c: Any, s: Any, figures: Any) -> dict[str, Any]:
        response = material.update(dt * c, s, figures[2:])
        a = (dx * figures[0]) * c - (4.0 * dt / dx * figures[1]) * full(response.stress)
        return {"a": a, "s_next": response.state, "reach": response.reach}

    state = (len(material.rest),)
    inputs = {"c": Planar((3, 3)), "s": Planar(state), "figures": Planar((2 + len(material.parameters),))}
    outputs = {"a": Planar((3, 3)), "s_next": Planar(state), "reach": Planar()}
    return Law(f"particle_{material.name}", deform, inputs, outputs)


def node_law(model: MpmModel, dt: float, *, near_tool: bool) -> Law:
    """Turns a node's momentum into its velocity: gravity, the tool, the ground, the walls.

    Arguments: `momentum` [kg m/s], `mass` [kg], `node` position [m], and, near a tool, the tool's `frame` and `shape`.
    """
    layers = (model.margin - 0.5) * model.spacing
    low = np.asarray(model.origin) + layers
    high = np.asarray(model.origin) + (np.asarray(model.nodes) - 1) * model.spacing - layers

    def bound(v: Any, node: Any) -> Any:
        ground = _ground(v, model.ground)
        v = np.array([select(low[1] - node[1], g, x) for g, x in zip(ground, v, strict=True)])
        for axis in range(3):
            if axis != 1:
                v[axis] = select(low[axis] - node[axis], maximum(v[axis], 0.0), v[axis])
            v[axis] = select(node[axis] - high[axis], minimum(v[axis], 0.0), v[axis])
        return v

    def free(momentum: Any, mass: Any) -> Any:
        return momentum / maximum(mass, model.least_mass) + np.array([0.0, dt * model.gravity, 0.0])

    def move(momentum: Any, mass: Any, node: Any) -> dict[str, Any]:
        return {"velocity": bound(free(momentum, mass), node)}

    def move_with_tool(momentum: Any, mass: Any, node: Any, frame: Any, shape: Any) -> dict[str, Any]:
        v = collide(free(momentum, mass), node, frame, shape, model.tools[0].distance, model.tool_friction)
        return {"velocity": bound(v, node)}

    inputs = {"momentum": Planar((3,)), "mass": Planar(), "node": Planar((3,))}
    outputs = {"velocity": Planar((3,))}
    if not near_tool:
        return Law("node", move, inputs, outputs)
    return Law("node", move_with_tool, {**inputs, "frame": Uniform((FRAME,)), "shape": Uniform((SHAPE,))}, outputs)


def tool_reach(dtype: str) -> float:
    """Distance [m] beyond which a tool's effect on a node is lost in the rounding of its velocity."""
    return -math.log({"float32": 2.0**-25, "float64": 2.0**-54}[dtype]) / FADING


def place_law() -> Law:
    """What the distance of a tool needs to know of its frame, the same for all nodes."""

    def place(frame: Any) -> dict[str, Any]:
        return {"place": np.array([*frame[:3], *rotation(frame[3:7]).flat])}

    return Law("place", place, {"frame": Uniform((FRAME,))}, {"place": Planar((PLACE,))})


def distance_law(distance: Distance, *, of_many: bool = False) -> Law:
    """Signed distance [m] of a node from one tool; with `of_many`, of one node from a tool in each lane."""

    def measure(node: Any, place: Any, shape: Any) -> dict[str, Any]:
        return {"distance": distance((node - place[:3]) @ place[3:].reshape(3, 3), shape)}

    node, tool = (Uniform, Planar) if of_many else (Planar, Uniform)
    inputs = {"node": node((3,)), "place": tool((PLACE,)), "shape": tool((SHAPE,))}
    return Law("distance", measure, inputs, {"distance": Planar()})


def collide(v: Any, node: Any, frame: Any, shape: Any, distance: Distance, friction: float) -> Any:
    """Velocity of a node that a kinematic tool touches.

    Coulomb friction against the tool's own velocity; outside the tool the effect fades as exp(-FADING d), without the
    threshold at which the published form switches it off: the result is continuous.
    """
    arm, turn = node - frame[:3], rotation(frame[3:7])
    local = arm @ turn
    d = distance(local, shape)
    normal = turn @ np.array(reverse([d], [1.0], list(local)))
    relative = v - frame[7:10] - _cross(frame[10:13], arm)
    pressing = minimum(relative @ normal, 0.0)
    sliding = relative - pressing * normal
    speed = sqrt(sliding @ sliding + SLIP**2)
    kept = maximum(1.0 + friction * pressing / speed, 0.0)
    return v + exp(-FADING * clamp(d, 0.0, FADED)) * (kept * sliding - relative)


def rotation(quaternion: Any) -> Any:
    """Rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ]
    )


def _ground(v: Any, ground: Ground) -> Any:
    rising = maximum(v[1], 0.0)
    if ground.friction is None:
        # Sticking, without a jump: what rises is let go over a range of speeds.
        kept = rising * rising / (rising * rising + ground.release_speed**2)
    else:
        speed = sqrt(v[0] * v[0] + v[2] * v[2] + SLIP**2)
        kept = maximum(1.0 + ground.friction * minimum(v[1], 0.0) / speed, 0.0)
    return np.array([kept * v[0], rising, kept * v[2]])


def _cross(a: Any, b: Any) -> Any:
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
