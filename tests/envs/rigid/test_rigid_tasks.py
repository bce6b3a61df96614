"""What every entry of the observations and rewards of the rigid-body tasks means, against MuJoCo's kinematics."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from rfo.core.task import State, Task
from rfo_envs.assets import asset_path
from rfo_envs.rigid.ant import Ant
from rfo_envs.rigid.anymal import Anymal
from rfo_envs.rigid.body import RigidTask
from rfo_envs.rigid.cartpole import CartpoleSwingup
from rfo_envs.rigid.hand import HandReorient, attitude_error
from rfo_envs.rigid.hopper import Hopper
from rfo_envs.rigid.humanoid import Humanoid
from rfo_envs.rigid.locomotion import Locomotion

TASKS: list[type[RigidTask]] = [CartpoleSwingup, Hopper, Ant, Anymal, Humanoid, HandReorient]
RUNNERS: list[type[Locomotion]] = [Ant, Anymal, Humanoid]
N = 3


@pytest.fixture(scope="module")
def built() -> dict[type[Task], RigidTask]:
    """Each task once, in float64."""
    return {task: task(dtype=torch.float64, threads=1) for task in TASKS}


def _moving_state(task: RigidTask) -> State:
    """A reset with random velocities, so that no entry is zero by chance."""
    generator = torch.Generator().manual_seed(3)
    state = task.initial_state(generator, N)
    return {**state, "v": torch.randn(state["v"].shape, generator=generator, dtype=torch.float64)}


def _mujoco(task: RigidTask, state: State, index: int) -> tuple[Any, Any]:
    source = mujoco.MjModel.from_xml_path(str(asset_path(f"mjcf/{task.file}.xml")))
    data = mujoco.MjData(source)
    data.qpos[:], data.qvel[:] = state["q"][index].numpy(), state["v"][index].numpy()
    mujoco.mj_forward(source, data)
    return source, data


def _action(task: RigidTask) -> Tensor:
    return (
        2.0 * torch.rand(N, task.spec.action_dim, generator=torch.Generator().manual_seed(4), dtype=torch.float64) - 1
    )


@pytest.mark.parametrize("cls", TASKS)
def test_initial_states_are_drawn_alike_in_both_types(cls: type[RigidTask], built: dict[type[Task], RigidTask]) -> None:
    """A seed gives the same state in float32 and float64, with unit quaternions, and differs between environments."""
    task = built[cls]
    state = task.initial_state(torch.Generator().manual_seed(0), N)
    single = cls(threads=1).initial_state(torch.Generator().manual_seed(0), N)
    for name in ("q", "v"):
        torch.testing.assert_close(single[name].double(), state[name], rtol=1e-5, atol=1e-6)
    for joint in task.model.joints:
        if joint.kind == "free":
            part = state["q"][:, joint.q_start + 3 : joint.q_start + 7]
            torch.testing.assert_close(part.norm(dim=1), torch.ones(N, dtype=torch.float64))
    assert not torch.equal(state["q"][0], state["q"][1])


@pytest.mark.parametrize("cls", RUNNERS)
def test_runners_observe_what_mujoco_sees(cls: type[Locomotion], built: dict[type[Task], RigidTask]) -> None:
    """Height, quaternion, velocities, joints, rates, up, heading and last action stand where the docstring says."""
    task = built[cls]
    state = {**_moving_state(task), "action": _action(task)}
    found = task.observe(state)["body"].numpy()
    joints = len(task.model.joints) - 1
    assert found.shape == (N, *task.spec.observation_shapes["body"])
    for i in range(N):
        source, data = _mujoco(task, state, i)
        base = source.body(1).id
        rotation = data.xmat[base].reshape(3, 3)
        object_velocity = np.zeros(6)
        mujoco.mj_objectVelocity(source, data, mujoco.mjtObj.mjOBJ_XBODY, base, object_velocity, 0)
        local_velocity = np.zeros(6)
        mujoco.mj_objectVelocity(source, data, mujoco.mjtObj.mjOBJ_XBODY, base, local_velocity, 1)
        expected = [
            data.xpos[base][2:],
            data.xquat[base],
            object_velocity[3:],
            local_velocity[:3],
            [data.joint(j).qpos[0] for j in range(1, joints + 1)],
            [0.1 * data.joint(j).qvel[0] for j in range(1, joints + 1)],
            [rotation[2, 2], rotation[0, 0]],
            state["action"][i].numpy(),
        ]
        np.testing.assert_allclose(found[i], np.concatenate(expected), atol=1e-12)


@pytest.mark.parametrize("cls", RUNNERS)
def test_runners_are_rewarded_for_what_mujoco_sees(cls: type[Locomotion], built: dict[type[Task], RigidTask]) -> None:
    """The reward is forward velocity, uprightness, heading and height, less effort."""
    task, action = built[cls], _action(built[cls])
    state = _moving_state(task)
    found = task.reward(state, action, state)
    for i in range(N):
        _, data = _mujoco(task, state, i)
        rotation, height = data.xmat[1].reshape(3, 3), data.xpos[1][2]
        above = min(max(height - 0.84, -1.0), 0.1)
        terms = {Ant: height - 0.27, Anymal: height - 0.3, Humanoid: 10.0 * above if above > 0 else -200.0 * above**2}
        effort = {Ant: 0.0, Anymal: 0.01, Humanoid: 0.002}[cls] * float(action[i].square().sum())
        expected = data.qvel[0] + 0.1 * rotation[2, 2] + rotation[0, 0] + terms[cls] - effort
        assert float(found[i]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cls", RUNNERS)
def test_runners_end_when_they_fall(cls: type[Locomotion], built: dict[type[Task], RigidTask]) -> None:
    """An episode ends where the base is below its falling height, and nowhere else."""
    task = built[cls]
    state = _moving_state(task)
    state["q"][:, 2] = torch.tensor([1.0, -1e-6, 1e-6]) + task.falling_height
    assert task.terminated(state).tolist() == [False, True, False]


def test_hopper_sees_and_is_rewarded_for_what_mujoco_sees(built: dict[type[Task], RigidTask]) -> None:
    """Height, pitch and progress of the torso are the simulated torso's."""
    task, action = built[Hopper], _action(built[Hopper])
    assert isinstance(task, Hopper)
    state = _moving_state(task)
    found, reward = task.observe(state)["body"].numpy(), task.reward(state, action, state)
    for i in range(N):
        source, data = _mujoco(task, state, i)
        torso = source.body("torso").id
        height = data.xpos[torso][2] - 1.25
        pitch = np.arctan2(-data.xmat[torso].reshape(3, 3)[2, 0], data.xmat[torso].reshape(3, 3)[0, 0])
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(source, data, mujoco.mjtObj.mjOBJ_XBODY, torso, velocity, 0)
        joints = ["hip", "knee", "ankle"]
        angles, rates = ([float(getattr(data.joint(j), name)[0]) for j in joints] for name in ("qpos", "qvel"))
        expected = [height, pitch, *angles, velocity[3], velocity[5], velocity[1], *rates]
        np.testing.assert_allclose(found[i], expected, atol=1e-12)
        above = min(max(height + 0.3, -1.0), 0.3)
        value = velocity[3] + (above if above > 0 else -200.0 * above**2) + 1.0 - (pitch / np.radians(30.0)) ** 2
        assert float(reward[i]) == pytest.approx(value - 0.1 * float(action[i].square().sum()), abs=1e-12)


