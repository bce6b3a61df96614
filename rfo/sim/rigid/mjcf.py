"""Reads MJCF through MuJoCo's own parser, and says what the engine does not support."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from rfo.core.errors import UsageError
from rfo.sim.rigid.model import Actuator, Compliance, Frame, Geom, GroundContact, Joint, JointKind, Link, RigidModel

__all__ = ["read_mjcf"]

Floats = npt.NDArray[np.float64]

_JOINTS: dict[int, JointKind] = {
    int(mujoco.mjtJoint.mjJNT_FREE): "free",
    int(mujoco.mjtJoint.mjJNT_BALL): "ball",
    int(mujoco.mjtJoint.mjJNT_SLIDE): "slide",
    int(mujoco.mjtJoint.mjJNT_HINGE): "hinge",
}
_GEOMS: dict[int, Any] = {
    int(mujoco.mjtGeom.mjGEOM_PLANE): "plane",
    int(mujoco.mjtGeom.mjGEOM_SPHERE): "sphere",
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): "capsule",
    int(mujoco.mjtGeom.mjGEOM_BOX): "box",
}

# Figures of the penalty laws stand in <custom><numeric name=... data=.../></custom>; these serve files without them.
_DEFAULTS = {"contact": (1e4, 0.3, 300.0, 0.05), "limit": (1e3, 0.3)}


def read_mjcf(path: str | Path) -> RigidModel:
    """Reads a model; see `RigidModel.from_mjcf`.

    Of `<custom>`, the numerics `contact` (stiffness [N/m], damping [s/m], viscosity [N s/m], slip speed [m/s]) and
    `limit` (stiffness [N m/rad], damping [s/rad]) set the penalty laws; of `<contact>`, each `<pair>` lets two geoms
    touch.
    """
    try:
        source = mujoco.MjModel.from_xml_path(str(path))
    except (ValueError, OSError) as error:
        raise UsageError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    unsupported = list(_unsupported(source))
    if unsupported:
        raise UsageError(f"{path} has elements the rigid engine does not support: {'; '.join(unsupported)}")
    frames, owner = _frames(source)
    links = tuple(_link(source, body, frames, owner) for body in owner)
    geoms, index = _geoms(source, frames)
    numeric = {name: tuple(source.numeric(name).data) if _has(source, name) else _DEFAULTS[name] for name in _DEFAULTS}
    stiffness, damping, viscosity, slip_speed = numeric["contact"]
    return RigidModel(
        name=bytes(source.names).split(b"\0", 1)[0].decode(),
        links=links,
        geoms=geoms,
        actuators=tuple(_actuator(source, i) for i in range(source.nu)),
        gravity=source.opt.gravity.copy(),
        contact=GroundContact(Compliance(stiffness, damping), viscosity, slip_speed),
        limit=Compliance(*numeric["limit"]),
        pairs=tuple((index[a], index[b]) for a, b in zip(source.pair_geom1, source.pair_geom2, strict=True)),
        frames={source.body(body).name: frames[body] for body in range(source.nbody)},
        q_rest=source.qpos0.copy(),
        timestep=float(source.opt.timestep),
    )


def _has(source: Any, numeric: str) -> bool:
    return bool(mujoco.mj_name2id(source, mujoco.mjtObj.mjOBJ_NUMERIC, numeric) >= 0)


def _unsupported(source: Any) -> Iterator[str]:
    """Names every element that acts on the bodies and that the engine does not have."""
    yield from _unsupported_constraints(source)
    yield from _unsupported_joints(source)
    yield from _unsupported_geoms(source)
    for i in range(source.nu):
        yield from _unsupported_actuator(source, i)
    if source.opt.density or source.opt.viscosity:
        yield "a medium (option density or viscosity)"


def _unsupported_constraints(source: Any) -> Iterator[str]:
    for i in range(source.ntendon):
        # A tendon that only measures its length moves nothing.
        acts = ("stiffness", "damping", "frictionloss", "armature", "limited")
        if any(np.any(getattr(source, f"tendon_{name}")[i]) for name in acts):
            yield f"tendon {source.tendon(i).name!r}"
    for i in range(source.neq):
        yield f"equality constraint {source.equality(i).name!r}"
    for i in range(source.nflex):
        yield f"flex {source.flex(i).name!r}"
    for i in range(source.nbody):
        body = source.body(i)
        if body.mocapid[0] >= 0:
            yield f"mocap body {body.name!r}"
        if source.body_gravcomp[i]:
            yield f"gravity compensation of body {body.name!r}"


def _unsupported_geoms(source: Any) -> Iterator[str]:
    for g in dict.fromkeys([*source.pair_geom1, *source.pair_geom2]):
        if _is_ground(source, g):
            yield f"contact pair with plane {_geom_name(source, g)!r}"
    for i in range(source.ngeom):
        geom = source.geom(i)
        meets_all = bool(geom.contype[0] or geom.conaffinity[0])
        collides = meets_all or i in {*source.pair_geom1, *source.pair_geom2}
        if collides and int(geom.type[0]) not in _GEOMS:
            yield f"colliding {mujoco.mjtGeom(int(geom.type[0])).name[7:].lower()} geom {_geom_name(source, i)!r}"
        elif meets_all and source.body_weldid[geom.bodyid[0]] == 0 and not _is_ground(source, i):
            yield f"static geom {_geom_name(source, i)!r} (neither the plane z = 0 nor in pairs only)"


def _unsupported_joints(source: Any) -> Iterator[str]:
    for i in range(source.njnt):
        joint = source.joint(i)
        turning = _JOINTS[int(joint.type[0])] in ("free", "ball")
        if np.any(joint.frictionloss):
            yield f"friction loss of joint {joint.name!r}"
        if turning and (joint.limited[0] or np.any(joint.stiffness)):
            yield f"limit or spring of free or ball joint {joint.name!r}"
        if np.any(source.jnt_stiffnesspoly[i]) or np.any(source.dof_dampingpoly[source.jnt_dofadr[i]]):
            yield f"polynomial spring or damper of joint {joint.name!r}"


def _unsupported_actuator(source: Any, i: int) -> Iterator[str]:
    name = source.actuator(i).name or f"actuator_{i}"
    joint = source.actuator_trnid[i, 0]
    if int(source.actuator_trntype[i]) != int(mujoco.mjtTrn.mjTRN_JOINT):
        yield f"actuator {name!r} that does not act on a joint"
    elif _JOINTS[int(source.jnt_type[joint])] in ("free", "ball"):
        yield f"actuator {name!r} on a free or ball joint"
    if int(source.actuator_dyntype[i]) != int(mujoco.mjtDyn.mjDYN_NONE):
        yield f"internal dynamics of actuator {name!r}"
    if int(source.actuator_gaintype[i]) != int(mujoco.mjtGain.mjGAIN_FIXED):
        yield f"non-constant gain of actuator {name!r}"
    if int(source.actuator_biastype[i]) not in (int(mujoco.mjtBias.mjBIAS_NONE), int(mujoco.mjtBias.mjBIAS_AFFINE)):
        yield f"bias of actuator {name!r}"


def _is_ground(source: Any, i: int) -> bool:
    plane = _GEOMS.get(int(source.geom_type[i])) == "plane"
    upright = np.allclose(_rotation(source.geom_quat[i])[:, 2], [0, 0, 1])
    level = np.isclose(source.geom_pos[i][2] + source.body_pos[source.geom_bodyid[i]][2], 0.0)
    return bool(plane and upright and level)


def _geom_name(source: Any, i: int) -> str:
    return (
        source.geom(i).name
        or f"{source.body(source.geom_bodyid[i]).name}:{i - source.body_geomadr[source.geom_bodyid[i]]}"
    )


def _frames(source: Any) -> tuple[list[Frame], dict[int, int]]:
    """Where every body sits on a link, and the link of each body that has joints."""
    frames: list[Frame] = [Frame(-1, np.zeros(3), np.eye(3))]
    owner: dict[int, int] = {}
    for body in range(1, source.nbody):
        if source.body_jntnum[body]:
            owner[body] = len(owner)
            frames.append(Frame(owner[body], np.zeros(3), np.eye(3)))
        else:
            position, rotation = source.body_pos[body], _rotation(source.body_quat[body])
            frames.append(_place(frames[source.body_parentid[body]], position, rotation))
    return frames, owner


def _place(frame: Frame, position: Floats, rotation: Floats) -> Frame:
    return Frame(frame.link, frame.position + frame.rotation @ position, _clean(frame.rotation @ rotation))


def _link(source: Any, body: int, frames: list[Frame], owner: dict[int, int]) -> Link:
    parts = [i for i in range(source.nbody) if frames[i].link == owner[body] and (i == body or i not in owner)]
    masses = np.array([source.body_mass[i] for i in parts])
    coms = [frames[i].position + frames[i].rotation @ source.body_ipos[i] for i in parts]
    total = masses.sum()
    com = sum(m * c for m, c in zip(masses, coms, strict=True)) / max(total, 1e-300)
    tensor = np.zeros((3, 3))
    for i, c in zip(parts, coms, strict=True):
        axes = frames[i].rotation @ _rotation(source.body_iquat[i])
        arm = c - com
        tensor += axes @ np.diag(source.body_inertia[i]) @ axes.T
        tensor += source.body_mass[i] * (arm @ arm * np.eye(3) - np.outer(arm, arm))
    if len(parts) == 1:  # keep MuJoCo's own axes, which are aligned where the shape is
        axes, moments = _rotation(source.body_iquat[body]), source.body_inertia[body].copy()
    else:
        moments, axes = np.linalg.eigh(tensor)
    parent = frames[source.body_parentid[body]]
    placed = _place(parent, source.body_pos[body], _rotation(source.body_quat[body]))
    first = source.body_jntadr[body]
    joints = tuple(_joint(source, i) for i in range(first, first + source.body_jntnum[body]))
    if joints[0].kind == "free":  # its q is the pose in the world
        placed = Frame(-1, np.zeros(3), np.eye(3))
    return Link(
        source.body(body).name, parent.link, placed.position, placed.rotation, joints, float(total), com, axes, moments
    )


def _joint(source: Any, i: int) -> Joint:
    q, v = int(source.jnt_qposadr[i]), int(source.jnt_dofadr[i])
    kind = _JOINTS[int(source.jnt_type[i])]
    scalar = kind in ("hinge", "slide")
    return Joint(
        name=source.joint(i).name or f"joint_{i}",
        kind=kind,
        q_start=q,
        v_start=v,
        anchor=source.jnt_pos[i].copy(),
        axis=_clean(source.jnt_axis[i]),
        reference=float(source.qpos0[q]) if scalar else 0.0,
        armature=float(source.dof_armature[v]),
        damping=float(source.dof_damping[v]),
        stiffness=float(source.jnt_stiffness[i]),
        spring_reference=float(source.qpos_spring[q]) if scalar else 0.0,
        limits=_range(source.jnt_range[i], source.jnt_limited[i]),
    )


def _geoms(source: Any, frames: list[Frame]) -> tuple[tuple[Geom, ...], dict[int, int]]:
    grounds = [i for i in range(source.ngeom) if _is_ground(source, i)]
    geoms: list[Geom] = []
    index: dict[int, int] = {}
    for i in range(source.ngeom):
        frame = frames[source.geom_bodyid[i]]
        if _GEOMS.get(int(source.geom_type[i]), "plane") == "plane":
            continue
        meets = [
            g
            for g in grounds
            if source.geom_contype[g] & source.geom_conaffinity[i]
            or source.geom_contype[i] & source.geom_conaffinity[g]
        ]
        index[i] = len(geoms)
        geoms.append(
            Geom(
                name=_geom_name(source, i),
                kind=_GEOMS[int(source.geom_type[i])],
                frame=_place(frame, source.geom_pos[i], _rotation(source.geom_quat[i])),
                size=source.geom_size[i].copy(),
                friction=float(max([source.geom_friction[i, 0], *(source.geom_friction[g, 0] for g in meets)])),
                grounded=bool(meets),
                color=source.geom_rgba[i, :3].astype(np.float64),
            )
        )
    return tuple(geoms), index


def _actuator(source: Any, i: int) -> Actuator:
    joint = source.actuator_trnid[i, 0]
    return Actuator(
        name=source.actuator(i).name or f"actuator_{i}",
        q_index=int(source.jnt_qposadr[joint]),
        v_index=int(source.jnt_dofadr[joint]),
        gear=float(source.actuator_gear[i, 0]),
        gain=float(source.actuator_gainprm[i, 0]),
        bias=source.actuator_biasprm[i, :3].copy(),
        control_range=_range(source.actuator_ctrlrange[i], source.actuator_ctrllimited[i]),
        force_range=_range(source.actuator_forcerange[i], source.actuator_forcelimited[i]),
    )


def _range(values: Floats, limited: Any) -> tuple[float, float] | None:
    return (float(values[0]), float(values[1])) if limited else None


def _rotation(quat: Floats) -> Floats:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quat)
    return _clean(matrix.reshape(3, 3))


def _clean(values: Floats) -> Floats:
    """Removes rounding from zeros and ones, so that the tracer can drop them."""
    rounded = np.round(values)
    return np.where(np.abs(values - rounded) < 1e-15, rounded, values)
