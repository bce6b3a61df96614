"""Equations of motion: inertial forces, and accelerations from forces.

M a + bias + (damping) = forces, in generalized coordinates whose free joints are written in the root's axes
(`Kinematics.reduce`). Every function works on expressions and on numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rfo.sim.rigid.kinematics import Kinematics, Motion
from rfo.sim.rigid.model import Link
from rfo.sim.rigid.spatial import cross, dot

__all__ = ["accelerations", "body_forces", "virtual_power"]


def accelerations(kinematics: Kinematics, diagonal: Any, applied: Any, forces: list[Any]) -> Any:
    """Generalized accelerations by articulated bodies (Featherstone 2008, §7.3), shape [v_count].

    Joints are taken out one at a time, those farthest from the root first: each leaves of the inertia behind it, and of
    the forces on it, what its parent feels of them. The work for a joint does not grow with the number of joints
    between it and the root, as a row of M does. The joints of the root itself are left, and a small matrix for them.

    Args:
        kinematics: The pose.
        diagonal: Added to the diagonal of M: armature, and what is implicit in the integration, shape [v_count].
        applied: Generalized forces, shape [v_count].
        forces: Spatial forces on the links that must be overcome: the bias, less what pushes from outside.
    """
    links = kinematics.model.links
    joints = [list(zip(*pair, strict=True)) for pair in zip(kinematics.dofs, kinematics.columns, strict=True)]
    felt, carried, result = list(forces), [np.zeros((6, 6))] * len(links), list(applied)
    taken: dict[int, tuple[Any, Any]] = {}  # of a joint: force per acceleration of it, and the inverse of its inertia
    rates: dict[int, Any] = {}  # spatial accelerations of the links
    for i in reversed(range(len(links))):
        inertia = _inertia(kinematics, i) + carried[i]
        if (parent := links[i].parent) < 0:
            columns = np.array([column for _, column in joints[i]])
            right = [result[dof] - dot(column, felt[i]) for dof, column in joints[i]]
            found = _solve(_project(inertia, columns) + np.diag([diagonal[dof] for dof, _ in joints[i]]), right)
            for (dof, _), x in zip(joints[i], found, strict=True):
                result[dof] = x
            rates[i] = found @ columns
            continue
        for dof, column in reversed(joints[i]):
            force = inertia @ column
            inverse = 1.0 / (dot(column, force) + diagonal[dof])
            inertia = inertia - _square(force, inverse)
            result[dof] = result[dof] - dot(column, felt[i])
            felt[i] = felt[i] + force * (inverse * result[dof])
            taken[dof] = force, inverse
        carried[parent] = carried[parent] + inertia
        felt[parent] = felt[parent] + felt[i]
    for i, link in enumerate(links):
        if link.parent < 0:
            continue
        rate = rates[link.parent]
        for dof, column in joints[i]:
            force, inverse = taken[dof]
            result[dof] = (result[dof] - dot(force, rate)) * inverse
            rate = rate + column * result[dof]
        rates[i] = rate
    return np.array(result)


def body_forces(kinematics: Kinematics, motion: Motion) -> list[Any]:
    """Spatial force that each link's motion takes, about the root's origin (Newton and Euler)."""
    return [np.concatenate(_as_wrench(*_newton_euler(kinematics, motion, i))) for i in range(len(motion.velocity))]


def virtual_power(kinematics: Kinematics, motion: Motion, virtual: list[Any]) -> Any:
    """Power of all links' inertial forces along virtual velocities: λᵀ(M a + bias) where λ makes those velocities."""
    total: Any = 0.0
    for i in range(len(virtual)):
        center, force, torque = _newton_euler(kinematics, motion, i)
        total = total + dot(virtual[i][3:] + cross(virtual[i][:3], center), force) + dot(virtual[i][:3], torque)
    return total


