"""Evaluation counts what it says it counts; films show the time they say they show."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from rfo.core.task import Observation, State, Task, TaskSpec
from rfo.train.evaluate import evaluate, random_policy, zero_policy
from rfo.train.record import scenes
from rfo_envs.torch.pendulum import PendulumSwingup


class Sled(Task):
    """Slides forward by a tenth of the action per step from a random start; falls when it passes `edge` metres."""

    spec: ClassVar[TaskSpec] = TaskSpec("sled", "torch", 1, 10, 0.1, {"x": (1,)})
    edge = 1e9

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins anywhere in the first metre."""
        x = torch.rand(n, 1, generator=generator, dtype=self.dtype)
        return {"x": x, "travelled": torch.zeros_like(x)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Slides."""
        return {"x": state["x"] + 0.1 * action, "travelled": state["travelled"] + 0.1 * action}

    def observe(self, state: State) -> Observation:
        """Shows the position."""
        return {"x": state["x"]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """One per step."""
        return torch.ones_like(action[:, 0])

    def terminated(self, state: State) -> Tensor:
        """Past the edge."""
        return state["travelled"][:, 0] > self.edge

    def position(self, state: State) -> Tensor:
        """Where it is."""
        return state["x"][:, 0]

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Tilts as it goes."""
        return {"up": 1.0 - state["travelled"][:, 0]}


def _forward(observation: Observation) -> Tensor:
    return torch.ones_like(observation["x"])


def test_full_episodes_are_measured_to_their_last_state() -> None:
    """Ten steps of 0.1 m are 1 m from wherever an episode began: the reset at the end is not what is measured."""
    found = evaluate(Sled(dtype=torch.float64), _forward, episodes=7, seed=0)
    assert (found.episodes, found.length_mean, found.return_mean, found.return_std) == (7, 10.0, 10.0, 0.0)
    assert found.distance_m == pytest.approx(1.0)
    assert found.metrics["up"] == pytest.approx(0.0, abs=1e-12)
    assert found.metrics["up_min"] == pytest.approx(0.0, abs=1e-12)


def test_an_episode_that_ends_early_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the episode after a fall is counted: neither reward nor distance."""
    monkeypatch.setattr(Sled, "edge", 0.45)
    found = evaluate(Sled(dtype=torch.float64), _forward, episodes=3, seed=0)
    assert (found.length_mean, found.return_mean) == (5.0, 5.0)
    assert found.distance_m == pytest.approx(0.4)


def test_baselines_do_nothing_and_anything() -> None:
    """The zero policy goes nowhere; the random one is uniform and seeded."""
    task = Sled(dtype=torch.float64)
    assert evaluate(task, zero_policy(task), episodes=2, seed=0).distance_m == 0.0
    observation = {"x": torch.zeros(4000, 1)}
    drawn = random_policy(task, 3)(observation)
    assert drawn.abs().max() <= 1.0 and abs(float(drawn.mean())) < 0.05
    assert torch.equal(drawn, random_policy(task, 3)(observation))


def test_no_position_means_no_distance() -> None:
    """A task without a forward axis has no distance."""
    task = PendulumSwingup()
    assert evaluate(task, zero_policy(task), episodes=2, seed=0).distance_m is None


@pytest.mark.parametrize(("fps", "frames"), [(20.0, 40), (10.0, 20), (60.0, 120)])
def test_film_runs_at_the_speed_of_the_world(fps: float, frames: int) -> None:
    """Two seconds are two seconds at any frame rate, and the first frame is the start."""
    task = PendulumSwingup()
    shown = list(scenes(task, zero_policy(task), seconds=2.0, fps=fps, seed=1))
    steps = [0]
    monitored = PendulumSwingup()
    original = monitored.dynamics
    monitored.dynamics = lambda state, action: (steps.append(1), original(state, action))[1]  # type: ignore[method-assign,assignment]
    assert len(list(scenes(monitored, zero_policy(task), seconds=2.0, fps=fps, seed=1))) == len(shown) == frames
    assert sum(steps) == round((frames - 1) / fps / task.spec.control_dt)
