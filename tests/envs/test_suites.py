"""Adapters to Gymnasium and DMControl."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from rfo.core.errors import UsageError
from rfo.core.task import Task
from rfo_envs.suites.stepped import require_mujoco

TASKS = [
    "gymnasium:Ant",
    "gymnasium:Hopper",
    "dmcontrol:CheetahRun",
    "dmcontrol:ReacherEasy",
    "dmcontrol:CartpoleSwingup",
]


def _task(name: str) -> Task:
    module, _, attribute = name.partition(":")
    pytest.importorskip("gymnasium" if module == "gymnasium" else "dm_control")
    task: Task = getattr(import_module(f"rfo_envs.suites.{module}"), attribute)(dtype=torch.float64)
    return task


def _native(task: Any, seed: int) -> Any:
    """Returns a function from an action in [-1, 1] to observation and reward of the suite itself."""
    if hasattr(task, "name"):
        gymnasium = pytest.importorskip("gymnasium")
        env = gymnasium.make(task.name)
        env.reset(seed=seed)
        low, high = (bound.astype(np.float64) for bound in (env.action_space.low, env.action_space.high))
        return lambda a: env.step(low + 0.5 * (a + 1.0) * (high - low))[:2]
    suite = pytest.importorskip("dm_control.suite")
    env = suite.load(task.domain, task.task, task_kwargs={"random": seed})
    env.reset()
    spec = env.action_spec()

    def step(a: Any) -> Any:
        found = env.step(spec.minimum + 0.5 * (a + 1.0) * (spec.maximum - spec.minimum))
        return np.concatenate([np.ravel(value) for value in found.observation.values()]), found.reward

    return step


@pytest.mark.parametrize("name", TASKS)
def test_two_interleaved_episodes_are_the_suites_own(name: str) -> None:
    """Bit for bit, though one simulator serves both and is put into the other's state at every step."""
    task = _task(name)
    state = task.initial_state(torch.Generator().manual_seed(1), 2)
    seeds = torch.randint(2**31 - 1, (2,), generator=torch.Generator().manual_seed(1)).tolist()
    natives = [_native(task, seed) for seed in seeds]
    rng = np.random.default_rng(0)
    for _ in range(10):
        actions = rng.uniform(-1.0, 1.0, (2, task.spec.action_dim))
        state = task.dynamics(state, torch.from_numpy(actions))
        for i, native in enumerate(natives):
            observation, reward = native(actions[i])
            assert np.array_equal(state["observation"][i].numpy(), np.asarray(observation, dtype=np.float64))
            assert float(state["reward"][i]) == float(reward)


@pytest.mark.parametrize("name", TASKS)
def test_a_state_can_be_stepped_again(name: str) -> None:
    """State in, state out: the same state and action give the same, after other steps in between."""
    task = _task(name)
    state = task.initial_state(torch.Generator().manual_seed(2), 1)
    action = torch.full((1, task.spec.action_dim), 0.3, dtype=torch.float64)
    first = task.dynamics(state, action)
    task.dynamics(task.dynamics(first, action), -action)
    again = task.dynamics(state, action)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_missing_suite_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "mujoco", None)
    with pytest.raises(UsageError, match=r"rfo\[suites\]"):
        require_mujoco("gym-hopper", "gymnasium")