def _mirrored(entry: Any, count: int) -> Any:
    """A symmetric matrix from its entries (i, j) with j <= i: each is worked out once."""
    result = np.empty((count, count), dtype=object)
    for i in range(count):
        for j in range(i + 1):
            result[i, j] = result[j, i] = entry(i, j)
    return result


def _project(inertia: Any, columns: Any) -> Any:
    """Inertia [6, 6] as joints of motion vectors [n, 6] see it, shape [n, n]."""
    momenta = columns @ inertia
    return _mirrored(lambda i, j: dot(columns[j], momenta[i]), len(columns))


def _solve(matrix: Any, right: list[Any]) -> Any:
    """Solves with a symmetric positive definite matrix, as Lᵀ D L, shape [n]."""
    lower, x, inverse = np.array(matrix, dtype=object), list(right), [0.0] * len(right)
    for k in reversed(range(len(x))):
        inverse[k] = 1.0 / lower[k, k]
        scaled = lower[k, :k] * inverse[k]
        for i in range(k):
            lower[i, : i + 1] = lower[i, : i + 1] - scaled[i] * lower[k, : i + 1]
            x[i] = x[i] - scaled[i] * x[k]
        lower[k, :k] = scaled
    for k in range(len(x)):
        x[k] = x[k] * inverse[k] - dot(lower[k, :k], x[:k])
    return np.array(x)


def _square(force: Any, scale: Any) -> Any:
    """The matrix f fᵀ times a scale, shape [6, 6]."""
    scaled = scale * force
    return _mirrored(lambda i, j: force[i] * scaled[j], len(force))


def _axes(link: Link) -> tuple[Any, list[tuple[Any, Any]]]:
    """The tensor J as j 1 + Σ k n nᵀ with as few terms as its symmetry allows: j and (k, n) in the link's frame."""
    moments = link.inertia
    base = max(moments, key=lambda j: (np.isclose(moments, j, rtol=1e-12, atol=0.0).sum(), -j))
    others = [(float(j - base), link.principal[:, n]) for n, j in enumerate(moments) if abs(j - base) > 1e-12 * base]
    return link.scale * float(base), [(link.scale * k, axis) for k, axis in others]


def _center(kinematics: Kinematics, i: int) -> Any:
    return kinematics.pose[i].point(kinematics.model.links[i].com)


def _inertia(kinematics: Kinematics, i: int) -> Any:
    """Inertia of one link about the root's origin: spatial momentum of its twists, shape [6, 6]."""
    link, rotation, center = kinematics.model.links[i], kinematics.pose[i].rotation, _center(kinematics, i)
    base, terms = _axes(link)
    mass = link.scale * link.mass
    second: Any = base * np.eye(3) + mass * (dot(center, center) * np.eye(3) - np.outer(center, center))
    for k, axis in terms:
        turned = rotation @ axis
        second = second + np.outer(k * turned, turned)
    x, y, z = mass * center
    first = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.block([[second, first], [first.T, mass * np.eye(3)]])


def _newton_euler(kinematics: Kinematics, motion: Motion, i: int) -> tuple[Any, Any, Any]:
    """Centre of mass, force and torque about it, of one link."""
    link, rotation, center = kinematics.model.links[i], kinematics.pose[i].rotation, _center(kinematics, i)
    omega, alpha = motion.velocity[i][:3], motion.acceleration[i][:3]
    speed = motion.velocity[i][3:] + cross(omega, center)
    force = link.scale * link.mass * (motion.acceleration[i][3:] + cross(alpha, center) + cross(omega, speed))
    base, terms = _axes(link)
    torque = base * alpha
    for k, axis in terms:
        turned = rotation @ axis
        torque = torque + (k * dot(turned, alpha)) * turned + (k * dot(turned, omega)) * cross(omega, turned)
    return center, force, torque


def _as_wrench(center: Any, force: Any, torque: Any) -> tuple[Any, Any]:
    return torque + cross(center, force), force
