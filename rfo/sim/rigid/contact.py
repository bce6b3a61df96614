"""Where geoms touch the ground and each other, and the forces there.

A contact point exists whether or not it touches: its depth may be negative, its force is then zero. Spheres touch the
ground in a point, capsules in one below each end, boxes in their corners. Between bodies, a sphere meets anything, two
capsules meet where their axes are closest, and a capsule meets a box with both ends and its middle, a box a box with
its corners: edges of boxes pass each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from rfo.core.errors import UsageError
from rfo.sim.rigid.kinematics import Kinematics
from rfo.sim.rigid.model import Compliance, Geom, RigidModel
from rfo.sim.rigid.spatial import cross, dot, inverse_rotate
from rfo.sim.trace import clamp, maximum, minimum, select, sqrt

__all__ = ["PointForce", "contact_forces", "push"]

_SKIN = 1e-4  # [m], well above the micrometre that keeps a distance from being zero


@dataclass(frozen=True)
class PointForce:
    """A force on a link at a point, both in the root frame of its tree [N], [m]."""

    link: int
    point: Any
    force: Any

    def wrench(self) -> Any:
        """The force about the root's origin."""
        return np.concatenate([cross(self.point, self.force), self.force])


def push(compliance: Compliance, depth: Any, rate: Any) -> Any:
    """Force of a one-sided spring with Hunt-Crossley damping; never pulls, and grows from zero without a jump.

    Args:
        compliance: Its figures.
        depth: [m or rad].
        rate: Its rate [m/s or rad/s].
    """
    return compliance.stiffness * maximum(depth, 0.0) * maximum(1.0 + compliance.damping * rate, 0.0)


def contact_forces(kinematics: Kinematics, velocity: list[Any]) -> Iterator[PointForce]:
    """Forces of all contacts.

    Args:
        kinematics: The pose.
        velocity: Spatial velocity of each link, in the root frame of its tree.
    """
    model = kinematics.model
    for geom in model.geoms:
        if geom.grounded:
            yield from _on_ground(kinematics, velocity, geom)
    for first, second in model.pairs:
        yield from _between(kinematics, velocity, model.geoms[first], model.geoms[second])


def _on_ground(kinematics: Kinematics, velocity: list[Any], geom: Geom) -> Iterator[PointForce]:
    link = geom.frame.link
    root = kinematics.world[kinematics.model.root(link)]
    up = root.rotation[2]
    for local, radius in _feet(geom):
        center = kinematics.place(geom.frame).point(local)
        depth = radius - (root.origin[2] + dot(up, center))
        point = center - radius * up
        slip = velocity[link][3:] + cross(velocity[link][:3], point)
        yield PointForce(link, point, _force(kinematics.model, geom.friction, depth, up, slip))


def _force(model: RigidModel, friction: Any, depth: Any, normal: Any, slip: Any) -> Any:
    """Force on the first of two bodies: the normal points to it, the slip is its velocity against the other."""
    contact = model.contact
    opening = dot(normal, slip)
    press = push(contact.normal, depth, -opening)
    sliding = slip - opening * normal
    limit = friction * press
    capped = limit * (1.0 / contact.viscosity)
    share = limit * (1.0 / sqrt(dot(sliding, sliding) + contact.slip_speed**2 + capped * capped))
    return press * normal - share * sliding


def _feet(geom: Geom) -> Iterator[tuple[Any, float]]:
    """Spheres (centre in the geom's frame, radius) that stand for a geom on the ground."""
    if geom.kind == "sphere":
        yield np.zeros(3), float(geom.size[0])
    elif geom.kind == "capsule":
        for end in (-geom.size[1], geom.size[1]):
            yield np.array([0.0, 0.0, end]), float(geom.size[0])
    else:
        for signs in product((-1.0, 1.0), repeat=3):
            yield np.array(signs) * geom.size, 0.0


@dataclass(frozen=True)
class _Ball:
    """A point that follows a link, with a radius: what pairs of bodies are compared by."""

    center: Any
    radius: float


def _between(kinematics: Kinematics, velocity: list[Any], a: Geom, b: Geom) -> Iterator[PointForce]:
    """Forces of a pair, worked out in the root frame of one of the trees."""
    model = kinematics.model
    frame = _Relative(kinematics, max(model.root(a.frame.link), model.root(b.frame.link)))
    order = {"sphere": 0, "capsule": 1, "box": 2}
    if a.kind not in order or b.kind not in order:
        raise UsageError(f"geoms {a.name!r} and {b.name!r} cannot be a contact pair: only spheres, capsules and boxes")
    if order[a.kind] > order[b.kind]:
        a, b = b, a
    friction = maximum(a.friction, b.friction)
    for depth, normal, point in _touch(frame, a, b):
        slip = frame.velocity(velocity, a.frame.link, point) - frame.velocity(velocity, b.frame.link, point)
        force = _force(model, friction, depth, normal, slip)
        for geom, sign in ((a, 1.0), (b, -1.0)):
            if geom.frame.link >= 0:
                yield frame.apply(geom.frame.link, point, sign * force)


