"""A smooth toy task on which learners are tested."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rfo.core.task import Observation, State, Task, TaskSpec


class Pushed(Task):
    """A damped nonlinear pair of masses that should stand still at one; every function is smooth."""

    spec: ClassVar[TaskSpec] = TaskSpec("pushed", "torch", 2, 6, 0.1, {"q": (2,), "qd": (2,)})

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins near zero."""
        q = 0.3 * torch.randn(n, 2, generator=generator, dtype=self.dtype)
        return {"q": q, "qd": torch.zeros(n, 2, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Semi-implicit Euler with a sine spring."""
        qd = 0.9 * state["qd"] + 0.5 * action - 0.2 * torch.sin(state["q"])
        return {"q": state["q"] + 0.3 * qd, "qd": qd}

    def observe(self, state: State) -> Observation:
        """Shows everything."""
        return {"q": state["q"], "qd": state["qd"]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Pays for standing at one with little effort."""
        return -(next_state["q"] - 1.0).square().sum(dim=1) - 0.01 * action.square().sum(dim=1)


class Cloud(Pushed):
    """The same masses, seen as points besides."""

    spec: ClassVar[TaskSpec] = TaskSpec("cloud", "torch", 2, 6, 0.1, {"q": (2,), "points": (3, 2)})

    def observe(self, state: State) -> Observation:
        """Shows positions and three points that move with them."""
        q = state["q"]
        return {"q": q, "points": torch.stack([q, q.square(), state["qd"]], dim=1)}
