"""The environment contract: a task is a set of pure functions of a batched state.

State in, state out. A task never stores the state it simulates, so a window can be cut, replayed or checkpointed by
holding on to a dictionary of tensors. Time limits, resets and statistics belong to the shell (`rfo.core.shell`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.scene import Scene

__all__ = ["CheckSituation", "Observation", "Renderer", "State", "Task", "TaskSpec"]

State = dict[str, Tensor]
"""Named tensors whose first dimension is the environment."""

Observation = dict[str, Tensor]
"""Named tensors: low-dimensional [N, D], points [N, P, C], images [N, C, H, W]."""

Renderer = Callable[[State, int], npt.NDArray[np.uint8]]
"""Draws one environment of a batched state, by its index: sRGB, shape [height, width, 3]."""


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task before anything is built.

    Attributes:
        id: Registered name.
        engine: What simulates it, for example "warp-fem" or "torch".
        action_dim: Number of action entries; every entry lies in [-1, 1].
        episode_length: Control steps until the time limit.
        control_dt: Simulated time per control step [s].
        observation_shapes: Shape of each observation key without the environment dimension.
        differentiable: Whether `dynamics` carries gradients.
        synchronous: Whether all environments of a batch must end their episodes together.
    """

    id: str
    engine: str
    action_dim: int
    episode_length: int
    control_dt: float
    observation_shapes: Mapping[str, tuple[int, ...]]
    differentiable: bool = True
    synchronous: bool = False


@dataclass(frozen=True)
class CheckSituation:
    """A state in which gradients are checked, and how closely they must agree with differences.

    Attributes:
        state: Batched state, float64.
        limit: Largest relative error of a directional derivative.
        steps: Control steps through which the gradient runs.
    """

    state: State
    limit: float = 1e-6
    steps: int = 2


class Task(ABC):
    """A batched Markov decision process on torch tensors.

    Subclasses set `spec` and implement the five abstract methods; every one takes and returns tensors whose first
    dimension is the environment, for any number of environments. Actions arrive clipped to [-1, 1].

    Args:
        device: Torch device of every tensor.
        dtype: Scalar type of the simulation (float32 to train, float64 to check).
        threads: Cores the engine may use; None for all.
    """

    spec: ClassVar[TaskSpec]

    def __init__(
        self, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, threads: int | None = None
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.threads = threads

    @abstractmethod
    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Draws `n` states to begin episodes from, with all randomness taken from `generator`."""

    @abstractmethod
    def dynamics(self, state: State, action: Tensor) -> State:
        """Advances by one control step.

        Args:
            state: State at the start of the step.
            action: Shape [N, action_dim].
        """

    @abstractmethod
    def observe(self, state: State) -> Observation:
        """Returns what a policy sees of a state."""

    @abstractmethod
    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Returns the reward of a transition, shape [N]."""

    def terminated(self, state: State) -> Tensor:
        """Returns where an episode has failed or finished for good, bool [N]; nowhere unless overridden."""
        first = next(iter(state.values()))
        return torch.zeros(first.shape[0], dtype=torch.bool, device=first.device)

    def position(self, state: State) -> Tensor | None:
        """Returns the body's position along its forward axis [m], shape [N], where a distance has a meaning."""
        return None

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Returns further figures to report in evaluations, each of shape [N]."""
        return {}

    def physics_operations(self) -> tuple[float, float] | None:
        """Returns the arithmetic of one control step of one environment, forward and adjoint, where it is counted."""
        return None

    def physics_replays(
        self, state: State, action: Tensor, steps: int
    ) -> tuple[Callable[[], None], Callable[[], None]] | None:
        """Returns the kernels of control steps without torch, forward, and forward and backward, where they exist."""
        return None

    def scene(self, state: State, index: int) -> Scene:
        """Returns what environment `index` looks like."""
        raise NotImplementedError(f"{self.spec.id} has no picture: implement Task.scene to record it")

    def renderer(self, name: str, width: int, height: int) -> Renderer:
        """Returns a renderer that the task brings along beside its `scene`.

        Args:
            name: For example "mujoco".
            width: Picture width [px].
            height: Picture height [px].

        Raises:
            UsageError: The task has none of this name, or it does not work on this machine.
        """
        raise UsageError(f"{self.spec.id} has no renderer {name!r}; leave --renderer out to draw its scene")

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """Returns the states in which `rfo check` compares gradients with differences."""
        return {"reset": CheckSituation(self.initial_state(generator, n))}
