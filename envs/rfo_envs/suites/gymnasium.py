"""MuJoCo tasks of Gymnasium, version 5."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rfo.core.errors import UsageError
from rfo.core.task import TaskSpec
from rfo_envs.suites.stepped import Array, Frame, PhysicsRecord, Simulator, SteppedTask, require_mujoco, scaled

__all__ = ["GymnasiumSimulator", "GymnasiumTask"]

READ_BEFORE_STEP = ("xpos", "xipos")
"""Derived arrays from which some tasks read where they were; MuJoCo's own state does not hold them."""


class GymnasiumSimulator:
    """One environment of Gymnasium that can be put into any of its states.

    Args:
        name: Registered in Gymnasium.
    """

    def __init__(self, name: str) -> None:
        import gymnasium

        self.env: Any = gymnasium.make(name, disable_env_checker=True).unwrapped
        self._low = np.asarray(self.env.action_space.low, dtype=np.float64)
        self._high = np.asarray(self.env.action_space.high, dtype=np.float64)
        data = self.env.data
        self._record = PhysicsRecord(self.env.model, data, [getattr(data, name) for name in READ_BEFORE_STEP])

    def reset(self, seed: int) -> Frame:
        """Begins an episode."""
        observation, _ = self.env.reset(seed=seed)
        return Frame(self._record.read(), np.asarray(observation, dtype=np.float64))

    def step(self, physics: Array, action: Array) -> Frame:
        """Advances by one control step."""
        self._record.write(physics)
        observation, reward, terminated, _, _ = self.env.step(scaled(action, self._low, self._high))
        return Frame(self._record.read(), np.asarray(observation, dtype=np.float64), float(reward), bool(terminated))


class GymnasiumTask(SteppedTask):
    """A task of Gymnasium with its own rewards and terminations; actions are scaled to its bounds."""

    name: ClassVar[str]

    def make_simulator(self) -> Simulator:
        """Loads the suite's environment."""
        require_mujoco(self.spec.id, "gymnasium")
        try:
            return GymnasiumSimulator(self.name)
        except ImportError as error:
            raise UsageError(f"{self.spec.id} needs gymnasium: pip install 'rfo[suites]'") from error


def _task(env_id: str, name: str, observation: int, action: int, dt: float) -> Any:
    spec = TaskSpec(env_id, "mujoco", action, 1000, dt, {"state": (observation,)}, differentiable=False)
    body = {"spec": spec, "name": name, "__doc__": f"Gymnasium's {name}.", "__module__": __name__}
    return type(name.removesuffix("-v5"), (GymnasiumTask,), body)


Ant = _task("gym-ant", "Ant-v5", 105, 8, 0.05)
HalfCheetah = _task("gym-half-cheetah", "HalfCheetah-v5", 17, 6, 0.05)
Hopper = _task("gym-hopper", "Hopper-v5", 11, 3, 0.008)
Humanoid = _task("gym-humanoid", "Humanoid-v5", 348, 17, 0.015)
HumanoidStandup = _task("gym-humanoid-standup", "HumanoidStandup-v5", 348, 17, 0.015)
InvertedDoublePendulum = _task("gym-inverted-double-pendulum", "InvertedDoublePendulum-v5", 9, 1, 0.05)
InvertedPendulum = _task("gym-inverted-pendulum", "InvertedPendulum-v5", 4, 1, 0.04)
Swimmer = _task("gym-swimmer", "Swimmer-v5", 8, 2, 0.04)
Walker2d = _task("gym-walker2d", "Walker2d-v5", 17, 6, 0.008)
