"""Solvers for dx/du = v(x, u) on [0, 1] with fixed steps; the gradient runs through every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rfo.flow.velocity import Velocity

__all__ = ["SOLVERS", "Euler", "Midpoint", "Solver", "SolverName", "integrate"]

SolverName = Literal["euler", "midpoint"]


class Solver(Protocol):
    """A one-step method."""

    def step(self, velocity: Velocity, x: Tensor, u: float, dt: float) -> Tensor:
        """Advances x from flow time u to u + dt."""
        ...


@dataclass(frozen=True)
class Euler:
    """x + dt v(x, u): first order, one evaluation per step (RFO, arXiv 2602.03501, as summarised by others)."""

    def step(self, velocity: Velocity, x: Tensor, u: float, dt: float) -> Tensor:
        """Advances x from flow time u to u + dt."""
        return torch.add(x, velocity(x, u), alpha=dt)


@dataclass(frozen=True)
class Midpoint:
    """x + dt v(x + dt/2 v(x, u), u + dt/2): second order, two evaluations per step (FlowRL, arXiv 2506.12811)."""

    def step(self, velocity: Velocity, x: Tensor, u: float, dt: float) -> Tensor:
        """Advances x from flow time u to u + dt."""
        half = torch.add(x, velocity(x, u), alpha=0.5 * dt)
        return torch.add(x, velocity(half, u + 0.5 * dt), alpha=dt)


SOLVERS: dict[SolverName, Solver] = {"euler": Euler(), "midpoint": Midpoint()}
"""Solvers by the name a config gives them."""


def integrate(velocity: Velocity, x: Tensor, *, steps: int, solver: Solver) -> Tensor:
    """Carries x from u = 0 to u = 1.

    Args:
        velocity: The field, bound to its observations.
        x: Value at u = 0, usually noise, shape [B, A].
        steps: Number K of steps; dt = 1/K and step k begins at u = k/K.
        solver: The one-step method.

    Returns:
        Value at u = 1, shape [B, A].
    """
    dt = 1.0 / steps
    for k in range(steps):
        x = solver.step(velocity, x, k / steps, dt)
    return x
