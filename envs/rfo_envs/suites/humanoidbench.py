"""Tasks of HumanoidBench (arXiv 2403.10506) for the H1 robot without hands, where the suite is installed.

The suite is not on PyPI, and what it asks for besides (an old mujoco, jax) is not needed here: install it without its
dependencies. Its tasks keep a little memory of their own, and draw from numpy's global generator; both are dealt with.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any, ClassVar

import numpy as np

from rfo.core.errors import UsageError
from rfo.core.task import TaskSpec
from rfo_envs.suites.gymnasium import GymnasiumSimulator
from rfo_envs.suites.stepped import Array, Frame, Simulator, SteppedTask, require_mujoco

__all__ = ["HumanoidBenchTask"]

INSTALL = (
    "git clone https://github.com/carlosferrazza/humanoid-bench && pip install --no-deps -e humanoid-bench, "
    "beside 'rfo[suites]'"
)


class _HumanoidBench:
    """One environment of HumanoidBench that can be put into any of its states.

    Args:
        name: Registered in Gymnasium.
        memory: Attributes of the suite's task object that outlast a step.
    """

    def __init__(self, name: str, memory: tuple[str, ...]) -> None:
        os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is drawn
        with contextlib.redirect_stdout(io.StringIO()):  # the suite prints while it is built
            import humanoid_bench  # noqa: F401 - registers the environments

            self._simulator = GymnasiumSimulator(name)
        self._task: Any = self._simulator.env.task
        self._memory = memory

    def reset(self, seed: int) -> Frame:
        """Begins an episode."""
        before = np.random.get_state()
        np.random.seed(seed)  # what the suite's own `seed` does
        try:
            return self._with_memory(self._simulator.reset(seed))
        finally:
            np.random.set_state(before)

    def step(self, physics: Array, action: Array) -> Frame:
        """Advances by one control step."""
        start = len(physics)
        for name in reversed(self._memory):
            value = np.asarray(getattr(self._task, name))
            start -= value.size
            kept = physics[start : start + value.size].reshape(value.shape).astype(value.dtype)
            setattr(self._task, name, kept if value.shape else kept.item())
        return self._with_memory(self._simulator.step(physics[:start], action))

    def _with_memory(self, frame: Frame) -> Frame:
        kept = [np.ravel(np.asarray(getattr(self._task, name), dtype=np.float64)) for name in self._memory]
        return Frame(np.concatenate([frame.physics, *kept]), frame.observation, frame.reward, frame.terminated)


class HumanoidBenchTask(SteppedTask):
    """A task of HumanoidBench: the H1 robot, position control, episodes of 1000 control steps."""

    name: ClassVar[str]
    memory: ClassVar[tuple[str, ...]]

    def make_simulator(self) -> Simulator:
        """Loads the suite's environment."""
        require_mujoco(self.spec.id, "HumanoidBench")
        try:
            return _HumanoidBench(self.name, self.memory)
        except ImportError as error:
            raise UsageError(f"{self.spec.id} needs HumanoidBench, which is not on PyPI: {INSTALL}") from error


def _task(task: str, observation: int, *memory: str) -> Any:
    env_id = f"hb-h1-{task}".replace("_", "-")
    spec = TaskSpec(env_id, "mujoco", 19, 1000, 0.02, {"state": (observation,)}, differentiable=False)
    body = {"spec": spec, "name": f"h1-{task}-v0", "memory": memory, "__module__": __name__}
    return type(f"h1_{task}".title().replace("_", ""), (HumanoidBenchTask,), body | {"__doc__": f"H1, {task}."})


BalanceHard = _task("balance_hard", 77)
BalanceSimple = _task("balance_simple", 64)
Crawl = _task("crawl", 51)
Hurdle = _task("hurdle", 51)
Maze = _task("maze", 51, "move_direction", "maze_stage")
Reach = _task("reach", 57, "goal")
Run = _task("run", 51)
SitHard = _task("sit_hard", 64)
SitSimple = _task("sit_simple", 51)
Slide = _task("slide", 51)
Stair = _task("stair", 51)
Stand = _task("stand", 51)
Walk = _task("walk", 51)
