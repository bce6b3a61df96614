"""Where links are and how they move, in the frame of their tree's root link.

All quantities of a tree are written in the axes of its root link about that link's origin, in the inertial frame that
coincides with it at the instant. The root's inertia and the axes of its children are constants there, nothing loses
digits when a body travels far, and the world enters through gravity, heights and contact only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rfo.sim.rigid.model import Frame, Joint, Link, RigidModel
from rfo.sim.rigid.spatial import axis_rotation, cross, inverse_rotate, motion_cross, quaternion_matrix

__all__ = ["Kinematics", "Motion", "Pose", "motions"]


@dataclass(frozen=True)
class Pose:
    """A frame: rotation [3, 3] and origin [3] [m]."""

    rotation: Any
    origin: Any

    def point(self, local: Any) -> Any:
        """A point of the frame."""
        return self.rotation @ local + self.origin


class Kinematics:
    """Poses and motion subspaces of all links.

    Args:
        model: The bodies.
        q: Positions, shape [q_count].

    Attributes:
        pose: Of each link in its tree's root frame.
        world: Of each tree's root link in the world, by link index; of the world itself at -1.
        columns: Of each link, motion vectors of its degrees of freedom: an array of six each.
        dofs: Of each link, the indices of its degrees of freedom in v.
    """

    def __init__(self, model: RigidModel, q: Any) -> None:
        self.model = model
        self.pose: list[Pose] = []
        self.world: dict[int, Pose] = {-1: Pose(np.eye(3), np.zeros(3))}
        self.columns: list[list[Any]] = []
        self.dofs: list[list[int]] = []
        for i, link in enumerate(model.links):
            if link.parent < 0:
                self.world[i] = _walk(link, Pose(link.rotation, link.position), q)[0]
                self.pose.append(Pose(np.eye(3), np.zeros(3)))
                self.columns.append(_root_columns(link, q))
            else:
                parent = self.pose[link.parent]
                start = Pose(parent.rotation @ link.rotation, parent.point(link.position))
                pose, columns = _walk(link, start, q)
                self.pose.append(pose)
                self.columns.append(columns)
            self.dofs.append([joint.v_start + k for joint in link.joints for k in range(joint.v_count)])

    def place(self, frame: Frame) -> Pose:
        """Pose of a frame in the root frame of its tree, which is the world for what is fixed there."""
        pose = self.pose[frame.link] if frame.link >= 0 else self.world[-1]
        return Pose(pose.rotation @ frame.rotation, pose.point(frame.position))

    def reduce(self, generalized: Any) -> Any:
        """Writes generalized vectors in the root's axes: turns the linear entries of free joints, shape [v_count]."""
        return self._turn(generalized, lambda rotation, v: inverse_rotate(rotation, v))

    def restore(self, generalized: Any) -> Any:
        """Undoes `reduce`."""
        return self._turn(generalized, lambda rotation, v: rotation @ v)

    def _turn(self, generalized: Any, turn: Any) -> Any:
        result = np.array(generalized, dtype=object)
        for i, link in enumerate(self.model.links):
            joint = link.joints[0]
            if joint.kind == "free":
                part = slice(joint.v_start, joint.v_start + 3)
                result[part] = turn(self.world[i].rotation, np.asarray(generalized)[part])
        return result


@dataclass(frozen=True)
class Motion:
    """Spatial velocity of each link, and its acceleration: arrays of six in the root frame."""

    velocity: list[Any]
    acceleration: list[Any]


def motions(kinematics: Kinematics, v: Any, a: Any) -> Motion:
    """Velocities and accelerations of all links; gravity appears as an acceleration of the world.

    Args:
        kinematics: The pose.
        v: Generalized velocities, reduced, shape [v_count].
        a: Generalized accelerations, reduced, shape [v_count].
    """
    model = kinematics.model
    velocity: list[Any] = []
    acceleration: list[Any] = []
    for i, link in enumerate(model.links):
        if link.parent < 0:
            twist = np.zeros(6)
            rate = np.concatenate([np.zeros(3), inverse_rotate(kinematics.world[i].rotation, -model.gravity)])
        else:
            twist, rate = velocity[link.parent], acceleration[link.parent]
        columns = iter(zip(kinematics.columns[i], kinematics.dofs[i], strict=True))
        for joint in link.joints:
            steps = [next(columns) for _ in range(joint.v_count)]
            before = twist
            for column, dof in steps:
                twist = twist + column * v[dof]
                rate = rate + column * a[dof]
            rate = rate + _convective(joint, before, twist, steps, v)
        velocity.append(twist)
        acceleration.append(rate)
    return Motion(velocity, acceleration)


def _convective(joint: Joint, before: Any, after: Any, steps: list[tuple[Any, int]], v: Any) -> Any:
    """Acceleration that remains when a joint's velocities are constant."""
    if joint.kind == "free":  # constant in the world: -omega x u in the root's axes
        return np.concatenate([np.zeros(3), -cross(after[:3], after[3:])])
    total: Any = np.zeros(6)
    for column, dof in steps:
        total = total + motion_cross(before, column * v[dof])
    return total


def _turn_of(joint: Joint, q: Any) -> Any:
    if joint.kind == "hinge":
        return axis_rotation(joint.axis, q[joint.q_start] - joint.reference)
    return quaternion_matrix(q[joint.q_start : joint.q_start + 4])


def _walk(link: Link, pose: Pose, q: Any) -> tuple[Pose, list[Any]]:
    """Goes through a link's joints, from the pose before them to the link's; collects their motion vectors."""
    columns: list[Any] = []
    for joint in link.joints:
        if joint.kind == "free":
            start = joint.q_start
            pose = Pose(quaternion_matrix(q[start + 3 : start + 7]), q[start : start + 3])
            continue
        if joint.kind == "slide":
            axis = pose.rotation @ joint.axis
            columns.append(np.concatenate([np.zeros(3), axis]))
            pose = Pose(pose.rotation, pose.origin + axis * (q[joint.q_start] - joint.reference))
            continue
        anchor = pose.point(joint.anchor)
        turned = pose.rotation @ _turn_of(joint, q)
        axes = [pose.rotation @ joint.axis] if joint.kind == "hinge" else list(turned.T)
        columns.extend(np.concatenate([axis, cross(anchor, axis)]) for axis in axes)
        pose = Pose(turned, anchor - turned @ joint.anchor)
    return pose, columns


def _root_columns(link: Link, q: Any) -> list[Any]:
    """Motion vectors of a root's joints in its own frame, from the last joint back to the first."""
    turn: Any = np.eye(3)  # from the frame after the joint to the link's
    shift: Any = np.zeros(3)
    columns: list[list[Any]] = []
    for joint in reversed(link.joints):
        if joint.kind == "free":
            linear = [np.concatenate([np.zeros(3), axis]) for axis in np.eye(3)]
            columns.append([*linear, *(np.concatenate([axis, np.zeros(3)]) for axis in np.eye(3))])
        elif joint.kind == "slide":
            axis = turn @ joint.axis
            columns.append([np.concatenate([np.zeros(3), axis])])
            shift = shift - axis * (q[joint.q_start] - joint.reference)
        else:
            anchor = turn @ joint.anchor + shift
            axes = [joint.axis] if joint.kind == "hinge" else list(np.eye(3))
            columns.append([np.concatenate([turn @ axis, cross(anchor, turn @ axis)]) for axis in axes])
            back = turn @ _turn_of(joint, q).T
            shift = shift + turn @ joint.anchor - back @ joint.anchor
            turn = back
    return [column for part in reversed(columns) for column in part]
