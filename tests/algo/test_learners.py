"""What holds of every learner, on a smooth toy task."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pushed_task import Cloud, Pushed
from torch import Tensor

from rfo.algo.ahac import AHAC, AdaptiveHorizon, AHACConfig, StiffnessProbe
from rfo.algo.bptt import BPTT, BPTTConfig
from rfo.algo.learner import Learner
from rfo.algo.ppo import PPO, PPOConfig
from rfo.algo.rfo import RFO, RFOConfig
from rfo.algo.sapo import SAPO, SAPOConfig
from rfo.algo.shac import SHAC, SHACConfig
from rfo.algo.short_horizon import ShortHorizonLearner
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Task
from rfo.train.algorithms import ALGORITHMS

SMALL: dict[str, Any] = {"horizon": 4, "actor_hidden": (16, 16)}
VALUED: dict[str, Any] = {**SMALL, "critic_hidden": (16, 16), "critic_epochs": 2}
LEARNERS: dict[str, tuple[type[Learner[Any]], Any]] = {
    "ahac": (AHAC, AHACConfig(**VALUED, horizon_min=3, horizon_max=6)),
    "bptt": (BPTT, BPTTConfig(**SMALL)),
    "ppo": (PPO, PPOConfig(**VALUED)),
    "rfo": (RFO, RFOConfig(**VALUED, flow_steps=3)),
    "rfo-chunks": (RFO, RFOConfig(**VALUED, flow_steps=3, chunk=3, execute=2, chunk_values="chunk")),
    "rfo-gated": (RFO, RFOConfig(**VALUED, flow_steps=3, velocity="gated")),
    "rfo-decoded": (RFO, RFOConfig(**VALUED, flow_steps=3, velocity="decoded")),
    "sapo": (SAPO, SAPOConfig(**VALUED)),
    "shac": (SHAC, SHACConfig(**VALUED, target_mix=0.2)),
}


def _build(
    name: str, task: type[Task] = Pushed, n: int = 5, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any
) -> tuple[Any, VectorEnv]:
    learner, config = LEARNERS[name]
    env = VectorEnv(task(dtype=dtype), n, seed=3, stagger=True)
    return learner(replace(config, **changes), task.spec, dtype=dtype, seed=seed), env


def _figures(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if "seconds" not in key}


def test_every_registered_algorithm_of_this_kind_is_tested() -> None:
    """A new algorithm on windows belongs into the table above."""
    here = {name.partition("-")[0] for name in LEARNERS}
    on_windows = {name for name, (config, _) in ALGORITHMS.items() if config.split(":")[0].split(".")[-1] in here}
    assert on_windows == here


@pytest.mark.parametrize("task", [Pushed, Cloud])
@pytest.mark.parametrize("name", LEARNERS)
def test_continuing_is_bitwise_the_same(name: str, task: type[Task]) -> None:
    """Five updates equal two, a saved state loaded into a fresh learner, and three more."""
    whole, env = _build(name, task)
    for i in range(2):
        whole.update(env, i / 5)
    saved = copy.deepcopy((whole.state_dict(), env.state_dict()))
    expected = [whole.update(env, i / 5) for i in range(2, 5)]
    other, other_env = _build(name, task, seed=9)
    other.load_state_dict(saved[0])
    other_env.load_state_dict(saved[1])
    continued = [other.update(other_env, i / 5) for i in range(2, 5)]
    for a, b in zip(expected, continued, strict=True):
        assert _figures(a) == _figures(b)
    for a, b in zip(whole.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns(name: str) -> None:
    """On the toy task the reward rises to the optimum's neighbourhood in some seconds, wherever it starts."""
    changes: dict[str, Any] = {"actor_lr": 3e-3} if name == "ppo" else {}
    algo, env = _build(name, n=32, actor_hidden=(32, 32), **changes)
    count = 80
    metrics = [algo.update(env, i / count) for i in range(count)]
    first, last = (sum(m["reward_mean"] for m in part) / 10 for part in (metrics[:10], metrics[-10:]))
    assert last > -0.6
    if name != "rfo-gated":  # its gate shrinks the noise, so it starts within 0.3 of where all of them end
        assert last > first + 0.4


