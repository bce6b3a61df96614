"""Making data sets."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.oracle import Oracle
from rfo.core.task import Observation, State, Task, TaskSpec
from rfo.data.offline import load, save
from rfo.train.collect import Quota, baseline_actor, collect, oracle_actor


class Climb(Task):
    """The state counts up by one a step from 10 times its first draw; an action above zero ends the episode."""

    spec: ClassVar[TaskSpec] = TaskSpec("climb", "torch", 1, 4, 0.1, {"x": (1,)}, differentiable=False)
    oracles = ("stop", "go")

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins at a tenth multiple of one."""
        drawn = torch.randint(1, 100, (n, 1), generator=generator).to(self.dtype)
        return {"x": 10 * drawn, "over": torch.zeros(n, dtype=torch.bool)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Counts."""
        return {"x": state["x"] + 1.0, "over": action[:, 0] > 0}

    def observe(self, state: State) -> Observation:
        """Shows the count."""
        return {"x": state["x"]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Pays one a step."""
        return torch.ones(len(action))

    def terminated(self, state: State) -> Tensor:
        """Where the action said so."""
        return state["over"]

    def make_oracle(self, name: str, n: int, seed: int) -> Oracle:
        """Ends every second episode of environment 0 after two steps ("stop"), or none ("go")."""
        ages = torch.zeros(n)

        def script(observation: Observation, began: Tensor) -> Tensor:
            ages.add_(1).masked_fill_(began, 0)
            action = -torch.ones(n, 1)
            if name == "stop" and float(ages[0]) == 1:
                action[0] = 1.0
            return action

        return script


def _run(path: Path, oracle: str = "go", stop_after: int | None = None, **quota: int | float) -> tuple[Quota, dict]:  # type: ignore[type-arg]
    wanted = Quota(path / "set.npz", **quota)  # type: ignore[arg-type]
    task = Climb()
    calls: list[int] = []
    actor = oracle_actor(task, oracle, wanted.width, 0)
    stop = (lambda: len(calls) >= stop_after) if stop_after else (lambda: False)
    data = collect(task, actor, wanted, on_progress=calls.append, should_stop=stop)
    return wanted, {"data": data, "calls": calls}


def test_episodes_are_whole_and_in_order(tmp_path: Path) -> None:
    """Each of three environments gives its share, though one has shorter episodes; what is written is read."""
    quota, found = _run(tmp_path, "stop", episodes=7, envs=3)
    data = found["data"]
    save(data, quota.path)
    assert load(quota.path).episodes == data.episodes == 7 and found["calls"][-1] == 7
    ends = np.flatnonzero(data.terminated | data.truncated)
    starts = np.concatenate([[0], ends[:-1] + 1])
    for start, end in zip(starts, ends, strict=True):
        counted = data.observation["x"][start : end + 1, 0]
        assert counted[0] % 10 == 0 and np.array_equal(np.diff(counted), np.ones(end - start))
        assert np.array_equal(data.next_observation["x"][start : end + 1, 0], counted + 1)  # before any reset
    # Environment 0 has three of the seven episodes, of two steps each; the others' last four.
    assert (ends - starts + 1).tolist() == [2, 2, 2, 4, 4, 4, 4]
    assert int(data.terminated.sum()) == 3


def test_steps_are_counted_and_the_last_episodes_cut(tmp_path: Path) -> None:
    """Ten steps of two environments are five of each; what is cut is truncated."""
    _, found = _run(tmp_path, steps=10, envs=2)
    data = found["data"]
    assert len(data) == 10 and data.truncated.tolist() == 2 * [False, False, False, True, True]


def test_stopping_early_loses_nothing(tmp_path: Path) -> None:
    """After three steps everything seen is there, the unfinished episodes cut."""
    _, found = _run(tmp_path, episodes=4, envs=2, stop_after=3)
    assert len(found["data"]) == 6 and found["data"].truncated.tolist() == 2 * [False, False, True]


def test_noise_is_added_within_bounds(tmp_path: Path) -> None:
    """Noise moves the actions that are stored, by the seed, and never beyond the bounds."""
    actions = []
    for noise, seed in ((0.0, 0), (0.5, 0), (0.5, 0), (0.5, 1)):
        quota = Quota(tmp_path / "a.npz", steps=40, envs=4, noise=noise, seed=seed)
        actions.append(collect(Climb(), baseline_actor(Climb(), "zero", 0), quota).action)
    assert not actions[0].any() and np.abs(actions[1]).max() <= 1.0 and actions[1].std() > 0.2
    assert np.array_equal(actions[1], actions[2]) and not np.array_equal(actions[2], actions[3])


def test_what_cannot_be_collected_is_said(tmp_path: Path) -> None:
    """Bad files and figures, scripts that are not there."""
    (tmp_path / "there.npz").touch()
    for bad, words in (
        ({"path": tmp_path / "there.npz"}, "exists"),
        ({"path": tmp_path / "a.csv"}, "is an .npz"),
        ({"path": tmp_path / "no" / "a.npz"}, "no folder"),
        ({"path": tmp_path / "a.npz", "episodes": 0}, "--episodes is 0"),
        ({"path": tmp_path / "a.npz", "noise": float("nan")}, "--noise"),
        ({"path": tmp_path / "a.npz", "seed": -1}, "--seed"),
    ):
        with pytest.raises(UsageError, match=words):
            Quota(**bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no oracle 'sotp'; did you mean 'stop'"):
        oracle_actor(Climb(), "sotp", 1, 0)
