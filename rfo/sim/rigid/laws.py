"""One substep of articulated bodies, and its adjoint, as laws whose elements are the substeps of a control step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rfo.sim.kernel import Access, Item, Law, Single
from rfo.sim.rigid.contact import contact_forces, push
from rfo.sim.rigid.dynamics import accelerations, body_forces, virtual_power
from rfo.sim.rigid.kinematics import Kinematics, motions
from rfo.sim.rigid.model import Parameter, RigidModel
from rfo.sim.rigid.spatial import cross, dot, integrate_quaternion
from rfo.sim.trace import clamp, detach, reverse

__all__ = ["acceleration", "adjoint_law", "applied_forces", "integrate", "substep_law"]


def substep_law(model: RigidModel, dt: float, parameters: Sequence[Parameter] = ()) -> Law:
    """Semi-implicit Euler with implicit joint damping, as MuJoCo's: v' = v + dt a, then q' = q moved by dt v'.

    Arguments of the law: positions `q`, velocities `v` before the substep, `control`, and each of `parameters`: factors
    by which the model is scaled.
    """

    def substep(q: Any, v: Any, control: Any, **factors: Any) -> dict[str, Any]:
        v_next = v + dt * acceleration(model.scaled(**factors), q, v, control, implicit=dt)
        return {"q_next": integrate(model, q, v_next, dt), "v_next": v_next}

    q, v = Item((model.q_count,)), Item((model.v_count,))
    inputs = {"q": q, "v": v, "control": Single((len(model.actuators),)), **_factors(model, parameters)}
    return Law("substep", substep, inputs, {"q_next": q, "v_next": v}, "forward")


def adjoint_law(model: RigidModel, dt: float, parameters: Sequence[Parameter] = ()) -> Law:
    """The adjoint of `substep_law`, without an adjoint of the mass matrix or its factorisation.

    With a = (v' - v) / dt and g the adjoint of v' after the integrator's, λ = (M + dt D)⁻¹ dt g carries g to whatever
    the residual r(q, v, a, control) = M a + bias - forces depends on: the adjoints are those of -λᵀ r, λ and a held.

    Arguments of the law: `q`, `v` before and `v_next` after the substep, `control`, the `parameters`, and the adjoints
    `bar_q`, `bar_v`, which it replaces; it adds to `bar_control` and to the adjoint of each parameter.
    """
    shared: dict[str, Access] = {"control": Single((len(model.actuators),)), **_factors(model, parameters)}

    def adjoint(q: Any, v: Any, v_next: Any, bar_q: Any, bar_v: Any, **given: Any) -> dict[str, Any]:
        control, scaled = given["control"], model.scaled(**{name: given[name] for name in parameters})
        moved = integrate(model, q, v_next, dt)
        back = reverse(list(moved), list(bar_q), [*q, *v_next])
        g = bar_v + np.array(back[len(q) :])
        kinematics = Kinematics(scaled, q)
        unloaded = [np.zeros(6)] * len(model.links)
        found = accelerations(kinematics, _diagonal(model, dt), kinematics.reduce(dt * g), unloaded)
        lam = detach(np.array(kinematics.restore(found), dtype=object))
        a = detach((v_next - v) * (1.0 / dt))
        power = _residual_power(kinematics, q, v, a, control, lam, dt)
        wrt = {"q": q, "v": v, **{name: given[name] for name in shared}}
        flow = iter(reverse([power], [-1.0], [x for values in wrt.values() for x in values]))
        bars = {f"bar_{name}": np.array([next(flow) for _ in values]) for name, values in wrt.items()}
        return {**bars, "bar_q": np.array(back[: len(q)]) + bars["bar_q"], "bar_v": g + bars["bar_v"]}

    q, v = (model.q_count,), (model.v_count,)
    bars: dict[str, Access] = {"bar_q": Single(q), "bar_v": Single(v)}
    inputs = {"q": Item(q), "v": Item(v), "v_next": Item(v), **shared, **bars}
    outputs = {**bars, **{f"bar_{name}": Single(access.shape, True) for name, access in shared.items()}}
    return Law("substep_adjoint", adjoint, inputs, outputs, "backward")


def acceleration(model: RigidModel, q: Any, v: Any, control: Any, *, implicit: float = 0.0) -> Any:
    """Generalized accelerations, shape [v_count].

    Args:
        model: The bodies.
        q: Positions, shape [q_count].
        v: Velocities, shape [v_count].
        control: Controls, shape [actuator_count].
        implicit: Time step over which joint damping acts on the velocity after it [s]; 0 for the instant.
    """
    kinematics = Kinematics(model, q)
    motion = motions(kinematics, kinematics.reduce(v), np.zeros(model.v_count))
    forces = body_forces(kinematics, motion)
    for contact in contact_forces(kinematics, motion.velocity):
        forces[contact.link] = forces[contact.link] - contact.wrench()
    applied = kinematics.reduce(applied_forces(model, q, v, v, control))
    return kinematics.restore(accelerations(kinematics, _diagonal(model, implicit), applied, forces))


def applied_forces(model: RigidModel, q: Any, v: Any, v_damped: Any, control: Any) -> Any:
    """Generalized forces of springs, dampers, joint limits and actuators, shape [v_count].

    Args:
        model: The bodies.
        q: Positions.
        v: Velocities.
        v_damped: Velocities that joint damping sees.
        control: Controls.
    """
    force: Any = -model.dof_values("damping") * v_damped
    for joint in model.joints:
        if joint.kind in ("free", "ball"):
            continue
        at, speed, dof = q[joint.q_start], v[joint.v_start], joint.v_start
        force[dof] = force[dof] - joint.stiffness * (at - joint.spring_reference)
        if joint.limits:
            low, high = joint.limits
            force[dof] = force[dof] + push(model.limit, low - at, -speed) - push(model.limit, at - high, speed)
    for actuator, u in zip(model.actuators, control, strict=True):
        gear = actuator.gear
        limited = clamp(u, *actuator.control_range) if actuator.control_range else u
        length, rate = gear * q[actuator.q_index], gear * v[actuator.v_index]
        push_pull = actuator.gain * limited + actuator.bias[0] + actuator.bias[1] * length + actuator.bias[2] * rate
        if actuator.force_range:
            push_pull = clamp(push_pull, *actuator.force_range)
        force[actuator.v_index] = force[actuator.v_index] + gear * push_pull
    return force


def integrate(model: RigidModel, q: Any, v: Any, dt: float) -> Any:
    """Positions after dt at constant velocity; quaternions of unit length, shape [q_count]."""
    parts: list[Any] = []
    for joint in model.joints:
        at, speed = joint.q_start, v[joint.v_start : joint.v_start + joint.v_count]
        if joint.kind in ("free", "ball"):
            linear = joint.q_count - 4
            parts.extend(q[at : at + linear] + dt * speed[:linear])
            parts.extend(integrate_quaternion(q[at + linear : at + linear + 4], speed[linear:], dt))
        else:
            parts.append(q[at] + dt * speed[0])
    return np.array(parts)


def _factors(model: RigidModel, parameters: Sequence[Parameter]) -> dict[str, Access]:
    return {name: Single((model.parameter_count(name),)) for name in parameters}


def _diagonal(model: RigidModel, dt: float) -> Any:
    return model.dof_values("armature") + dt * model.dof_values("damping")


def _residual_power(kinematics: Kinematics, q: Any, v: Any, a: Any, control: Any, lam: Any, dt: float) -> Any:
    """λᵀ (M a + bias - forces): the power of the residual forces along the virtual velocities λ."""
    model = kinematics.model
    motion = motions(kinematics, kinematics.reduce(v), kinematics.reduce(a))
    virtual = _virtual(kinematics, kinematics.reduce(lam))
    power = virtual_power(kinematics, motion, virtual)
    for contact in contact_forces(kinematics, motion.velocity):
        along = virtual[contact.link]
        power = power - dot(along[3:] + cross(along[:3], contact.point), contact.force)
    applied = applied_forces(model, q, v, v + dt * a, control)
    return power + dot(lam, model.dof_values("armature") * a) - dot(lam, applied)


def _virtual(kinematics: Kinematics, lam: Any) -> list[Any]:
    """Spatial velocities of the links when the generalized velocities are λ."""
    result: list[Any] = []
    for i, link in enumerate(kinematics.model.links):
        twist: Any = result[link.parent] if link.parent >= 0 else np.zeros(6)
        for dof, column in zip(kinematics.dofs[i], kinematics.columns[i], strict=True):
            twist = twist + column * lam[dof]
        result.append(twist)
    return result
