"""The RFO learner on a smooth toy task."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from pushed_task import Cloud, Pushed
from torch import Tensor

from rfo.algo.rfo import RFO, RFOConfig
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, State, Task, TaskSpec
from rfo.data.returns import discount_weights
from rfo.policy.critics import TwinCritic

SMALL = RFOConfig(horizon=4, flow_steps=3, actor_hidden=(16, 16), critic_hidden=(16, 16), critic_epochs=2)


def _learner(config: RFOConfig = SMALL, task: type[Task] = Pushed, n: int = 5, **options: Any) -> tuple[RFO, VectorEnv]:
    dtype = options.pop("dtype", torch.float64)
    env = VectorEnv(task(dtype=dtype), n, seed=3, stagger=True)
    return RFO(config, task.spec, dtype=dtype, **options), env


def _loosen(algo: RFO) -> None:
    """Takes the field away from its almost still start, so that every path carries gradient."""
    with torch.no_grad():
        algo.policy.field.layers[-1].weight.mul_(50.0)


@pytest.mark.parametrize("task", [Pushed, Cloud])
@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_policy_gradient_equals_differences(task: type[Task], solver: str) -> None:
    """Through flow steps, control steps and value bootstrap, with episodes ending inside the window."""
    algo, env = _learner(replace(SMALL, c_past=0.0, c_uni=0.0, solver=solver), task)
    _loosen(algo)
    env.reset()
    algo.normalizer.update({key: value + 0.1 for key, value in env.begin_window().items()})
    saved = copy.deepcopy((algo.state_dict(), env.state_dict()))
    normalization = algo.normalizer.snapshot()
    parameters = list(algo.policy.parameters())

    def loss() -> Tensor:
        algo.load_state_dict(copy.deepcopy(saved[0] | {"policy": algo.policy.state_dict()}))
        env.load_state_dict(saved[1])
        window = algo.collect(env, normalization)
        assert bool(window.truncated[:-1].any())
        return algo.actor_losses(window, normalization, 0.0)["total"]

    gradient = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        derivative = float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))
        step, values = 1e-5, []
        for sign in (1.0, -2.0):
            with torch.no_grad():
                for parameter, d in zip(parameters, direction, strict=True):
                    parameter.add_(d, alpha=sign * step)
            values.append(float(loss().detach()))
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(d, alpha=step)
        assert derivative == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def _gradient(config: RFOConfig, progress: float) -> list[Tensor]:
    algo, env = _learner(config)
    _loosen(algo)
    normalization = algo.normalizer.snapshot()
    losses = algo.actor_losses(algo.collect(env, normalization), normalization, progress)
    return list(torch.autograd.grad(losses["total"], list(algo.policy.parameters())))


def test_regularizers_without_weight_leave_the_gradient_bitwise_unchanged() -> None:
    """Weight zero, by configuration or by annealing, is the plain gradient; a weight is not."""
    plain = _gradient(replace(SMALL, c_past=0.0, c_uni=0.0), 0.0)
    annealed = _gradient(replace(SMALL, regularizer_anneal=2.0), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(plain, annealed, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, _gradient(SMALL, 0.0), strict=True))


def test_a_share_of_the_values_gradient_is_linear_and_none_climbs_the_rewards_alone() -> None:
    """The gradient is that of the rewards plus the share times the value's; the loss itself stays what it was."""
    plain = replace(SMALL, c_past=0.0, c_uni=0.0)
    none, half, whole = (_gradient(replace(plain, value_gradient=share), 0.0) for share in (0.0, 0.5, 1.0))
    for a, b, c in zip(none, half, whole, strict=True):
        torch.testing.assert_close(b, (a + c) / 2.0)
    algo, env = _learner(replace(plain, value_gradient=0.0))
    _loosen(algo)
    window = algo.collect(env, algo.normalizer.snapshot())
    weights = discount_weights(window.done, gamma=plain.gamma, dtype=algo.dtype)
    rewards = -(weights * window.reward).sum() / window.reward.numel()
    alone = torch.autograd.grad(rewards, list(algo.policy.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(none, alone, strict=True))
    whole_algo, _ = _learner(plain)
    whole_algo.load_state_dict(algo.state_dict())
    normalization = algo.normalizer.snapshot()
    assert torch.equal(algo.pathwise_loss(window, normalization), whole_algo.pathwise_loss(window, normalization))


def test_a_limit_that_nothing_exceeds_leaves_the_gradient_bitwise_unchanged() -> None:
    """`action_gradient_limit` touches outliers only."""
    unlimited, wide, narrow = (_gradient(replace(SMALL, action_gradient_limit=x), 0.0) for x in (None, 1e9, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(unlimited, wide, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(unlimited, narrow, strict=True))


def test_regularizers_do_not_shift_the_rollouts_noise() -> None:
    """Two windows collected without an update between them are the same with and without regularisers."""
    latents = []
    for config in (SMALL, replace(SMALL, c_past=0.0, c_uni=0.0)):
        algo, env = _learner(config)
        normalization = algo.normalizer.snapshot()
        for _ in range(2):
            window = algo.collect(env, normalization)
            algo.actor_losses(window, normalization, 0.0)
        latents.append(window.latent)
    assert torch.equal(*latents)


@pytest.mark.parametrize("task", [Pushed, Cloud])
def test_continuing_is_bitwise_the_same(task: type[Task]) -> None:
    """Five updates equal two, a saved state loaded into a fresh learner, and three more."""
    whole, env = _learner(task=task, dtype=torch.float32)
    for i in range(2):
        whole.update(env, i / 5)
    saved = copy.deepcopy((whole.state_dict(), env.state_dict()))
    expected = [whole.update(env, i / 5) for i in range(2, 5)]
    other, other_env = _learner(task=task, dtype=torch.float32, seed=9)
    other.load_state_dict(saved[0])
    other_env.load_state_dict(saved[1])
    continued = [other.update(other_env, i / 5) for i in range(2, 5)]
    for a, b in zip(expected, continued, strict=True):
        assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}
    for a, b in zip(whole.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_one_seed_is_one_run_and_leaves_the_global_stream_alone() -> None:
    """Two learners of one seed agree bitwise, another seed does not, and torch's own generator is not touched."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        algo, env = _learner(seed=seed)
        runs.append(algo.update(env, 0.0)["gradient_norm"])
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(torch.get_rng_state(), before)


class Trap(Pushed):
    """Episodes of one step that end far away and begin anew at zero."""

    spec: ClassVar[TaskSpec] = TaskSpec("trap", "torch", 1, 1, 0.1, {"q": (1,)})

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins at zero."""
        return {"q": torch.zeros(n, 1, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Jumps to seven and a little further with the action."""
        return {"q": state["q"] + 7.0 + 0.1 * action}

    def observe(self, state: State) -> Observation:
        """Shows the place."""
        return {"q": state["q"]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Pays nothing."""
        return 0.0 * next_state["q"][:, 0]


class DeadlyTrap(Trap):
    """The same, where arriving is fatal."""

    spec: ClassVar[TaskSpec] = replace(Trap.spec, id="deadly-trap")

    def terminated(self, state: State) -> Tensor:
        """Ends beyond one."""
        return state["q"][:, 0] > 1.0


def _place(self: TwinCritic, observation: Observation) -> Tensor:
    value = observation["low_dim"][:, 0]
    return torch.stack([value, value + 2.0])


def test_values_are_of_the_observation_before_the_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the place as its own value, objective (mean) and targets (minimum) see seven and not the reset's zero."""
    monkeypatch.setattr(TwinCritic, "forward", _place)
    algo, env = _learner(replace(SMALL, c_past=0.0, c_uni=0.0, normalizer_clip=1e3), Trap)
    normalization = algo.normalizer.snapshot()
    window = algo.collect(env, normalization)
    loss = algo.actor_losses(window, normalization, 0.0)["total"]
    assert -float(loss.detach()) == pytest.approx(SMALL.gamma * (7.0 + 1.0), abs=SMALL.gamma * 0.11)
    targets = algo.value_fit.targets(window, normalization)
    torch.testing.assert_close(targets, torch.full_like(targets, SMALL.gamma * 7.0), atol=0.11, rtol=0.0)
    assert any(bool(g.any()) for g in torch.autograd.grad(loss, list(algo.policy.parameters())))


def test_termination_is_worth_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a termination neither the objective nor a target has a value."""
    monkeypatch.setattr(TwinCritic, "forward", _place)
    algo, env = _learner(replace(SMALL, c_past=0.0, c_uni=0.0), DeadlyTrap)
    normalization = algo.normalizer.snapshot()
    window = algo.collect(env, normalization)
    assert float(algo.actor_losses(window, normalization, 0.0)["total"].detach()) == 0.0
    assert not bool(algo.value_fit.targets(window, normalization).any())


def test_it_learns() -> None:
    """On the toy task the reward rises in some seconds, and the critics come to explain the returns."""
    config = replace(SMALL, horizon=6, actor_hidden=(32, 32), critic_epochs=4)
    algo, env = _learner(config, n=16, dtype=torch.float32)
    metrics = [algo.update(env, i / 80) for i in range(80)]
    first, last = (sum(m["reward_mean"] for m in part) / 10 for part in (metrics[:10], metrics[-10:]))
    assert last > first + 0.5
    assert metrics[-1]["explained_variance"] > 0.5


def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    """The error comes before the optimizer is given anything."""

    class Broken(Pushed):
        def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
            """Has an infinite slope at zero."""
            return (0.0 * action[:, 0]).abs().sqrt()

    algo, env = _learner(task=Broken)
    before = [parameter.detach().clone() for parameter in algo.policy.parameters()]
    with pytest.raises(FloatingPointError, match="actor"):
        algo.update(env, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, algo.policy.parameters(), strict=True))


def test_bad_configurations_are_refused_in_words() -> None:
    """Impossible figures, a task without gradients, and unequal types name what is wrong."""
    shared = (
        {"horizon": 0},
        {"gamma": 1.5},
        {"actor_lr": 0.0},
        {"action_gradient_limit": 0.0},
        {"value_gradient": 1.5},
    )
    for bad in (*shared, {"uniform_bound": 1.0}, {"solver": "heun"}):
        with pytest.raises(UsageError, match=f"algo.{next(iter(bad))}"):
            replace(SMALL, **bad)
    with pytest.raises(UsageError, match="not differentiable"):
        RFO(SMALL, replace(Pushed.spec, differentiable=False))
    algo, _ = _learner()
    with pytest.raises(UsageError, match="dtype"):
        algo.update(VectorEnv(Pushed(), 2), 0.0)


def test_act_is_repeatable() -> None:
    """Deterministic actions agree, sampled ones follow the generator given, and none carries a graph."""
    algo, env = _learner()
    observation = env.reset()
    assert torch.equal(algo.act(observation, deterministic=True), algo.act(observation, deterministic=True))
    sampled = [algo.act(observation, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(sampled[0], sampled[1]) and not torch.equal(sampled[0], sampled[2])
    assert not sampled[0].requires_grad
