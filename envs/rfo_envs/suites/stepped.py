"""A stateful simulator as a task: its whole state goes into the state dictionary and back.

MuJoCo keeps its state in an object of its own. Here one object serves all environments: before a step it is given the
state of the environment in question, after it the new state is read out. The state travels as the bits of the float64
numbers, in int64 tensors, so that it survives a float32 task unrounded and an episode equals, bit for bit, the one that
the suite itself runs. Observation, reward and termination are read at the step and travel beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.task import Observation, State, Task

__all__ = ["Array", "Frame", "PhysicsRecord", "Simulator", "SteppedTask", "require_mujoco", "scaled"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """What a simulator shows of one environment.

    Attributes:
        physics: Everything that the next step depends on, shape [S].
        observation: Shape [O].
        reward: Of the step that led here; zero after a reset.
        terminated: Whether the episode failed or finished for good.
    """

    physics: Array
    observation: Array
    reward: float = 0.0
    terminated: bool = False


class Simulator(Protocol):
    """One environment of a suite that can be put into any of its states."""

    def reset(self, seed: int) -> Frame:
        """Begins an episode that depends on nothing but the seed."""
        ...

    def step(self, physics: Array, action: Array) -> Frame:
        """Advances by one control step from a given state, by an action in [-1, 1]."""
        ...


class PhysicsRecord:
    """Reads and writes everything of a MuJoCo simulation that its next step depends on.

    Args:
        model: `mujoco.MjModel`.
        data: `mujoco.MjData`.
        arrays: Further arrays to carry: of the model where a reset moves something, derived ones of the data where a
            suite reads them before it steps.
    """

    def __init__(self, model: Any, data: Any, arrays: list[Any]) -> None:
        import mujoco

        self._mujoco, self._model, self._data, self._arrays = mujoco, model, data, arrays
        self._signature = mujoco.mjtState.mjSTATE_INTEGRATION
        self._core = mujoco.mj_stateSize(model, self._signature)
        self._held: Array | None = None

    def read(self) -> Array:
        """Returns the state, shape [S], and remembers that the simulation is in it."""
        core = np.empty(self._core)
        self._mujoco.mj_getState(self._model, self._data, core, self._signature)
        self._held = np.concatenate([core, *(array.ravel() for array in self._arrays)])
        return self._held

    def write(self, physics: Array) -> bool:
        """Puts the simulation into a state; returns whether it was in another one."""
        if self._held is not None and np.array_equal(self._held, physics):
            return False
        self._mujoco.mj_setState(self._model, self._data, physics[: self._core], self._signature)
        start = self._core
        for array in self._arrays:
            array[...] = physics[start : start + array.size].reshape(array.shape)
            start += array.size
        self._held = None
        return True


class SteppedTask(Task):
    """A task on a `Simulator`.

    State: "physics", int64 [N, S], the bits of float64 numbers; "observation" [N, O], "reward" [N] and "terminated"
    [N] of the step that led there.
    """

    @abstractmethod
    def make_simulator(self) -> Simulator:
        """Loads the suite's environment.

        Raises:
            UsageError: The suite is not installed.
        """

    @cached_property
    def simulator(self) -> Simulator:
        """The suite's environment, loaded when it is first needed."""
        return self.make_simulator()

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Resets with seeds drawn from the generator."""
        seeds = torch.randint(2**31 - 1, (n,), generator=generator, device=generator.device).tolist()
        return self._state([self.simulator.reset(seed) for seed in seeds])

    def dynamics(self, state: State, action: Tensor) -> State:
        """Steps one environment after the other."""
        physics = state["physics"].cpu().numpy().view(np.float64)
        actions = action.detach().cpu().numpy().astype(np.float64)
        return self._state([self.simulator.step(p, a) for p, a in zip(physics, actions, strict=True)])

    def observe(self, state: State) -> Observation:
        """The suite's observation, its entries joined."""
        return {"state": state["observation"]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """The suite's reward."""
        return next_state["reward"]

    def terminated(self, state: State) -> Tensor:
        """Where the suite ended the episode, its time limit aside."""
        return state["terminated"]

    def _state(self, frames: list[Frame]) -> State:
        physics = np.stack([frame.physics for frame in frames])
        observation = np.stack([frame.observation for frame in frames])
        if observation.shape[1:] != self.spec.observation_shapes["state"]:
            raise UsageError(
                f"{self.spec.id}: the installed suite observes {observation.shape[1]} numbers, this version of rfo "
                f"expects {self.spec.observation_shapes['state'][0]}; install the versions of `rfo[suites]`"
            )
        return {
            "physics": torch.from_numpy(physics.view(np.int64)).to(self.device),
            "observation": torch.from_numpy(observation).to(self.device, self.dtype),
            "reward": torch.tensor([frame.reward for frame in frames], dtype=self.dtype, device=self.device),
            "terminated": torch.tensor([frame.terminated for frame in frames], device=self.device),
        }


def scaled(action: Array, low: Array, high: Array) -> Array:
    """Maps [-1, 1] to the suite's own bounds."""
    return low + 0.5 * (action + 1.0) * (high - low)


def require_mujoco(env_id: str, package: str) -> None:
    """Raises a `UsageError` unless MuJoCo is there in a version that the suites run with."""
    try:
        import mujoco
    except ImportError as error:
        raise UsageError(f"{env_id} needs {package} and mujoco: pip install 'rfo[suites]'") from error
    if int(mujoco.__version__.split(".")[0]) >= 4:
        raise UsageError(f"{env_id} needs mujoco before 4, found {mujoco.__version__}: pip install 'mujoco>=3.17,<4'")