def test_a_falling_hopper_is_not_rewarded_for_it(built: dict[type[Task], RigidTask]) -> None:
    """Let go, the hopper falls: the height term and the pitch term sink, and the episode ends."""
    task = built[Hopper]
    state = task.initial_state(torch.Generator().manual_seed(0), 1)
    idle = torch.zeros(1, 3, dtype=torch.float64)
    start = float(task.reward(state, idle, state) - state["v"][:, 0])
    for _ in range(90):
        state = task.dynamics(state, idle)
    assert float(task.reward(state, idle, state) - state["v"][:, 0]) < start - 1.0
    assert bool(task.terminated(state))


def test_cartpole_sees_and_is_rewarded_for_what_mujoco_sees(built: dict[type[Task], RigidTask]) -> None:
    """Angle zero is upright, and the angle is wrapped."""
    task, action = built[CartpoleSwingup], _action(built[CartpoleSwingup])
    state = _moving_state(task)
    state["q"][:, 1] = torch.tensor([0.3, -2.0, 6.5])
    found, reward = task.observe(state)["state"].numpy(), task.reward(state, action, state)
    for i in range(N):
        source, data = _mujoco(task, state, i)
        up = data.xmat[source.body("pole").id].reshape(3, 3)[:, 2]
        x, speed, rate = data.xpos[1][0], data.qvel[0], data.qvel[1]
        np.testing.assert_allclose(found[i], [x, speed, up[0], up[2], rate], atol=1e-12)
        angle = np.arctan2(up[0], up[2])
        expected = -(angle**2 + 0.1 * rate**2 + 0.05 * x**2 + 0.1 * speed**2)
        assert float(reward[i]) == pytest.approx(expected, abs=1e-12)


