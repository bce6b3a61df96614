from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from rfo.core.errors import UsageError
from rfo.sim.rigid import RigidModel
from rfo.sim.rigid.dynamics import accelerations, body_forces
from rfo.sim.rigid.kinematics import Kinematics, motions
from rfo.sim.rigid.laws import acceleration, substep_law

ROOT = Path(__file__).resolve().parents[3]
OWN = sorted((ROOT / "assets" / "mjcf").glob("*.xml"))
GYMNASIUM = ["ant", "hopper", "walker2d", "half_cheetah", "humanoid"]


def _models(chain_path: Path) -> list[Path]:
    return [chain_path, *OWN]


def _reference(path: Path) -> Any:
    source = mujoco.MjModel.from_xml_path(str(path))
    source.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT) | int(mujoco.mjtDisableBit.mjDSBL_LIMIT)
    return source


def _random_states(source: Any, count: int) -> Any:
    """Random states, joints within their limits."""
    rng = np.random.default_rng(0)
    data = mujoco.MjData(source)
    for _ in range(count):
        data.qpos[:] = rng.normal(size=source.nq)
        for i in range(source.njnt):
            if source.jnt_limited[i]:
                data.qpos[source.jnt_qposadr[i]] = rng.uniform(*source.jnt_range[i])
        mujoco.mj_normalizeQuat(source, data.qpos)
        data.qvel[:] = rng.normal(size=source.nv)
        data.ctrl[:] = rng.uniform(-1.5, 1.5, size=source.nu)
        mujoco.mj_forward(source, data)
        yield data


def _aloft(path: Path) -> RigidModel:
    """The model with nothing to touch."""
    return replace(RigidModel.from_mjcf(path), geoms=(), pairs=())


def _agree(found: Any, expected: Any, limit: float = 1e-9) -> None:
    found, expected = np.asarray(found, dtype=float), np.asarray(expected)
    assert np.abs(found - expected).max() <= limit * max(np.abs(expected).max(), 1e-6)


def _check(path: Path, count: int) -> None:
    """Compares mass matrix, bias forces and accelerations in random states."""
    source, model = _reference(path), _aloft(path)
    for data in _random_states(source, count):
        kinematics = Kinematics(model, data.qpos)
        turn = np.array([kinematics.reduce(e) for e in np.eye(source.nv)], dtype=float).T
        inertia = np.zeros((source.nv, source.nv))
        mujoco.mj_fullM(source, data, inertia)
        armature, unloaded = model.dof_values("armature"), [np.zeros(6)] * len(model.links)
        solved = [accelerations(kinematics, armature, column, unloaded) for column in (turn @ inertia).T]
        _agree(turn.T @ np.array(solved, dtype=float).T, np.eye(source.nv))
        motion = motions(kinematics, kinematics.reduce(data.qvel), np.zeros(source.nv))
        falling = accelerations(kinematics, armature, np.zeros(source.nv), body_forces(kinematics, motion))
        _agree(-inertia @ kinematics.restore(falling).astype(float), data.qfrc_bias)
        _agree(acceleration(model, data.qpos, data.qvel, data.ctrl), data.qacc)


@pytest.mark.parametrize("index", range(1 + len(OWN)), ids=["chain", *(path.stem for path in OWN)])
def test_dynamics_equal_mujoco(index: int, chain_path: Path) -> None:
    """M, bias forces and accelerations (springs, dampers and actuators included) of every own model are MuJoCo's."""
    _check(_models(chain_path)[index], 100)


@pytest.mark.parametrize("name", GYMNASIUM)
def test_dynamics_of_public_models_equal_mujoco(name: str) -> None:
    """The same for Gymnasium's models."""
    gymnasium = pytest.importorskip("gymnasium")
    _check(Path(gymnasium.__file__).parent / "envs/mujoco/assets" / f"{name}.xml", 100)


def test_quadruped_of_dm_control_is_refused_by_name_and_equal_without(tmp_path: Path) -> None:
    """The error names what dm_control's quadruped has that is missing here; the rest of it is MuJoCo's."""
    dm_control = pytest.importorskip("dm_control")
    path = Path(dm_control.__file__).parent / "suite" / "quadruped.xml"
    spec = mujoco.MjSpec.from_file(str(path))
    strange = (mujoco.mjtGeom.mjGEOM_HFIELD, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_ELLIPSOID)
    geoms = [g for g in spec.geoms if g.type in strange or g.name.startswith("wall")]
    names = [e.name for e in (*spec.equalities, *spec.actuators, *geoms)]
    assert len(names) == 24
    with pytest.raises(UsageError) as caught:
        RigidModel.from_mjcf(path)
    for name in names:
        assert f"{name!r}" in str(caught.value)
    for element in (*spec.equalities, *spec.actuators, *spec.tendons, *spec.sensors):
        spec.delete(element)
    for geom in geoms:
        geom.contype = geom.conaffinity = 0
    spec.compile()
    stripped = tmp_path / "quadruped.xml"
    stripped.write_text(spec.to_xml(), encoding="utf-8")
    _check(stripped, 100)


def test_substep_equals_mujoco(chain_path: Path) -> None:
    """A substep in the air is MuJoCo's Euler step with implicit damping."""
    source, model = _reference(chain_path), _aloft(chain_path)
    source.opt.timestep = 1e-3
    law = substep_law(model, 1e-3)
    for data in _random_states(source, 20):
        result = law.function(q=data.qpos.copy(), v=data.qvel.copy(), control=data.ctrl.copy())
        mujoco.mj_step(source, data)
        _agree(result["v_next"], data.qvel, 1e-10)
        assert np.abs(np.asarray(result["q_next"], dtype=float) - data.qpos).max() < 1e-10


def test_unsupported_elements_are_all_named(tmp_path: Path) -> None:
    """A model with several unsupported elements is refused in one line that names each."""
    path = tmp_path / "bad.xml"
    path.write_text(
        """<mujoco><worldbody>
        <body name="a"><joint name="j" frictionloss="1"/><geom name="barrel" type="cylinder" size=".1 .1"/>
          <site name="s"/></body>
        <body name="b" pos="1 0 0"><joint name="k"/><geom size=".1"/></body></worldbody>
        <tendon><fixed name="rope" stiffness="1"><joint joint="j" coef="1"/></fixed></tendon>
        <equality><joint name="tie" joint1="j" joint2="k"/></equality>
        <actuator><motor name="pull" tendon="rope"/></actuator></mujoco>""",
        encoding="utf-8",
    )
    with pytest.raises(UsageError) as caught:
        RigidModel.from_mjcf(path)
    message = str(caught.value)
    assert "\n" not in message
    for name in ("'rope'", "'tie'", "'j'", "'barrel'", "'pull'"):
        assert name in message
