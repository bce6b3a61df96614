"""Evaluation figures against those worked out by hand, and the baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, State, Task, TaskSpec
from rfo.train.baselines import evaluate_baselines
from rfo.train.config import Experiment
from rfo.train.evaluate import evaluate, random_policy, zero_policy
from rfo_envs.torch.pendulum import PendulumSwingup

LENGTH = 6


class Walk(Task):
    """Environment i starts at 10 i and walks; past the fence it is over."""

    spec: ClassVar[TaskSpec] = TaskSpec("walk", "torch", 1, LENGTH, 0.1, {"x": (1,)})
    fence = 1e9

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins at 10 i."""
        return {"x": 10.0 * torch.arange(n, dtype=self.dtype), "count": torch.zeros(n, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Walks."""
        return {"x": state["x"] + action[:, 0], "count": state["count"] + 1.0}

    def observe(self, state: State) -> Observation:
        """Shows the place."""
        return {"x": state["x"][:, None]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Pays the start."""
        return torch.round(state["x"], decimals=-1) / 10.0

    def terminated(self, state: State) -> Tensor:
        """Ends behind the fence."""
        return state["x"] > self.fence

    def position(self, state: State) -> Tensor:
        """The place."""
        return state["x"]

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Falls over slowly and gets up at the end."""
        return {"count": state["count"], "up": (state["count"] - 3.0).abs()}


def _half(observation: Observation) -> Tensor:
    return torch.full((len(observation["x"]), 1), 0.5)


def test_figures_of_whole_episodes() -> None:
    """Mean and spread of returns, distance, length, last metrics and the lowest `up`."""
    found = evaluate(Walk(), _half, episodes=3, seed=0)
    assert found.return_mean == pytest.approx(LENGTH * 1.0)  # environments are paid 0, 1 and 2 a step
    assert found.return_std == pytest.approx(LENGTH * (2 / 3) ** 0.5)
    assert found.distance_m == pytest.approx(0.5 * LENGTH)
    assert (found.episodes, found.length_mean) == (3, LENGTH)
    assert found.metrics == {"count": LENGTH, "up": LENGTH - 3.0, "up_min": 0.0}
    assert found.summary().keys() == {"return_mean", "return_std", "episodes", "distance_m"}


def test_nothing_counts_after_an_episode_has_ended() -> None:
    """An episode that terminates is paid for its last step and for nothing of the next episode."""
    task = Walk()
    task.fence = 20.9  # the third environment, begun at 20, ends in its second step
    found = evaluate(task, _half, episodes=3, seed=0)
    assert found.length_mean == pytest.approx((LENGTH + LENGTH + 2) / 3)
    assert found.return_mean == pytest.approx((0.0 + LENGTH + 2 * 2) / 3)
    assert found.distance_m == pytest.approx((3.0 + 3.0 + 0.5) / 3)


def test_every_step_is_told() -> None:
    """Progress is told once per control step."""
    steps: list[int] = []
    evaluate(Walk(), _half, episodes=1, seed=0, on_step=steps.append)
    assert steps == list(range(LENGTH))


def test_evaluation_equals_a_plain_rollout_and_repeats() -> None:
    """The return is that of stepping the shell by hand, and one seed gives one figure."""
    task = PendulumSwingup(dtype=torch.float64)
    env = VectorEnv(task, 4, seed=5)
    env.reset()
    expected = sum(env.step(torch.zeros(4, 1, dtype=torch.float64)).reward for _ in range(task.spec.episode_length))
    found = evaluate(task, zero_policy(task), episodes=4, seed=5)
    assert isinstance(expected, Tensor)
    assert found.return_mean == pytest.approx(float(expected.mean()), abs=1e-12)
    assert found.distance_m is None
    assert found == evaluate(task, zero_policy(task), episodes=4, seed=5)


def test_random_policy_is_uniform_and_seeded() -> None:
    """Actions fill [-1, 1] evenly; one seed draws them once."""
    task = PendulumSwingup()
    observation = {"state": torch.zeros(4000, 3)}
    first, again, other = (random_policy(task, seed)(observation) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.abs().max() <= 1.0
    assert abs(float(first.mean())) < 0.05
    assert float(first.std()) == pytest.approx(3**-0.5, abs=0.02)


def test_baselines_are_zero_random_and_untrained(small: Callable[..., Experiment]) -> None:
    """Three evaluations on the same initial states, the same again for the same seed."""
    task = PendulumSwingup()
    found = evaluate_baselines(small(), task, episodes=3, seed=2)
    assert list(found) == ["zero", "random", "untrained"]
    assert found == evaluate_baselines(small(), task, episodes=3, seed=2)
    assert found["zero"] == evaluate(task, zero_policy(task), episodes=3, seed=2)
    assert len({evaluation.return_mean for evaluation in found.values()}) == 3
    assert all(evaluation.episodes == 3 for evaluation in found.values())