def _loss(name: str, algo: Any, env: VectorEnv) -> Tensor:
    normalization = algo.normalizer.snapshot()
    window = algo.collect(env, normalization)
    assert bool(window.truncated[:-1].any())
    if name == "bptt":
        loss: Tensor = algo.actor_loss(window)
        return loss
    total: Tensor = algo.actor_losses(algo.shape_rewards(window), normalization, 0.0)["total"]
    return total


@pytest.mark.parametrize("name", ["ahac", "bptt", "rfo-chunks", "rfo-gated", "rfo-decoded", "sapo", "shac"])
def test_policy_gradient_equals_differences(name: str) -> None:
    """Through control steps, entropy and value bootstrap, with episodes ending inside the window."""
    changes = {"c_past": 0.0, "c_uni": 0.0} if name.startswith("rfo") else {}
    algo, env = _build(name, dtype=torch.float64, horizon=4, **changes)
    with torch.no_grad():
        for parameter in algo.policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    env.reset()
    saved = copy.deepcopy((algo.state_dict(), env.state_dict()))
    parameters = list(algo.policy.parameters())

    def loss() -> Tensor:
        algo.load_state_dict(copy.deepcopy(saved[0] | {"policy": algo.policy.state_dict()}))
        env.load_state_dict(saved[1])
        return _loss(name, algo, env)

    _require_slopes(loss, parameters)


