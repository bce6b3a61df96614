"""On-policy windows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, State, Task, TaskSpec
from rfo.data.horizon import EpisodeReturns, collect_window, limit_gradient


class Counter(Task):
    """The state is how far the actions added up; an episode ends beyond 2.5 or after 3 steps."""

    spec: ClassVar[TaskSpec] = TaskSpec("counter", "torch", 1, 3, 0.1, {"x": (1,)})

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins at zero."""
        return {"x": torch.zeros(n, 1, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Adds the action."""
        return {"x": state["x"] + action}

    def observe(self, state: State) -> Observation:
        """Shows the sum."""
        return {"x": state["x"]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Pays the sum."""
        return next_state["x"][:, 0]

    def terminated(self, state: State) -> Tensor:
        """Ends beyond 2.5."""
        return state["x"][:, 0] > 2.5


def _window(horizon: int, action: Tensor, env: VectorEnv | None = None):  # noqa: ANN202
    env = env or VectorEnv(Counter(dtype=torch.float64), len(action))
    return collect_window(env, lambda observation, t, ended: (action, action), horizon)


def test_observations_rewards_and_ends_are_in_step() -> None:
    """Each row holds what the policy saw, what came after before any reset, and how it ended."""
    window = _window(4, torch.tensor([[0.5], [1.0]], dtype=torch.float64))
    assert window.observation["x"][:, :, 0].tolist() == [[0, 0], [0.5, 1], [1, 2], [0, 0]]
    assert window.final_observation["x"][:, :, 0].tolist() == [[0.5, 1], [1, 2], [1.5, 3], [0.5, 1]]
    assert window.reward.tolist() == [[0.5, 1], [1, 2], [1.5, 3], [0.5, 1]]
    assert window.truncated.tolist() == [[False, False], [False, False], [True, False], [False, False]]
    assert window.terminated.tolist() == [[False, False], [False, False], [False, True], [False, False]]
    assert window.latent.shape == (4, 2, 1)


def test_bootstrap_rows_are_time_limits_and_the_last_step() -> None:
    """Rows count through the flattened window; a termination has none."""
    window = _window(4, torch.tensor([[0.5], [1.0]], dtype=torch.float64))
    assert window.bootstrap_rows().tolist() == [4, 6, 7]
    assert _window(3, torch.tensor([[0.5], [1.0]], dtype=torch.float64)).bootstrap_rows().tolist() == [4]


def test_gradient_runs_through_steps_but_not_through_resets() -> None:
    """A reward depends on every action of its own episode and environment, and on none before a reset."""
    actions = torch.full((5, 2, 1), 0.5, dtype=torch.float64, requires_grad=True)
    env = VectorEnv(Counter(dtype=torch.float64), 2)
    window = collect_window(env, lambda observation, t, ended: (actions[t], actions[t]), 5)
    (gradient,) = torch.autograd.grad(window.reward[4, 0], actions, retain_graph=True)
    assert gradient[:, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert not bool(gradient[:, 1].any())
    (gradient,) = torch.autograd.grad(window.final_observation["x"][2, 0].sum(), actions)
    assert gradient[:, 0, 0].tolist() == [1, 1, 1, 0, 0]


def test_gradient_is_cut_between_windows() -> None:
    """What is stored of a window and what the next one starts from carry no graph."""
    actions = torch.full((2, 1), 0.5, dtype=torch.float64, requires_grad=True)
    env = VectorEnv(Counter(dtype=torch.float64), 2)
    window = _window(2, actions, env)
    assert window.reward.requires_grad and window.final_observation["x"].requires_grad
    assert not window.latent.requires_grad and not window.observation["x"].requires_grad
    assert not env.begin_window()["x"].requires_grad


def test_outlying_action_gradients_are_shortened_and_keep_their_direction() -> None:
    """No environment's gradient is longer than the limit times the median; the others keep theirs, bit for bit."""
    action = torch.zeros(5, 2, dtype=torch.float64, requires_grad=True)
    arriving = torch.tensor([[1.0, 0.0], [0.0, -1.5], [30.0, 40.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(limit_gradient(action, 2.0), action, arriving)
    assert gradient[2].tolist() == [1.2, 1.6]  # the median is 1
    rest = [0, 1, 3, 4]
    assert torch.equal(gradient[rest], arriving[rest])
    arriving[[0, 1, 3]] = 0.0
    (gradient,) = torch.autograd.grad(limit_gradient(action, 2.0), action, arriving)
    assert torch.equal(gradient, arriving)  # one among many without a gradient is no outlier


def test_without_gradients_there_is_nothing_to_shorten_and_what_is_not_a_number_stays_one() -> None:
    """Zeros stay zeros, and a gradient that is not finite is not hidden."""
    action = torch.zeros(3, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(limit_gradient(action, 2.0), action, torch.zeros(3, 2))
    assert not bool(gradient.any())
    (gradient,) = torch.autograd.grad(
        limit_gradient(action, 2.0), action, torch.tensor([[1.0], [1.0], [torch.nan]]).expand(3, 2)
    )
    assert not bool(gradient[2].isfinite().any())


def test_episode_returns_run_over_windows() -> None:
    """Returns of episodes longer than a window are summed across windows."""
    action = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    env = VectorEnv(Counter(dtype=torch.float64), 2)
    episodes = EpisodeReturns(2, device=env.task.device, dtype=torch.float64)
    finished = [episodes.update(_window(2, action, env)).tolist() for _ in range(3)]
    assert finished == [[], [3.0, 6.0], [3.0, 6.0]]
