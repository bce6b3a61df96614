"""`rfo check`: a sound task passes, and every fault is found and called by its name."""

# ruff: noqa: D102 - a class's docstring says what is broken in the one method below it
from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rfo.core.check import CheckReport, check_task
from rfo.core.errors import UsageError
from rfo.core.task import Observation, State, Task
from rfo_envs.torch.pendulum import PendulumSwingup

CONTRACT = [
    "spec and shapes",
    "state in, state out",
    "same seed, same state",
    "N environments equal one",
    "isolation",
    "no gradient across a reset",
    "no gradient across a window",
]


class _Wrong(PendulumSwingup):
    """The pendulum, to be broken in one place each."""


class ColumnReward(_Wrong):
    """Returns a reward of shape [N, 1]."""

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        return super().reward(state, action, next_state)[:, None]


class OtherObservation(_Wrong):
    """Shows something else than the spec says."""

    def observe(self, state: State) -> Observation:
        return {"state": super().observe(state)["state"][:, :2]}


class SingleObservation(_Wrong):
    """Forgets the scalar type that was asked for."""

    def observe(self, state: State) -> Observation:
        return {"state": super().observe(state)["state"].float()}


class DropsState(_Wrong):
    """Loses a tensor."""

    def dynamics(self, state: State, action: Tensor) -> State:
        return {"angle": super().dynamics(state, action)["angle"]}

    def observe(self, state: State) -> Observation:
        return super().observe({"rate": state["angle"], **state})

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        return next_state["angle"]


class IntegerTermination(_Wrong):
    """Answers a question with numbers."""

    def terminated(self, state: State) -> Tensor:
        return torch.zeros(len(state["angle"]))


class NotFinite(_Wrong):
    """Pays what is not a number."""

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        return torch.log(-1.0 - action[:, 0] ** 2)


class NoActions(_Wrong):
    """Has nothing to act with."""

    spec = replace(PendulumSwingup.spec, action_dim=0)


class Endless(_Wrong):
    """Has no time limit."""

    spec = replace(PendulumSwingup.spec, episode_length=0)


class InPlaceState(_Wrong):
    """Overwrites the state."""

    def dynamics(self, state: State, action: Tensor) -> State:
        state["rate"] += 0.05 * action[:, 0]
        return super().dynamics(state, action)


class InPlaceAction(_Wrong):
    """Scales the action where it lies."""

    def dynamics(self, state: State, action: Tensor) -> State:
        return super().dynamics(state, action.mul_(0.5))


class InPlaceObserve(_Wrong):
    """Wraps the angle while it looks."""

    def observe(self, state: State) -> Observation:
        state["angle"].remainder_(1.0)
        return super().observe(state)


class GlobalNoise(_Wrong):
    """Draws from torch's global generator."""

    def dynamics(self, state: State, action: Tensor) -> State:
        return super().dynamics(state, action + 0.01 * torch.randn_like(action))


class OwnNoise(_Wrong):
    """Draws from Python's generator."""

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        return super().reward(state, action, next_state) + random.random()


class Remembers(_Wrong):
    """Keeps the action before inside the task."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.before: Tensor | None = None

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        before, self.before = self.before, action
        change = 0.0 if before is None or before.shape != action.shape else (action - before).square().sum(dim=1)
        return super().reward(state, action, next_state) - change


class RemembersTidily(Remembers):
    """The same, forgotten at every draw of initial states, so that a whole episode repeats itself."""

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        if self.before is None or n == len(self.before):
            self.before = torch.zeros(n, 1, dtype=self.dtype)
        return super().initial_state(generator, n)


class RemembersSize(_Wrong):
    """Keeps a tensor of the batch that was drawn last."""

    count: Tensor | float = 0.0

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        self.count = torch.zeros(n, dtype=self.dtype)
        return super().initial_state(generator, n)

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        return super().reward(state, action, next_state) + self.count


class MixesValues(_Wrong):
    """Subtracts the batch's mean rate."""

    def dynamics(self, state: State, action: Tensor) -> State:
        rate = state["rate"] - 0.1 * state["rate"].mean()
        return super().dynamics({**state, "rate": rate}, action)


class DependsOnN(_Wrong):
    """Divides by the number of environments."""

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        return super().reward(state, action, next_state) / len(action)


class LeaksActions(_Wrong):
    """Lets every environment feel its neighbour's action; the forward pass cancels it."""

    def dynamics(self, state: State, action: Tensor) -> State:
        neighbour = action.roll(1, dims=0)
        return super().dynamics(state, action + neighbour - neighbour.detach())


class DetachedAngle(_Wrong):
    """Misses the angle's part of the derivative."""

    def dynamics(self, state: State, action: Tensor) -> State:
        gravity = 0.05 * 9.81 * state["angle"].detach().sin()
        rate = state["rate"] + gravity + 0.2 * action[:, 0]
        return {"angle": state["angle"] + 0.05 * rate, "rate": rate}


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 2.0 * gradient


class WrongBackward(_Wrong):
    """Has a backward pass that is off by a factor."""

    def dynamics(self, state: State, action: Tensor) -> State:
        return super().dynamics(state, _Doubled.apply(action))


class Detached(_Wrong):
    """Returns states without any gradient."""

    def dynamics(self, state: State, action: Tensor) -> State:
        return {name: tensor.detach() for name, tensor in super().dynamics(state, action).items()}


class ZeroGradient(_Wrong):
    """Rounds the action, and so has a derivative of exactly zero."""

    def dynamics(self, state: State, action: Tensor) -> State:
        return super().dynamics(state, action.round())

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        return next_state["angle"].cos()


