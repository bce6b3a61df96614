"""The shell around a task: time limits, auto-reset, clipping, finiteness, and where gradients are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rfo.core.errors import EngineLimitError, SimulationDivergedError
from rfo.core.task import Observation, State, Task

__all__ = ["Transition", "VectorEnv"]


@dataclass(frozen=True)
class Transition:
    """What one control step of a batch returns.

    Attributes:
        observation: What the policy sees next: of the new episode where one has begun.
        reward: Shape [N].
        terminated: The episode failed or finished for good, bool [N].
        truncated: The time limit was reached without termination, bool [N].
        final_observation: Observation after the step and before any reset: what a value bootstraps from.
    """

    observation: Observation
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Observation

    @property
    def done(self) -> Tensor:
        """Where an episode ended, bool [N]."""
        return self.terminated | self.truncated


class VectorEnv:
    """`n` copies of a task stepped together.

    The gradient flows from step to step and is cut in two places only: at a reset, and in `begin_window`.

    Args:
        task: The task to run.
        n: Number of environments.
        seed: Seed of every random draw of the environments.
        stagger: Spread the first episodes' clocks over the episode length, so that resets do not coincide.
    """

    def __init__(self, task: Task, n: int, *, seed: int = 0, stagger: bool = False) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.task = task
        self.n = n
        self.generator = torch.Generator(device=task.device).manual_seed(seed)
        self.state: State = {}
        self.elapsed = torch.zeros(n, dtype=torch.int64, device=task.device)
        self._stagger = stagger and not task.spec.synchronous

    def reset(self) -> Observation:
        """Begins new episodes everywhere."""
        self.state = self.task.initial_state(self.generator, self.n)
        self.elapsed.zero_()
        if self._stagger:
            length = self.task.spec.episode_length
            self.elapsed = torch.randint(length, (self.n,), generator=self.generator, device=self.elapsed.device)
        return self.task.observe(self.state)

    def begin_window(self) -> Observation:
        """Cuts the gradient and returns the observation from which a window starts."""
        if not self.state:
            return self.reset()
        self.state = {name: tensor.detach() for name, tensor in self.state.items()}
        return self.task.observe(self.state)

    def step(self, action: Tensor) -> Transition:
        """Advances every environment by one control step and begins a new episode where one ended.

        Args:
            action: Shape [N, action_dim]; clipped to [-1, 1], with zero gradient outside.

        Raises:
            SimulationDivergedError: A state or reward is not finite, or the engine refused the step.
        """
        task, state = self.task, self.state
        action = action.clamp(-1.0, 1.0)
        next_state = self._advance(state, action)
        reward = task.reward(state, action, next_state)
        self.elapsed = self.elapsed + 1
        self._require_finite(state, action, {**next_state, "reward": reward})
        terminated = task.terminated(next_state)
        truncated = (self.elapsed >= task.spec.episode_length) & ~terminated
        final_observation = observation = task.observe(next_state)
        done = terminated | truncated
        if bool(done.any()):
            next_state, observation = self._reset_where(done, next_state, observation)
        self.state = next_state
        return Transition(observation, reward, terminated, truncated, final_observation)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit."""
        return {
            "state": {name: tensor.detach().clone() for name, tensor in self.state.items()},
            "elapsed": self.elapsed.clone(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        self.state = {name: tensor.clone() for name, tensor in state_dict["state"].items()}
        self.elapsed = state_dict["elapsed"].clone()
        self.generator.set_state(state_dict["generator"])

    def _advance(self, state: State, action: Tensor) -> State:
        try:
            return self.task.dynamics(state, action)
        except EngineLimitError as error:
            index, replay = error.env_index, _replay(state, action)
            step = int(self.elapsed[index]) + 1
            raise SimulationDivergedError(
                self.task.spec.id, index, step, "state", replay, problem=error.problem, advice=error.advice
            ) from error

    def _reset_where(self, done: Tensor, state: State, observation: Observation) -> tuple[State, Observation]:
        # Only the environments that ended are drawn and observed, and their gradient ends here. Unlike index_copy,
        # index_put leaves tensors in the memory order that the engine copies fastest.
        index = done.nonzero().squeeze(1)
        fresh = self.task.initial_state(self.generator, len(index))
        seen = self.task.observe(fresh)
        self.elapsed = self.elapsed.masked_fill(done, 0)
        begun = {name: tensor.index_put((index,), fresh[name]) for name, tensor in state.items()}
        return begun, {name: tensor.index_put((index,), seen[name]) for name, tensor in observation.items()}

    def _require_finite(self, state: State, action: Tensor, produced: State) -> None:
        with torch.no_grad():
            for name, tensor in produced.items():
                # A sum is finite only if its terms are, and one number is cheaper to ask than a mask.
                if not tensor.is_floating_point() or math.isfinite(tensor.sum().item()):
                    continue
                finite = tensor.reshape(self.n, -1).isfinite().all(dim=1)
                if bool(finite.all()):
                    continue
                index = int((~finite).nonzero()[0])
                step, replay = int(self.elapsed[index]), _replay(state, action)
                raise SimulationDivergedError(self.task.spec.id, index, step, name, replay)


def _replay(state: State, action: Tensor) -> dict[str, Any]:
    return {"state": {key: value.detach() for key, value in state.items()}, "action": action.detach()}
