"""Action chunks."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from rfo.core.shell import Transition, VectorEnv
from rfo.core.task import Observation, State, Task, TaskSpec
from rfo.data.chunks import ChunkController, ChunkSampler, merge_steps, plan_starts
from rfo.data.horizon import collect_window
from rfo.data.returns import td_lambda


class Tape(Task):
    """The state is the step of the episode, which ends after three."""

    spec: ClassVar[TaskSpec] = TaskSpec("tape", "torch", 1, 3, 0.1, {"x": (1,)})

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins at zero."""
        return {"x": torch.zeros(n, 1, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Counts."""
        return {"x": state["x"] + 1.0}

    def observe(self, state: State) -> Observation:
        """Shows the count."""
        return {"x": state["x"]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Pays the action."""
        return action[:, 0]


def _planner(observation: Observation, noise: Tensor) -> Tensor:
    """Plans begin with what was seen: entry i of a chunk is the observation plus i / 10, plus the noise."""
    return observation["x"] + 0.1 * torch.arange(noise.shape[1], dtype=noise.dtype) + noise


def _collect(length: int, execute: int, horizon: int, elapsed: list[int]) -> tuple[ChunkSampler, Tensor, Tensor]:
    env = VectorEnv(Tape(dtype=torch.float64), len(elapsed))
    env.reset()
    env.elapsed = torch.tensor(elapsed)
    noise = torch.zeros(horizon, len(elapsed), length, dtype=torch.float64)
    sampler = ChunkSampler(_planner, noise, length=length, execute=execute)
    window = collect_window(env, sampler, horizon)
    return sampler, window.latent[..., 0], window.done


def test_a_chunk_is_executed_open_loop() -> None:
    """Without ends, every m-th step plans from what it sees and the steps between follow the plan."""
    _, latent, _ = _collect(3, 3, 3, [0, 0])
    torch.testing.assert_close(latent[:, 0], torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64))
    _, latent, _ = _collect(3, 1, 3, [0, 0])
    torch.testing.assert_close(latent[:, 0], torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))


def test_an_end_inside_a_chunk_drops_the_rest_and_plans_anew() -> None:
    """Only the environment that ended plans from its reset; both plan together again at the next common step."""
    sampler, latent, done = _collect(4, 4, 8, [1, 0])
    # The first episode ends after steps 1, 4 and 7, the second after steps 2 and 5.
    torch.testing.assert_close(latent[:, 0].tolist(), [0.0, 0.1, 0.0, 0.1, 2.0, 0.0, 0.1, 0.2])
    torch.testing.assert_close(latent[:, 1].tolist(), [0.0, 0.1, 0.2, 0.0, 1.0, 1.1, 0.0, 0.1])
    starts = plan_starts(done, execute=4)
    assert starts[:, 0].tolist() == [True, False, True, False, True, True, False, False]
    assert sum(len(chunk) for _, chunk in sampler.planned) == int(starts.sum())


def test_gradient_of_what_was_dropped_is_zero() -> None:
    """The rest of a plan that an end has cut off moves nothing."""
    env = VectorEnv(Tape(dtype=torch.float64), 2)
    env.reset()
    env.elapsed = torch.tensor([1, 0])
    noise = torch.zeros(4, 2, 4, dtype=torch.float64, requires_grad=True)
    window = collect_window(env, ChunkSampler(_planner, noise, length=4, execute=4), 4)
    (gradient,) = torch.autograd.grad(window.reward.sum(), noise)
    assert (gradient[0] != 0).tolist() == [[True, True, False, False], [True, True, True, False]]
    assert (gradient[2, 0] != 0).tolist() == [True, True, False, False] and not bool(gradient[2, 1].any())
    assert (gradient[3, 1] != 0).tolist() == [True, False, False, False] and not bool(gradient[1].any())