class Kinked(_Wrong):
    """Feels the action through a staircase."""

    def dynamics(self, state: State, action: Tensor) -> State:
        return super().dynamics(state, action + 1e-3 * torch.sign(torch.sin(1e5 * action)).detach())


FAULTS = [
    (ColumnReward, "spec and shapes", "reward() has shape [18, 1]; it must be [18]"),
    (OtherObservation, "spec and shapes", "observe() returns {'state': (18, 2)}, but spec.observation_shapes says"),
    (SingleObservation, "spec and shapes", "observe()['state'] is torch.float32; make it self.dtype (torch.float64)"),
    (DropsState, "spec and shapes", "dynamics() drops the state 'rate'"),
    (IntegerTermination, "spec and shapes", "terminated() is [18] torch.float32; it must be a bool of shape [18]"),
    (NotFinite, "spec and shapes", "'reward' is not finite after one step"),
    (NoActions, "spec and shapes", "spec.action_dim is 0"),
    (Endless, "spec and shapes", "spec.episode_length is 0"),
    (InPlaceState, "state in, state out", "dynamics() overwrites 'rate'"),
    (InPlaceAction, "state in, state out", "dynamics() overwrites 'action'"),
    (InPlaceObserve, "state in, state out", "observe() overwrites 'next angle'"),
    (GlobalNoise, "same seed, same state", "draw all randomness from the generator"),
    (OwnNoise, "same seed, same state", "different 'reward'; draw all randomness from the generator"),
    (Remembers, "same seed, same state", "keep nothing of the state inside the task"),
    (RemembersSize, "N environments equal one", "keep nothing of the state inside the task"),
    (MixesValues, "N environments equal one", "depends on its batch"),
    (DependsOnN, "N environments equal one", "'reward' of an environment depends on its batch"),
    (LeaksActions, "isolation", "has a gradient to another environment's action"),
    (RemembersTidily, "no gradient across a reset", "keep nothing of the state inside the task"),
    (DetachedAngle, "gradient to the state, reset", "the derivative with respect to the state is wrong"),
    (WrongBackward, "gradient to the action, reset", "the derivative with respect to the action is wrong"),
    (Detached, "gradient, reset", "no gradient reaches 'state angle', 'state rate', 'observation state'"),
    (ZeroGradient, "gradient reaches the action, reset", "18 of 18 environments have a gradient to their actions that"),
    (Kinked, "gradient to the action, reset", "a kink or a stiff contact; smooth it"),
]


def _failed(report: CheckReport) -> dict[str, str]:
    return {check.name: check.message for check in report.checks if not check.passed}


def test_pendulum_passes_every_check() -> None:
    """The shipped small task keeps the contract, and its gradients agree with differences to 1e-6."""
    report = check_task(PendulumSwingup)
    assert report.passed, _failed(report)
    assert [check.name for check in report.checks[:7]] == CONTRACT
    figures = {check.name: check for check in report.checks}
    for kind in ("action", "state"):
        found = figures[f"gradient to the {kind}, reset"]
        assert found.figure <= found.limit == 1e-6


@pytest.mark.parametrize(("task", "name", "words"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_fault_is_found_and_named(task: type[Task], name: str, words: str) -> None:
    """A task broken in one place fails the check of that place, in words that say what to change."""
    report = check_task(task)
    failed = _failed(report)
    assert not report.passed
    assert name in failed, failed
    assert words in failed[name]
    assert all("\n" not in check.message for check in report.checks)


def test_nothing_is_compared_once_runs_cannot_be_compared() -> None:
    """After wrong shapes, overwritten inputs or a run that does not repeat itself, later findings would be noise."""
    for task, count in ((ColumnReward, 1), (InPlaceState, 2), (GlobalNoise, 3)):
        assert len(check_task(task).checks) == count


def test_states_may_hold_flags_and_counts() -> None:
    """A bool and a whole number in the state are compared and differentiated around."""

    class Counted(PendulumSwingup):
        def initial_state(self, generator: torch.Generator, n: int) -> State:
            state = super().initial_state(generator, n)
            return {**state, "count": torch.zeros(n, dtype=torch.int64), "up": torch.zeros(n, dtype=torch.bool)}

        def dynamics(self, state: State, action: Tensor) -> State:
            moved = super().dynamics(state, action)
            return {**moved, "count": state["count"] + 1, "up": moved["angle"].cos() > 0}

    report = check_task(Counted)
    assert report.passed, _failed(report)


def test_values_that_stop_being_finite_never_pass() -> None:
    """A comparison with NaN does not count as agreement."""

    class Late(PendulumSwingup):
        def dynamics(self, state: State, action: Tensor) -> State:
            moved = super().dynamics(state, action)
            late = state["angle"] != super().initial_state(torch.Generator().manual_seed(0), len(action))["angle"]
            return {**moved, "rate": moved["rate"].where(~late, torch.nan)}

    assert not check_task(Late).passed


def test_task_without_gradients_is_checked_without_them() -> None:
    """A task that says that it has no gradients is checked for the rest only."""

    class Plain(Detached):
        spec = replace(PendulumSwingup.spec, differentiable=False)

    report = check_task(Plain)
    assert report.passed
    assert [check.name for check in report.checks] == CONTRACT[:4]


def test_unknown_device_is_bad_input() -> None:
    """The device is looked at before the task is built."""
    with pytest.raises(UsageError, match="not known to torch"):
        check_task(PendulumSwingup, device="gpu9")