def _require_slopes(loss: Callable[[], Tensor], parameters: list[torch.nn.Parameter]) -> None:
    gradient = torch.autograd.grad(loss(), parameters)
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for _ in range(3):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        slope = float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))
        values = []
        for move in (step, -2.0 * step, step):
            with torch.no_grad():
                for parameter, d in zip(parameters, direction, strict=True):
                    parameter.add_(d, alpha=move)
            values.append(float(loss().detach()))
        assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_chunks_of_one_action_are_no_chunks() -> None:
    """With h = 1 the window and its gradient are bitwise those of a policy asked at every step."""
    results = []
    for collect in (RFO.collect, ShortHorizonLearner.collect):
        algo, env = _build("rfo", c_past=0.0, c_uni=0.0)
        normalization = algo.normalizer.snapshot()
        window = collect(algo, env, normalization)
        loss = algo.actor_losses(window, normalization, 0.0)["total"]
        results.append((window.latent, window.reward, *torch.autograd.grad(loss, list(algo.policy.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_chunks_act_as_they_were_trained() -> None:
    """The controller executes m actions of each plan; `act` gives the first of a new plan."""
    algo, env = _build("rfo-chunks")
    with torch.no_grad():
        algo.policy.field.layers[-1].weight.mul_(50.0)
    observation = env.reset()
    control = algo.controller(deterministic=True, generator=None)
    actions = [control(observation) for _ in range(3)]
    assert actions[0].shape == (5, 2)
    assert torch.equal(actions[0], algo.act(observation, deterministic=True))
    assert torch.equal(actions[0], actions[2]) and not torch.equal(actions[0], actions[1])


@pytest.mark.parametrize("name", ["rfo", "shac"])
def test_detached_observations_leave_the_window_and_change_the_gradient(name: str) -> None:
    """D.Va's variant acts alike, and its gradient lacks the path through what the policy sees."""
    results = {}
    for kind in ("attached", "detached"):
        algo, env = _build(name, observation_gradient=kind)
        with torch.no_grad():
            for parameter in algo.policy.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        normalization = algo.normalizer.snapshot()
        window = algo.collect(env, normalization)
        loss = algo.pathwise_loss(window, normalization)
        results[kind] = (window.latent, torch.autograd.grad(loss, list(algo.policy.parameters())))
    assert torch.equal(results["attached"][0], results["detached"][0])
    pairs = zip(results["attached"][1], results["detached"][1], strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs if bool(a.any()))


def test_entropy_raises_rewards_and_targets_by_the_same_amount() -> None:
    """SAPO climbs and values reward + alpha H_n; alpha itself gets no gradient from the actor."""
    algo, env = _build("sapo")
    window = algo.collect(env, algo.normalizer.snapshot())
    shaped = algo.shape_rewards(window)
    target = algo.target_entropy
    assert target == -1.0  # minus half of two actions
    expected = window.reward + 0.3 * (algo._entropy + abs(target)) / (2 * abs(target))
    torch.testing.assert_close(shaped.reward, expected)
    shaped.reward.sum().backward()
    assert algo.log_alpha.grad is None


def test_alpha_moves_the_entropy_towards_its_target() -> None:
    """Alpha falls while the entropy is above the target and rises below it."""
    algo, _ = _build("sapo")
    for entropy, sign in ((0.0, -1.0), (-3.0, 1.0)):
        before = float(algo.log_alpha.detach())
        for _ in range(20):
            algo._tune_alpha(torch.tensor(entropy))
        assert sign * (float(algo.log_alpha.detach()) - before) > 0


def test_horizon_grows_without_violation_and_shrinks_with_one() -> None:
    """The adaptive horizon stays in its range and its multipliers never become negative."""
    config = AHACConfig(horizon=8, horizon_min=4, horizon_max=12)
    adaptive = AdaptiveHorizon(config)
    for _ in range(100):
        adaptive.update(torch.full((adaptive.steps - 1,), 0.5))
    assert adaptive.steps == 12 and not bool(adaptive.multipliers.any())
    for _ in range(100):
        adaptive.update(torch.full((adaptive.steps - 1,), 5.0))
        assert bool((adaptive.multipliers >= 0).all()) and 4 <= adaptive.steps <= 12
    assert adaptive.steps == 4


def test_stiffness_probe_reads_states_of_every_rank() -> None:
    """A state may have one number per environment: its adjoint counts like any other."""
    probe = StiffnessProbe()
    states = [{"angle": torch.ones(3, requires_grad=True), "q": torch.ones(3, 2, requires_grad=True)} for _ in range(2)]
    for t, state in enumerate(states):
        probe.watch(state, t)
    sum((2 - t) * (s["angle"].sum() + s["q"].sum()) for t, s in enumerate(states)).backward()
    assert torch.equal(probe.growth(torch.zeros(2, 3, dtype=torch.bool)), torch.tensor([2.0]))


def test_ahac_takes_as_many_steps_as_it_says() -> None:
    """The horizon announced before an update is the length of its window, also as it changes."""
    algo, env = _build("ahac", horizon_lr=0.5)
    horizons = []
    for _ in range(6):
        announced = algo.horizon
        clock = env.elapsed.clone()
        metrics = algo.update(env, 0.0)
        assert metrics["horizon"] == announced
        assert torch.equal((env.elapsed - clock) % 6, torch.full((5,), announced % 6)) or not bool(clock.any())
        horizons.append(announced)
    assert horizons[-1] > horizons[0]


def test_ppo_needs_no_gradients_and_the_others_do() -> None:
    """A task without gradients is refused by everything that climbs through it."""

    class Opaque(Pushed):
        spec = replace(Pushed.spec, id="opaque", differentiable=False)

        def dynamics(self, state: dict[str, Tensor], action: Tensor) -> dict[str, Tensor]:
            """Carries no gradient."""
            return {key: value.detach() for key, value in super().dynamics(state, action.detach()).items()}

    algo, env = _build("ppo", Opaque)
    assert algo.update(env, 0.0)["gradient_norm"] > 0
    for name in set(LEARNERS) - {"ppo"}:
        with pytest.raises(UsageError, match="not differentiable"):
            _build(name, Opaque)


def test_averaged_critic_follows_with_its_share() -> None:
    """After a fit the copy that is bootstrapped from is mix times itself plus the rest of the critic."""
    algo, env = _build("shac")
    before = copy.deepcopy(algo.value_fit.bootstrap)
    algo.update(env, 0.0)
    trios = zip(before.parameters(), algo.critic.parameters(), algo.value_fit.bootstrap.parameters(), strict=True)
    for old, new, mixed in trios:
        torch.testing.assert_close(mixed, 0.2 * old + 0.8 * new)
    assert not any(parameter.requires_grad for parameter in algo.value_fit.bootstrap.parameters())


@pytest.mark.parametrize("target_mix", [0.0, 0.2])
def test_values_can_start_at_what_the_first_rewards_are_worth(target_mix: float) -> None:
    """Every value, also of the averaged critic, is raised by the mean reward over 1 - gamma, once."""
    algo, env = _build("shac", target_mix=target_mix, value_start="reward", gamma=0.9, critic_lr=1e-9, lr_min=1e-9)
    normalization = algo.normalizer.snapshot()
    observation = normalization(env.reset())
    critics = (algo.critic, algo.value_fit.bootstrap)
    before = [critic(observation).detach() for critic in critics]
    rewards = [algo.update(env, 0.0)["reward_mean"] for _ in range(2)]
    for critic, value in zip(critics, before, strict=True):
        torch.testing.assert_close(critic(observation).detach(), value + 10.0 * rewards[0], rtol=1e-4, atol=1e-5)


def test_a_value_start_needs_a_discount() -> None:
    """Without a discount a constant reward has no finite value."""
    with pytest.raises(UsageError, match="gamma below 1"):
        replace(LEARNERS["shac"][1], value_start="reward", gamma=1.0)


def test_impossible_chunks_are_refused() -> None:
    """A window holds whole chunks, and no more is executed than planned."""
    config = LEARNERS["rfo"][1]
    with pytest.raises(UsageError, match="multiple"):
        replace(config, chunk=3)
    with pytest.raises(UsageError, match="execute"):
        replace(config, chunk=2, execute=4)


def test_frozen_encoder_passes_fit_the_value_networks_alone() -> None:
    """After its own passes the critic's encoder stands still; without such passes nothing changes bitwise."""
    results = []
    for passes in (None, 2, 1):
        algo, env = _build("shac", Cloud, target_mix=0.0, critic_encoder_epochs=passes)
        algo.update(env, 0.0)
        results.append([p.detach().clone() for p in algo.critic.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    encoder = len(list(algo.critic.encoder.parameters()))
    assert not torch.equal(results[0][encoder], results[2][encoder])
    algo, env = _build("shac", Cloud, critic_epochs=1)
    algo.update(env, 0.0)
    once = list(algo.critic.parameters())[:encoder]
    assert all(torch.equal(a, b) for a, b in zip(results[2][:encoder], once, strict=True))


def test_regularisers_on_drawn_rows_estimate_the_same_loss() -> None:
    """Few rows of every window give the same expectation, and as many as there are the same bits."""
    found = {}
    for rows in (None, 20, 5):
        algo, env = _build("rfo", dtype=torch.float64, cfm_rows=rows)
        normalization = algo.normalizer.snapshot()
        for _ in range(2):
            window = algo.collect(env, normalization)
        draws = [algo.actor_losses(window, normalization, 0.0) for _ in range(1 if rows != 5 else 400)]
        found[rows] = [
            float(torch.stack([loss[name] for loss in draws]).detach().mean()) for name in ("past", "uniform")
        ]
    assert found[None] == found[20]
    many, env = _build("rfo", dtype=torch.float64)
    normalization = many.normalizer.snapshot()
    for _ in range(2):
        window = many.collect(env, normalization)
    draws = [many.actor_losses(window, normalization, 0.0) for _ in range(100)]
    whole = [float(torch.stack([loss[name] for loss in draws]).detach().mean()) for name in ("past", "uniform")]
    assert found[5] == pytest.approx(whole, rel=0.05)


def test_values_begin_at_the_level_of_the_rewards() -> None:
    """Before anything is learnt, every state is worth what the mean reward is worth for ever; a copy too."""
    for mix in (0.0, 0.9):
        algo, env = _build("shac", target_mix=mix, value_memory=0.9, critic_lr=1e-12)
        window = algo.collect(env, algo.normalizer.snapshot())
        algo.value_fit.fit(window, algo.normalizer.snapshot())
        keep = 1.0 - float(window.terminated.double().mean())
        level = float(window.reward.mean()) / (1.0 - algo.config.gamma * keep)
        assert abs(float(algo.critic.center) - level) <= 1e-5 * abs(level)
        assert torch.equal(algo.value_fit.bootstrap.center, algo.critic.center)


def test_values_follow_a_shift_of_the_rewards() -> None:
    """A constant added to every reward moves values by what it is worth for ever, and the networks not at all."""
    found = []
    for shift in (0.0, 5.0):
        algo, env = _build("shac", dtype=torch.float64, value_memory=0.9)
        window = algo.collect(env, algo.normalizer.snapshot())
        window = replace(window, reward=window.reward + shift, terminated=torch.zeros_like(window.terminated))
        algo.value_fit.fit(window, algo.normalizer.snapshot())
        found.append((algo.critic.center, [p.detach().clone() for p in algo.critic.parameters()]))
    (center, plain), (moved, shifted) = found
    torch.testing.assert_close(moved - center, torch.full_like(center, 5.0 / (1.0 - algo.config.gamma)))
    for a, b in zip(plain, shifted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
