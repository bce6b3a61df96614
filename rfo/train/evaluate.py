"""Evaluation: whole episodes of a policy or of a baseline, all begun together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, Task
from rfo.train.algorithms import Algorithm, OpenLoop

__all__ = ["Evaluation", "Policy", "evaluate", "random_policy", "trained_policy", "zero_policy"]

Policy = Callable[[Observation], Tensor]
"""Observation → actions in [-1, 1], shape [N, action_dim]."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a number of episodes.

    Attributes:
        return_mean: Mean undiscounted return.
        return_std: Standard deviation of the returns over episodes.
        episodes: Number of episodes.
        distance_m: Mean displacement along the forward axis over an episode [m]; None where it has no meaning.
        length_mean: Mean control steps until an episode ended.
        metrics: The task's further figures, each the mean over episodes of its last value; `up_min` is the smallest
            `up` of any episode at any step.
    """

    return_mean: float
    return_std: float
    episodes: int
    distance_m: float | None
    length_mean: float
    metrics: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Returns the figures under the keys that `rfo eval --json` promises."""
        return {
            "return_mean": self.return_mean,
            "return_std": self.return_std,
            "episodes": self.episodes,
            "distance_m": self.distance_m,
        }


def trained_policy(algorithm: Algorithm, *, deterministic: bool, device: torch.device, seed: int) -> Policy:
    """Returns an algorithm's policy with random numbers of its own."""
    generator = torch.Generator(device=device).manual_seed(seed)
    if isinstance(algorithm, OpenLoop):
        return algorithm.controller(deterministic=deterministic, generator=generator)
    return lambda observation: algorithm.act(observation, deterministic=deterministic, generator=generator)


def zero_policy(task: Task) -> Policy:
    """Returns the policy that does nothing."""
    return lambda observation: _zeros(task, observation)


def random_policy(task: Task, seed: int) -> Policy:
    """Returns the policy that draws every action uniformly from [-1, 1]."""
    generator = torch.Generator(device=task.device).manual_seed(seed)
    return lambda observation: _zeros(task, observation).uniform_(-1.0, 1.0, generator=generator)


@torch.no_grad()
def evaluate(
    task: Task,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> Evaluation:
    """Runs one episode in each of `episodes` environments.

    Distance and metrics of an episode that terminates early are those before the step that ended it.

    Args:
        task: The task.
        policy: What acts.
        episodes: Number of episodes, all run together.
        seed: Seed of the initial states.
        on_step: Called with the number of each control step, to show progress.
    """
    env = VectorEnv(task, episodes, seed=seed)
    observation = env.reset()
    # One step behind, so that the shell does not replace the last state before it has been looked at.
    env.elapsed.fill_(-1)
    alive = torch.ones(episodes, dtype=torch.bool, device=task.device)
    returns = torch.zeros(episodes, dtype=torch.float64, device=task.device)
    lengths = torch.zeros(episodes, dtype=torch.int64, device=task.device)
    start = task.position(env.state)
    end = start
    last: dict[str, Tensor] = {}
    lowest: float | None = None
    for step in range(task.spec.episode_length):
        transition = env.step(policy(observation))
        observation = transition.observation
        returns += torch.where(alive, transition.reward.double(), 0.0)
        lengths += alive
        alive = alive & ~transition.done
        position, figures = task.position(env.state), task.metrics(env.state)
        if position is not None and end is not None:
            end = torch.where(alive, position, end)
        last = {name: torch.where(alive, value, last.get(name, value)) for name, value in figures.items()}
        if "up" in figures and bool(alive.any()):
            low = float(figures["up"][alive].min())
            lowest = low if lowest is None else min(lowest, low)
        if on_step is not None:
            on_step(step)
    metrics = {name: float(value.double().mean()) for name, value in last.items()}
    if lowest is not None:
        metrics["up_min"] = lowest
    distance = None if start is None or end is None else float((end - start).double().mean())
    spread = float(returns.std(correction=0))
    return Evaluation(float(returns.mean()), spread, episodes, distance, float(lengths.double().mean()), metrics)


def _zeros(task: Task, observation: Observation) -> Tensor:
    n = next(iter(observation.values())).shape[0]
    return torch.zeros(n, task.spec.action_dim, device=task.device, dtype=task.dtype)
