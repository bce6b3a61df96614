"""Tasks of the DeepMind Control Suite."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np

from rfo.core.errors import UsageError
from rfo.core.task import TaskSpec
from rfo_envs.suites.stepped import Array, Frame, PhysicsRecord, Simulator, SteppedTask, require_mujoco, scaled

__all__ = ["DMControlTask"]

MOVED_BY_RESET = ("body_pos", "geom_pos", "site_pos")
"""Arrays of the model in which some tasks place their targets when an episode begins."""


class _DMControl:
    """One environment of dm_control that can be put into any of its states."""

    def __init__(self, domain: str, task: str) -> None:
        from dm_control import suite

        self._env = suite.load(domain, task)
        spec = self._env.action_spec()
        self._low, self._high = spec.minimum, spec.maximum
        physics = self._env.physics
        self._physics = physics
        import mujoco

        self._step1 = mujoco.mj_step1
        self._model, self._data = physics.model.ptr, physics.data.ptr
        self._record = PhysicsRecord(self._model, self._data, [getattr(self._model, name) for name in MOVED_BY_RESET])

    def reset(self, seed: int) -> Frame:
        """Begins an episode."""
        self._env.task._random = np.random.RandomState(seed)  # what the task's constructor does with a seed
        with self._physics.reset_context():
            self._env.task.initialize_episode(self._physics)
        observation = self._observe()
        return Frame(self._record.read(), observation)

    def step(self, physics: Array, action: Array) -> Frame:
        """Advances by one control step; the order of calls is that of `dm_control.rl.control.Environment.step`."""
        if self._record.write(physics):
            # dm_control's steps begin with positions and velocities that are up to date.
            self._step1(self._model, self._data)
        task = self._env.task
        task.before_step(scaled(action, self._low, self._high), self._physics)
        self._physics.step(self._env._n_sub_steps)
        task.after_step(self._physics)
        reward, observation = task.get_reward(self._physics), self._observe()
        terminated = task.get_termination(self._physics) is not None
        return Frame(self._record.read(), observation, float(reward or 0.0), terminated)

    def _observe(self) -> Array:
        parts = self._env.task.get_observation(self._physics).values()
        return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts])


class DMControlTask(SteppedTask):
    """A task of the suite: episodes of 1000 control steps, unless they take 25 s or more, rewards in [0, 1]."""

    domain: ClassVar[str]
    task: ClassVar[str]

    def make_simulator(self) -> Simulator:
        """Loads the suite's environment."""
        require_mujoco(self.spec.id, "dm_control")
        os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is drawn; importing must not look for a display
        try:
            return _DMControl(self.domain, self.task)
        except ImportError as error:
            raise UsageError(f"{self.spec.id} needs dm_control: pip install 'rfo[suites]'") from error


def _task(domain: str, task: str, observation: int, action: int, dt: float, length: int = 1000) -> Any:
    env_id = f"dm-{domain}-{task}".replace("_", "-")
    spec = TaskSpec(env_id, "mujoco", action, length, dt, {"state": (observation,)}, differentiable=False)
    body = {"spec": spec, "domain": domain, "task": task, "__doc__": f"{domain}, {task}.", "__module__": __name__}
    return type(f"{domain}_{task}".title().replace("_", ""), (DMControlTask,), body)


AcrobotSwingup = _task("acrobot", "swingup", 6, 1, 0.01)
BallInCupCatch = _task("ball_in_cup", "catch", 8, 2, 0.02)
CartpoleBalance = _task("cartpole", "balance", 5, 1, 0.01)
CartpoleSwingup = _task("cartpole", "swingup", 5, 1, 0.01)
CheetahRun = _task("cheetah", "run", 17, 6, 0.01)
DogRun = _task("dog", "run", 223, 38, 0.015)
DogStand = _task("dog", "stand", 223, 38, 0.015)
DogTrot = _task("dog", "trot", 223, 38, 0.015)
DogWalk = _task("dog", "walk", 223, 38, 0.015)
FingerSpin = _task("finger", "spin", 9, 2, 0.02)
HopperHop = _task("hopper", "hop", 15, 4, 0.02)
HopperStand = _task("hopper", "stand", 15, 4, 0.02)
HumanoidRun = _task("humanoid", "run", 67, 21, 0.025)
HumanoidStand = _task("humanoid", "stand", 67, 21, 0.025)
HumanoidWalk = _task("humanoid", "walk", 67, 21, 0.025)
PendulumSwingup = _task("pendulum", "swingup", 3, 1, 0.02)
QuadrupedRun = _task("quadruped", "run", 78, 12, 0.02)
QuadrupedWalk = _task("quadruped", "walk", 78, 12, 0.02)
ReacherEasy = _task("reacher", "easy", 6, 2, 0.02)
WalkerRun = _task("walker", "run", 24, 6, 0.025)
WalkerStand = _task("walker", "stand", 24, 6, 0.025)
WalkerWalk = _task("walker", "walk", 24, 6, 0.025)