def test_hand_sees_and_is_rewarded_for_what_mujoco_sees(built: dict[type[Task], RigidTask]) -> None:
    """The observation holds the cube's pose, velocities and goal; the reward its distance and angle to the goal."""
    task, action = built[HandReorient], _action(built[HandReorient])
    assert isinstance(task, HandReorient)
    state = {**_moving_state(task), "action": action}
    found = task.observe(state)["hand"].numpy()
    goal = task.goal(state)
    reward = task.reward(state, action, state)
    for i in range(N):
        source, data = _mujoco(task, state, i)
        cube = source.body("cube").id
        velocity, inverse, between = np.zeros(6), np.zeros(4), np.zeros(4)
        mujoco.mj_objectVelocity(source, data, mujoco.mjtObj.mjOBJ_XBODY, cube, velocity, 0)
        mujoco.mju_negQuat(inverse, goal[i].numpy())
        mujoco.mju_mulQuat(between, data.xquat[cube], inverse)
        between *= 1.0 if between[0] >= 0.0 else -1.0
        home = source.body("cube").pos
        expected = [data.qpos[:16], data.qvel[:16], data.xpos[cube], data.xquat[cube], velocity[3:], data.qvel[19:22]]
        expected += [home, goal[i].numpy(), between, action[i].numpy()]
        np.testing.assert_allclose(found[i], np.concatenate(expected), atol=1e-12)
        angle = 2.0 * np.arccos(min(between[0], 1.0))
        distance = np.linalg.norm(data.xpos[cube] - home)
        value = -10.0 * distance + 1.0 / (angle + 0.1) - 0.0002 * float(action[i].square().sum())
        assert float(reward[i]) == pytest.approx(value, abs=1e-5)


def test_hand_moves_on_to_the_next_goal(built: dict[type[Task], RigidTask]) -> None:
    """A goal reached pays 250 once, and the next one of the episode is another."""
    task = built[HandReorient]
    assert isinstance(task, HandReorient)
    state = task.initial_state(torch.Generator().manual_seed(1), N)
    idle = torch.zeros(N, 16, dtype=torch.float64)
    attitude = task.dynamics(state, idle)["q"][:, -4:]
    state["goals"][0, 0] = attitude[0]
    next_state = task.dynamics(state, idle)
    assert next_state["successes"].tolist() == [1, 0, 0]
    assert float(task.reward(state, idle, next_state)[0]) > 250.0
    assert float(attitude_error(next_state["q"][:1, -4:], task.goal(next_state)[:1])) > 0.1


@pytest.mark.parametrize("cls", TASKS)
def test_scenes_show_every_geom_above_the_ground(cls: type[RigidTask], built: dict[type[Task], RigidTask]) -> None:
    """The picture has all geoms, y up, at reset not below the ground by more than a contact gives way."""
    task = built[cls]
    scene = task.scene(task.initial_state(torch.Generator().manual_seed(0), 2), 1)
    assert len(scene.meshes) == len(task.model.geoms)
    lowest = min(float(mesh.vertices[:, 1].min()) for mesh in scene.meshes)
    assert lowest > -0.15