def test_a_controller_follows_its_plan() -> None:
    """Outside training the same chunks are executed open loop."""
    control = ChunkController(lambda observation: _planner(observation, torch.zeros(1, 3)), length=3, execute=2)
    actions = [control({"x": torch.tensor([[float(step)]])}) for step in range(4)]
    torch.testing.assert_close(torch.cat(actions)[:, 0], torch.tanh(torch.tensor([0.0, 0.1, 2.0, 2.1])))


def test_a_controller_plans_anew_where_an_episode_has_begun() -> None:
    """Only there, and until the next common plan; its state carries it on."""

    def plan(observation: Observation) -> Tensor:
        return _planner(observation, torch.zeros(len(observation["x"]), 3))

    control = ChunkController(plan, length=3, execute=3)
    for step, began in enumerate([None, [False, True], [False, False], [True, False]]):
        seen = torch.tensor([[float(step)], [10.0 + step]])
        if step == 2:
            other = ChunkController(plan, length=3, execute=3)
            other.load_state_dict(control.state_dict())
            control = other
        latent = control.latent({"x": seen}, None if began is None else torch.tensor(began))
        expected = [[0.0, 10.0], [0.1, 11.0], [0.2, 11.1], [3.0, 13.0]][step]
        torch.testing.assert_close(latent[:, 0], torch.tensor(expected))


def test_targets_of_chunks_are_those_of_longer_steps() -> None:
    """TD(lambda) at chunk starts equals the recursion over chunks with their own rewards and discounts."""
    gamma, lam, execute = 0.9, 0.7, 3
    generator = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(9, 30, generator=generator, dtype=torch.float64) for _ in range(2))
    draw = torch.rand(9, 30, generator=generator)
    terminated, truncated = draw < 0.1, (draw >= 0.1) & (draw < 0.25)
    done = terminated | truncated
    starts = plan_starts(done, execute=execute)
    found = td_lambda(reward, value, terminated, truncated, gamma=gamma, lam=lam, starts=starts)
    for i in range(30):
        begins = [t for t in range(9) if starts[t, i]]
        following = 0.0
        for begin, end in reversed(list(zip(begins, [*begins[1:], 9], strict=True))):
            last, length = end - 1, end - begin
            total = sum(gamma ** (t - begin) * float(reward[t, i]) for t in range(begin, end))
            after = 0.0 if terminated[last, i] else float(value[last, i])
            ends = bool(done[last, i]) or end == 9
            following = total + gamma**length * (after if ends else (1 - lam) * after + lam * following)
            torch.testing.assert_close(float(found[begin, i]), following)


def test_every_step_a_start_is_the_plain_target() -> None:
    """With chunks of one action the targets are bitwise the plain ones."""
    generator = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(6, 5, generator=generator) for _ in range(2))
    never = torch.zeros(6, 5, dtype=torch.bool)
    plain = td_lambda(reward, value, never, never, gamma=0.99, lam=0.95)
    assert torch.equal(plain, td_lambda(reward, value, never, never, gamma=0.99, lam=0.95, starts=~never))


def test_a_decision_of_several_steps_ends_with_the_episode() -> None:
    """Three steps of three environments: one goes on, one terminates at the second, one is cut off at the first."""
    reward = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]])
    terminated = torch.tensor([[False, False, False], [False, True, False], [False, False, True]])
    truncated = torch.tensor([[False, False, True], [False, False, False], [False, False, False]])
    steps = [
        Transition({"x": torch.full((3, 1), 9.0)}, reward[i], terminated[i], truncated[i], {"x": torch.full((3, 1), i)})
        for i in range(3)
    ]
    merged = merge_steps(steps, 0.5)
    assert (3.0 * merged.reward).tolist() == pytest.approx([1.0 + 1.0 + 1.0, 1.0 + 1.0, 1.0])
    assert merged.terminated.tolist() == [False, True, False] and merged.truncated.tolist() == [False, False, True]
    assert merged.final_observation["x"][:, 0].tolist() == [2, 1, 0] and float(merged.observation["x"][0]) == 9.0
