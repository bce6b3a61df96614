"""Cube manipulation of OGBench: a UR5e arm moves cubes to given places (arXiv 2410.20092).

These are the suite's single-task environments. Their data sets, for example cube-single-play-v0, are downloads; the
suite also ships scripts, with which `rfo collect ID --policy oracle` makes a data set locally.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.oracle import Oracle
from rfo.core.task import State, TaskSpec
from rfo_envs.suites.cube_oracle import IN_PLACE, CubeOracle, cube_positions
from rfo_envs.suites.stepped import Array, Frame, PhysicsRecord, Simulator, SteppedTask, require_mujoco

__all__ = ["CubeTask"]

READ_BEFORE_STEP = ("site_xpos", "site_xmat")
"""Derived arrays from which the arm's controller reads where the gripper is; MuJoCo's own state does not hold them."""


class _Cube:
    """One environment of OGBench that can be put into any of its states."""

    def __init__(self, cubes: str, task: int) -> None:
        self._env = _seeded_class()(
            cubes, permute_blocks=False, success_timing="pre", visualize_info=False, reward_task_id=task
        )
        self._env.reset(seed=0)
        data = self._env.data
        self._record = PhysicsRecord(self._env.model, data, [getattr(data, name) for name in READ_BEFORE_STEP])

    @property
    def env(self) -> Any:
        """The suite's own object."""
        return self._env

    @property
    def goals(self) -> Array:
        """Where each cube belongs [m], shape [cubes, 3]."""
        return np.asarray(self._env.cur_task_info["goal_xyzs"], dtype=np.float64)

    def reset(self, seed: int) -> Frame:
        """Begins an episode."""
        observation, _ = self._env.reset(seed=seed)
        return Frame(self._record.read(), np.asarray(observation, dtype=np.float64))

    def step(self, physics: Array, action: Array) -> Frame:
        """Advances by one control step; reward and termination are those of the state it begins from."""
        if self._record.write(physics):
            self._env.post_step()  # whether the cubes are in place is remembered from here
        observation, reward, terminated, _, _ = self._env.step(action)
        return Frame(self._record.read(), np.asarray(observation, dtype=np.float64), float(reward), bool(terminated))


def _seeded_class() -> Any:
    """Returns the suite's class with its one unseeded draw, of two random actions in `reset`, made from the seed."""
    os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is drawn; importing must not look for a display
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite imports a viewer, which does look for one
        from ogbench.manipspace.envs.cube_env import CubeEnv
    from gymnasium.spaces import Box

    class Seeded(CubeEnv):  # type: ignore[misc]  # the suite has no types
        box = Box(-1.0, 1.0, (5,), np.float32)

        @property
        def action_space(self) -> Any:
            return self.box

        def reset(self, seed: int | None = None, **more: Any) -> Any:
            self.box.seed(seed)
            return super().reset(seed=seed, **more)

    return Seeded


class CubeTask(SteppedTask):
    """A single-task environment: each cube that is not in place costs 1 per step, and the episode ends when all are.

    Scripts: "goal" moves one cube after the other to its
    goal, "play" moves cubes to random places, as the suite's play data do.
    """

    cubes: ClassVar[str]
    task: ClassVar[int]
    oracles = ("goal", "play")

    def make_simulator(self) -> Simulator:
        """Loads the suite's environment."""
        require_mujoco(self.spec.id, "ogbench")
        try:
            return _Cube(self.cubes, self.task)
        except ImportError as error:
            raise UsageError(f"{self.spec.id} needs ogbench: pip install 'rfo[suites]'") from error

    def metrics(self, state: State) -> dict[str, Tensor]:
        """`success`: whether every cube is in place, within 4 cm of its goal."""
        simulator = self.simulator
        assert isinstance(simulator, _Cube)
        goals = torch.as_tensor(simulator.goals, dtype=self.dtype, device=self.device)
        far = (cube_positions(state["observation"]) - goals).norm(dim=-1) > IN_PLACE
        return {"success": (~far).all(dim=-1).to(self.dtype)}

    def make_oracle(self, name: str, n: int, seed: int) -> Oracle:
        """Builds the suite's own script, one per environment."""
        simulator = self.simulator
        assert isinstance(simulator, _Cube)
        return CubeOracle(simulator.env, simulator.goals, n, seed, play=name == "play")


def _task(cubes: str, count: int, length: int, task: int) -> Any:
    spec = TaskSpec(
        f"og-cube-{cubes}-task{task}", "mujoco", 5, length, 0.05, {"state": (19 + 9 * count,)}, differentiable=False
    )
    text = f"OGBench's cube-{cubes}-singletask-task{task}-v0."
    body = {"spec": spec, "cubes": cubes, "task": task, "__doc__": text, "__module__": __name__}
    return type(f"Cube{cubes.title()}Task{task}", (CubeTask,), body)


CubeSingleTask1 = _task("single", 1, 200, 1)
CubeSingleTask2 = _task("single", 1, 200, 2)
CubeSingleTask3 = _task("single", 1, 200, 3)
CubeSingleTask4 = _task("single", 1, 200, 4)
CubeSingleTask5 = _task("single", 1, 200, 5)
CubeDoubleTask1 = _task("double", 2, 500, 1)
CubeDoubleTask2 = _task("double", 2, 500, 2)
CubeDoubleTask3 = _task("double", 2, 500, 3)
CubeDoubleTask4 = _task("double", 2, 500, 4)
CubeDoubleTask5 = _task("double", 2, 500, 5)