class _Relative:
    """Carries points and vectors between the root frame of one tree, in which a contact is worked out, and another."""

    def __init__(self, kinematics: Kinematics, root: int) -> None:
        self._kinematics, self._root, self._base = kinematics, root, kinematics.world[root]

    def point(self, geom: Geom, local: Any) -> Any:
        """A point of a geom."""
        there = self._kinematics.place(geom.frame).point(local)
        root = self._kinematics.model.root(geom.frame.link)
        if root == self._root:
            return there
        return inverse_rotate(self._base.rotation, self._kinematics.world[root].point(there) - self._base.origin)

    def axes(self, geom: Geom) -> Any:
        """A geom's axes as columns."""
        there = self._kinematics.place(geom.frame).rotation
        root = self._kinematics.model.root(geom.frame.link)
        return there if root == self._root else self._base.rotation.T @ (self._kinematics.world[root].rotation @ there)

    def velocity(self, velocity: list[Any], link: int, point: Any) -> Any:
        """Velocity of a link's material at a point."""
        if link < 0:
            return np.zeros(3)
        root = self._kinematics.model.root(link)
        there = self._to(root, point)
        moved = velocity[link][3:] + cross(velocity[link][:3], there)
        return moved if root == self._root else self._vector(self._kinematics.world[root].rotation, moved)

    def apply(self, link: int, point: Any, force: Any) -> PointForce:
        """A force, written in the root frame of the link it acts on."""
        root = self._kinematics.model.root(link)
        if root == self._root:
            return PointForce(link, point, force)
        turned = inverse_rotate(self._kinematics.world[root].rotation, self._base.rotation @ force)
        return PointForce(link, self._to(root, point), turned)

    def _vector(self, rotation: Any, vector: Any) -> Any:
        return inverse_rotate(self._base.rotation, rotation @ vector)

    def _to(self, root: int, point: Any) -> Any:
        if root == self._root:
            return point
        other = self._kinematics.world[root]
        return inverse_rotate(other.rotation, self._base.point(point) - other.origin)


def _touch(frame: _Relative, a: Geom, b: Geom) -> Iterator[tuple[Any, Any, Any]]:
    """Depth, normal towards a, and point, of every contact of a pair whose kinds are in order."""
    if b.kind == "box":
        for local, radius in _probes(a):
            yield _ball_in_box(frame, _Ball(frame.point(a, local), radius), b)
        if a.kind == "box":
            for local, radius in _probes(b):
                depth, normal, point = _ball_in_box(frame, _Ball(frame.point(b, local), radius), a)
                yield depth, -normal, point
        return
    first, second = _segment(frame, a), _segment(frame, b)
    yield _balls(*_closest(first, second), a.size[0], b.size[0])


def _probes(geom: Geom) -> Iterator[tuple[Any, float]]:
    yield from _feet(geom)
    if geom.kind == "capsule":
        yield np.zeros(3), float(geom.size[0])


def _segment(frame: _Relative, geom: Geom) -> tuple[Any, Any]:
    """Centre and half axis of a capsule; a sphere has no axis."""
    half = geom.size[1] if geom.kind == "capsule" else 0.0
    center = frame.point(geom, np.zeros(3))
    return center, (half * frame.axes(geom)[:, 2] if half else np.zeros(3))


def _closest(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
    """Closest points of two segments (Ericson 2005, §5.1.9), the parallel case kept finite by its regulariser."""
    (c1, d1), (c2, d2) = first, second
    gap = c1 - c2
    a, b, e, f, g = dot(d1, d1), dot(d1, d2), dot(d2, d2), dot(d1, gap), dot(d2, gap)
    fixed = [isinstance(x, float) and x == 0.0 for x in (a, e)]
    if fixed[0] and fixed[1]:
        return c1, c2
    if fixed[1]:
        return c1 + d1 * clamp(-f / a, -1.0, 1.0), c2
    if fixed[0]:
        return c1, c2 + d2 * clamp(g / e, -1.0, 1.0)
    s = clamp((b * g - f * e) / (a * e - b * b + 1e-6 * a * e), -1.0, 1.0)
    t = clamp((b * s + g) / e, -1.0, 1.0)
    s = clamp((b * t - f) / a, -1.0, 1.0)
    return c1 + d1 * s, c2 + d2 * t


def _balls(p1: Any, p2: Any, r1: float, r2: float) -> tuple[Any, Any, Any]:
    gap = p1 - p2
    distance = sqrt(dot(gap, gap) + 1e-12)
    normal = gap * (1.0 / distance)
    depth = r1 + r2 - distance
    return depth, normal, p1 - (r1 - 0.5 * depth) * normal


def _ball_in_box(frame: _Relative, ball: _Ball, box: Geom) -> tuple[Any, Any, Any]:
    """A ball against a box: towards the closest point outside, through the nearest face inside and just above it.

    Just above, because the direction to the closest point loses its length, and with it the force its strength, where
    the centre of a ball that is pressed in by its radius lies on the surface: there the ball sticks, and gradients
    explode.
    """
    axes, center = frame.axes(box), frame.point(box, np.zeros(3))
    local = axes.T @ (ball.center - center)
    size = box.size
    inside = np.array([clamp(x, -h, h) for x, h in zip(local, size, strict=True)])
    gap = local - inside
    distance = sqrt(dot(gap, gap) + 1e-12)
    # Depth below each face; the least of them is where the ball gets out.
    faces = [h - select(x, x, -x) for x, h in zip(local, size, strict=True)]
    least = minimum(minimum(faces[0], faces[1]), faces[2])
    signs = [select(x, 1.0, -1.0) for x in local]
    first = select(faces[0] - least, 0.0, 1.0)
    second = select(first, 0.0, select(faces[1] - least, 0.0, 1.0))
    chosen = [first, second, 1.0 - first - second]
    outward = np.array([c * s for c, s in zip(chosen, signs, strict=True)])
    outside = gap * (1.0 / distance)
    near = least + _SKIN
    normal = np.array([select(near, o, g) for o, g in zip(outward, outside, strict=True)])
    depth = ball.radius + select(near, least, -distance)
    point = ball.center - axes @ (normal * (ball.radius - 0.5 * depth))
    return depth, axes @ normal, point
