"""Equations of motion: composite inertias, sparse factorisation, inverse dynamics.

M a + bias + (damping) = forces, in generalized coordinates whose free joints are written in the root's axes
(`Kinematics.reduce`). Every function works on expressions and on numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfo.sim.rigid.kinematics import Kinematics, Motion
from rfo.sim.rigid.model import Link
from rfo.sim.rigid.spatial import cross, dot

__all__ = ["Factors", "body_forces", "joint_forces", "mass_matrix", "virtual_power"]


@dataclass(frozen=True)
class Inertia:
    """Inertia about the frame's origin: mass [kg], first moment [kg m], second moment [kg m²] (3 x 3)."""

    mass: Any
    first: Any
    second: Any

    def __add__(self, other: Inertia) -> Inertia:
        return Inertia(self.mass + other.mass, self.first + other.first, self.second + other.second)

    def momentum(self, twist: Any) -> Any:
        """Spatial momentum of a body that moves with a twist."""
        angular = self.second @ twist[:3] + cross(self.first, twist[3:])
        return np.concatenate([angular, self.mass * twist[3:] - cross(self.first, twist[:3])])


def mass_matrix(kinematics: Kinematics, diagonal: Any) -> dict[tuple[int, int], Any]:
    """Joint-space inertia by the composite rigid body algorithm (Featherstone 2008, §6.2).

    Args:
        kinematics: The pose.
        diagonal: Added to the diagonal: armature, and what is implicit in the integration, shape [v_count].

    Returns:
        Entries (i, j) for every degree of freedom i and each j between it and its root, itself included.
    """
    links = kinematics.model.links
    composite = [_inertia(kinematics, i) for i in range(len(links))]
    for i in reversed(range(len(links))):
        if links[i].parent >= 0:
            composite[links[i].parent] = composite[links[i].parent] + composite[i]
    column = {
        dof: c for i in range(len(links)) for dof, c in zip(kinematics.dofs[i], kinematics.columns[i], strict=True)
    }
    entries: dict[tuple[int, int], Any] = {}
    for i in range(len(links)):
        for dof in kinematics.dofs[i]:
            force = composite[i].momentum(column[dof])
            entries[dof, dof] = dot(column[dof], force) + diagonal[dof]
            for ancestor in _ancestors(kinematics, dof):
                entries[dof, ancestor] = dot(column[ancestor], force)
    return entries


class Factors:
    """M = Lᵀ D L along the tree's paths, without fill-in (Featherstone 2008, §6.5).

    Args:
        kinematics: For the tree.
        entries: Of M, from `mass_matrix`.
    """

    def __init__(self, kinematics: Kinematics, entries: dict[tuple[int, int], Any]) -> None:
        self._kinematics = kinematics
        self._lower = dict(entries)
        self._inverse: list[Any] = [0.0] * len(kinematics.parent_dof)
        m = self._lower
        for k in reversed(range(len(kinematics.parent_dof))):
            path = list(_ancestors(kinematics, k))
            self._inverse[k] = 1.0 / m[k, k]
            scaled = {i: m[k, i] * self._inverse[k] for i in path}
            for i in path:
                for j in [i, *_ancestors(kinematics, i)]:
                    m[i, j] = m[i, j] - scaled[i] * m[k, j]
            for i in path:
                m[k, i] = scaled[i]

    def solve(self, right: Any) -> Any:
        """M⁻¹ b, shape [v_count]."""
        x = list(right)
        count = len(x)
        for k in reversed(range(count)):
            for i in _ancestors(self._kinematics, k):
                x[i] = x[i] - self._lower[k, i] * x[k]
        for k in range(count):
            x[k] = x[k] * self._inverse[k]
            for i in _ancestors(self._kinematics, k):
                x[k] = x[k] - self._lower[k, i] * x[i]
        return np.array(x)


def body_forces(kinematics: Kinematics, motion: Motion) -> list[Any]:
    """Spatial force that each link's motion takes, about the root's origin (Newton and Euler)."""
    return [np.concatenate(_as_wrench(*_newton_euler(kinematics, motion, i))) for i in range(len(motion.velocity))]


def joint_forces(kinematics: Kinematics, forces: list[Any]) -> Any:
    """Generalized forces that balance spatial forces on the links, shape [v_count]."""
    links = kinematics.model.links
    total = list(forces)
    result: list[Any] = [0.0] * len(kinematics.parent_dof)
    for i in reversed(range(len(links))):
        for dof, column in zip(kinematics.dofs[i], kinematics.columns[i], strict=True):
            result[dof] = dot(column, total[i])
        if links[i].parent >= 0:
            total[links[i].parent] = total[links[i].parent] + total[i]
    return np.array(result)


def virtual_power(kinematics: Kinematics, motion: Motion, virtual: list[Any]) -> Any:
    """Power of all links' inertial forces along virtual velocities: λᵀ(M a + bias) where λ makes those velocities."""
    total: Any = 0.0
    for i in range(len(virtual)):
        center, force, torque = _newton_euler(kinematics, motion, i)
        total = total + dot(virtual[i][3:] + cross(virtual[i][:3], center), force) + dot(virtual[i][:3], torque)
    return total


def _ancestors(kinematics: Kinematics, dof: int) -> Iterator[int]:
    while (dof := kinematics.parent_dof[dof]) >= 0:
        yield dof


def _axes(link: Link) -> tuple[Any, list[tuple[Any, Any]]]:
    """The tensor J as j 1 + Σ k n nᵀ with as few terms as its symmetry allows: j and (k, n) in the link's frame."""
    moments = link.inertia
    base = max(moments, key=lambda j: (np.isclose(moments, j, rtol=1e-12, atol=0.0).sum(), -j))
    others = [(float(j - base), link.principal[:, n]) for n, j in enumerate(moments) if abs(j - base) > 1e-12 * base]
    return link.scale * float(base), [(link.scale * k, axis) for k, axis in others]


def _center(kinematics: Kinematics, i: int) -> Any:
    return kinematics.pose[i].point(kinematics.model.links[i].com)


def _inertia(kinematics: Kinematics, i: int) -> Inertia:
    link, rotation, center = kinematics.model.links[i], kinematics.pose[i].rotation, _center(kinematics, i)
    base, terms = _axes(link)
    mass = link.scale * link.mass
    second: Any = base * np.eye(3) + mass * (dot(center, center) * np.eye(3) - np.outer(center, center))
    for k, axis in terms:
        turned = rotation @ axis
        second = second + np.outer(k * turned, turned)
    return Inertia(mass, mass * center, second)


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
