"""The shell: time limits, resets, clipping, where the gradient is cut, and what is said when a figure is not finite."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from rfo.core.errors import EngineLimitError, SimulationDivergedError
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, State, Task, TaskSpec

LENGTH = 5


class Sum(Task):
    """Adds up actions: every derivative is one or zero, so a gradient counts the steps that it came through."""

    spec: ClassVar[TaskSpec] = TaskSpec("sum", "torch", 1, LENGTH, 0.1, {"x": (1,)})
    limit = 1e9

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins between zero and one."""
        return {"x": torch.rand(n, generator=generator, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Adds."""
        return {"x": state["x"] + action[:, 0]}

    def observe(self, state: State) -> Observation:
        """Shows the sum."""
        return {"x": state["x"][:, None]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Pays the sum."""
        return next_state["x"]

    def terminated(self, state: State) -> Tensor:
        """Ends where the sum is large."""
        return state["x"] > self.limit


class Together(Sum):
    """The same, with episodes that have to end together."""

    spec: ClassVar[TaskSpec] = replace(Sum.spec, synchronous=True)


def _env(n: int = 3, task: Task | None = None, **options: bool) -> VectorEnv:
    env = VectorEnv(task or Sum(dtype=torch.float64), n, seed=1, **options)
    env.begin_window()
    return env


def _zeros(n: int = 3) -> Tensor:
    return torch.zeros(n, 1, dtype=torch.float64)


def test_time_limit_truncates_and_begins_anew() -> None:
    """An episode is truncated, not terminated, after its length, and the clock begins at zero again."""
    env = _env()
    ends = [env.step(_zeros()) for _ in range(2 * LENGTH)]
    assert [bool(t.truncated.all()) for t in ends] == ([False] * (LENGTH - 1) + [True]) * 2
    assert not any(bool(t.terminated.any()) for t in ends)
    assert env.elapsed.tolist() == [0, 0, 0]


def test_termination_resets_only_that_environment() -> None:
    """Termination is not truncation, and the other environments go on undisturbed."""
    task = Sum(dtype=torch.float64)
    task.limit = 1.5
    env = _env(task=task)
    before = env.state["x"].clone()
    action = _zeros()
    action[1] = 1.0
    env.state["x"][1] = 0.9
    transition = env.step(action)
    assert transition.terminated.tolist() == [False, True, False]
    assert not transition.truncated.any()
    assert transition.done.tolist() == [False, True, False]
    assert env.elapsed.tolist() == [1, 0, 1]
    assert torch.equal(env.state["x"][[0, 2]], before[[0, 2]])


def test_termination_at_the_time_limit_is_termination() -> None:
    """An episode that fails in its last step has failed; its value must not be bootstrapped."""
    task = Sum(dtype=torch.float64)
    env = _env(task=task)
    for _ in range(LENGTH - 1):
        env.step(_zeros())
    task.limit = -1.0
    transition = env.step(_zeros())
    assert transition.terminated.all()
    assert not transition.truncated.any()


def test_final_observation_is_the_one_before_the_reset() -> None:
    """At an end, `final_observation` belongs to the old episode and `observation` to the new one."""
    env = _env()
    env.elapsed = torch.tensor([LENGTH - 1, 0, 0])
    before = env.state["x"].clone()
    transition = env.step(_zeros() + 0.25)
    assert torch.equal(transition.final_observation["x"][:, 0], before + 0.25)
    assert torch.equal(transition.observation["x"][:, 0], env.state["x"])
    assert transition.observation["x"][0] != transition.final_observation["x"][0]
    assert torch.equal(transition.observation["x"][1:], transition.final_observation["x"][1:])


def test_stagger_spreads_the_first_episodes() -> None:
    """Clocks start anywhere in an episode, so resets do not coincide; synchronous tasks are left together."""
    clocks = _env(200, stagger=True).elapsed
    assert set(clocks.tolist()) == set(range(LENGTH))
    assert _env(200).elapsed.eq(0).all()
    assert _env(200, Together(dtype=torch.float64), stagger=True).elapsed.eq(0).all()


def test_actions_are_clipped_with_zero_gradient_outside() -> None:
    """Beyond [-1, 1] an action counts as the bound and has no gradient."""
    env = _env(4)
    before = env.state["x"].clone()
    action = torch.tensor([[-3.0], [-0.5], [0.5], [3.0]], dtype=torch.float64, requires_grad=True)
    transition = env.step(action)
    (gradient,) = torch.autograd.grad(transition.reward.sum(), action)
    assert torch.allclose(transition.reward - before, torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=torch.float64))
    assert gradient[:, 0].tolist() == [0.0, 1.0, 1.0, 0.0]


def test_gradient_is_cut_at_a_reset_and_nowhere_else() -> None:
    """The gradient to an action counts the rewards after it in the same episode."""
    env = _env()
    env.elapsed = torch.tensor([0, LENGTH - 2, 0])
    actions = torch.zeros(4, 3, 1, dtype=torch.float64, requires_grad=True)
    transitions = [env.step(action) for action in actions]
    (gradient,) = torch.autograd.grad(sum(t.reward.sum() for t in transitions), actions)
    assert gradient[:, :, 0].T.tolist() == [[4, 3, 2, 1], [2, 1, 2, 1], [4, 3, 2, 1]]


def test_final_observation_carries_the_gradient_of_its_episode() -> None:
    """What a value bootstraps from leads back into the episode that ended; what comes after the reset does not."""
    env = _env(1)
    env.elapsed = torch.tensor([LENGTH - 2])
    actions = torch.zeros(2, 1, 1, dtype=torch.float64, requires_grad=True)
    last = [env.step(action) for action in actions][-1]
    (gradient,) = torch.autograd.grad(last.final_observation["x"].sum(), actions, retain_graph=True)
    assert gradient.flatten().tolist() == [1.0, 1.0]
    (gradient,) = torch.autograd.grad(last.observation["x"].sum(), actions)
    assert gradient.flatten().tolist() == [0.0, 0.0]


def test_gradient_is_cut_at_the_start_of_a_window() -> None:
    """`begin_window` changes no value, keeps the episode going, and cuts the gradient."""
    env = _env(2)
    actions = torch.zeros(4, 2, 1, dtype=torch.float64, requires_grad=True)
    rewards = []
    for t, action in enumerate(actions):
        if t == 2:
            value, clock = env.state["x"].clone(), env.elapsed.clone()
            observation = env.begin_window()["x"]
            assert torch.equal(observation[:, 0], value)
            assert torch.equal(env.elapsed, clock)
            assert not observation.requires_grad
        rewards.append(env.step(action).reward)
    (gradient,) = torch.autograd.grad(torch.stack(rewards).sum(), actions)
    assert gradient[:, :, 0].T.tolist() == [[2, 1, 2, 1]] * 2


@pytest.mark.parametrize("tensor", ["x", "reward"])
def test_divergence_names_environment_step_and_tensor(tensor: str) -> None:
    """The error says which task, which environment, which step of its episode and which tensor; and it replays."""

    class Diverging(Sum):
        def dynamics(self, state: State, action: Tensor) -> State:
            x = super().dynamics(state, action)["x"]
            return {"x": x.where(action[:, 0] < 0.9, torch.inf) if tensor == "x" else x}

        def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
            return next_state["x"].where(action[:, 0] < 0.9, torch.nan)

    env = _env(task=Diverging(dtype=torch.float64))
    env.elapsed = torch.tensor([0, 0, 2])
    env.step(_zeros())
    action = _zeros()
    action[2] = 5.0
    before = env.state["x"].clone()
    with pytest.raises(SimulationDivergedError, match=r"sum: '(x|reward)' is not finite in environment 2") as caught:
        env.step(action)
    error = caught.value
    assert (error.env_id, error.env_index, error.step, error.tensor) == ("sum", 2, 4, tensor)
    assert torch.equal(error.replay["state"]["x"], before)
    assert error.replay["action"][:, 0].tolist() == [0.0, 0.0, 1.0]  # as the dynamics saw it
    replayed = env.task.dynamics(error.replay["state"], error.replay["action"])
    assert tensor == "reward" or not replayed["x"][2].isfinite()


def test_an_engine_that_refuses_a_step_is_divergence() -> None:
    """The engine's own words come with the task, the environment, the step of its episode and what replays."""

    class Limited(Sum):
        def dynamics(self, state: State, action: Tensor) -> State:
            if bool((action > 0.9).any()):
                raise EngineLimitError(2, "matter left the domain", "enlarge it")
            return super().dynamics(state, action)

    env = _env(task=Limited(dtype=torch.float64))
    env.step(_zeros())
    action = _zeros()
    action[2] = 5.0
    message = "sum: matter left the domain in environment 2 at control step 2; enlarge it"
    with pytest.raises(SimulationDivergedError, match=message) as caught:
        env.step(action)
    assert caught.value.tensor == "state"
    with pytest.raises(EngineLimitError):
        env.task.dynamics(caught.value.replay["state"], caught.value.replay["action"])


def test_large_finite_values_are_no_divergence() -> None:
    """Entries whose sum overflows are finite all the same."""
    env = VectorEnv(Sum(dtype=torch.float32), 4)
    env.begin_window()
    env.state = {"x": torch.full((4,), 3e38)}
    env.task.limit = float("inf")  # type: ignore[attr-defined]
    assert env.step(torch.zeros(4, 1)).reward.isfinite().all()


def test_state_dict_continues_bitwise() -> None:
    """A shell restored from another's state goes on with the same states, clocks and draws."""
    env = _env(8, stagger=True)
    actions = 2.0 * torch.rand(20, 8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) - 1.0
    for action in actions[:7]:
        env.step(action)
    saved = env.state_dict()
    expected = [env.step(action) for action in actions[7:]]
    other = VectorEnv(Sum(dtype=torch.float64), 8, seed=99)
    other.load_state_dict(saved)
    found = [other.step(action) for action in actions[7:]]
    assert sum(int(t.done.sum()) for t in expected) > 8  # resets, and with them draws, happen on the way
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.reward, b.reward)
        assert torch.equal(a.done, b.done)
        assert torch.equal(a.observation["x"], b.observation["x"])


def test_seed_decides_the_episodes() -> None:
    """The same seed draws the same states, another seed others."""
    task = Sum(dtype=torch.float64)
    first, again, other = (VectorEnv(task, 4, seed=seed).reset()["x"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_environments_are_refused() -> None:
    """A shell needs at least one environment."""
    with pytest.raises(ValueError, match="at least 1"):
        VectorEnv(Sum(), 0)
