"""FlowRL, SAC Flow and SAC on toys."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from pushed_task import Pushed
from torch import Tensor

from rfo.algo.flowrl import FlowRL, FlowRLConfig, official_guidance, paper_guidance
from rfo.algo.off_policy import OffPolicy, OffPolicyConfig
from rfo.algo.sac import SAC, SACConfig
from rfo.algo.sac_flow import SACFlow, SACFlowConfig
from rfo.algo.soft_actor_critic import Temperature
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, State, Task, TaskSpec


class Bandit(Task):
    """One step; the reward is highest at the actions +0.6 and -0.6."""

    spec: ClassVar[TaskSpec] = TaskSpec("bandit", "torch", 1, 1, 0.1, {"o": (1,)}, differentiable=False)

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins at zero."""
        return {"a": torch.zeros(n, 1, device=self.device, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Remembers the action."""
        return {"a": action}

    def observe(self, state: State) -> Observation:
        """Shows nothing."""
        return {"o": torch.zeros_like(state["a"])}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Two bumps of one height."""
        a = action[:, 0]
        return torch.exp(-((a - 0.6) ** 2) / 0.02) + torch.exp(-((a + 0.6) ** 2) / 0.02)


SMALL: dict[str, Any] = {"horizon": 10, "batch_size": 16, "learning_starts": 8, "replay_capacity": 500}
NETS: dict[str, Any] = {"critic_hidden": (16, 16)}
LEARNERS: list[tuple[type[OffPolicy], OffPolicyConfig]] = [
    (SAC, SACConfig(**SMALL, **NETS, actor_hidden=(16,))),
    (FlowRL, FlowRLConfig(**SMALL, **NETS, actor_hidden=(16,), mode="paper")),
    (FlowRL, FlowRLConfig(**SMALL, **NETS, actor_hidden=(16,), mode="official", velocity="gated")),
    (SACFlow, SACFlowConfig(**SMALL, **NETS, actor_hidden=(16,), mode="paper", velocity="mlp", n_step=3)),
    (SACFlow, SACFlowConfig(**SMALL, **NETS, actor_hidden=(16,), level_hidden=(16,))),
    (SACFlow, SACFlowConfig(**SMALL, **NETS, actor_hidden=(16, 16), velocity="decoded")),
]


def _name(learner: Any) -> str:
    return "-".join(str(getattr(learner, key, "")) for key in ("mode", "velocity")) if hasattr(learner, "gamma") else ""


def _make(kind: type[OffPolicy], config: OffPolicyConfig, seed: int = 0) -> tuple[OffPolicy, VectorEnv]:
    return kind(config, Bandit.spec, seed=seed), VectorEnv(Bandit(), 2, seed=seed)


@pytest.mark.parametrize(("kind", "config"), LEARNERS, ids=_name)
def test_continuing_is_bitwise_the_same(kind: type[OffPolicy], config: OffPolicyConfig) -> None:
    """Three updates equal one, a saved state loaded into a fresh learner, and two more; the replay is in it."""
    whole, env = _make(kind, config)
    whole.update(env, 0.0)
    saved = copy.deepcopy((whole.state_dict(), env.state_dict()))
    expected = [whole.update(env, 0.0) for _ in range(2)]
    other, other_env = _make(kind, config, seed=7)
    other.load_state_dict(saved[0])
    other_env.load_state_dict(saved[1])
    for a in expected:
        b = other.update(other_env, 0.0)
        assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}


@pytest.mark.parametrize(("kind", "config"), LEARNERS, ids=_name)
def test_acting_is_repeatable_and_bounded(kind: type[OffPolicy], config: OffPolicyConfig) -> None:
    """Deterministic actions agree, sampled ones follow their generator, all within [-1, 1]."""
    learner, env = _make(kind, config)
    learner.update(env, 0.0)
    seen = env.begin_window()
    assert torch.equal(learner.act(seen, deterministic=True), learner.act(seen, deterministic=True))
    sampled = [learner.act(seen, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(sampled[0], sampled[1]) and not torch.equal(sampled[0], sampled[2])
    assert all(float(action.abs().max()) <= 1.0 for action in sampled)


def test_updates_are_due_in_proportion() -> None:
    """Half an update per environment step, none while actions are random."""
    learner, env = _make(SAC, replace(LEARNERS[0][1], updates_per_step=0.5, learning_starts=10))
    learner.update(env, 0.0)
    assert learner.updates == 6  # the steps 10, 12, ..., 20 owe one each
    assert learner.env_steps == 20


def test_an_action_is_held_and_stored_once() -> None:
    """Ten control steps are five decisions of two; counts in the config stay those of control steps."""
    config = replace(LEARNERS[0][1], action_repeat=2, updates_per_step=0.5, learning_starts=12)
    learner, env = SAC(config, Pushed.spec), VectorEnv(Pushed(), 2)
    executed, step = [], env.step
    env.step = lambda action: executed.append(action) or step(action)  # type: ignore[method-assign, func-returns-value]
    learner.update(env, 0.0)
    assert learner.replay is not None and len(learner.replay) == 10 and learner.env_steps == 20
    assert learner.updates == 6  # two after each of the third, fourth and fifth decision
    held = torch.stack(executed)
    stored = learner.replay.state_dict()["columns"]
    assert torch.equal(held[0], held[1]) and not torch.equal(held[1], held[2])
    assert torch.equal(stored["action"].view(5, 2, -1), held[::2])
    # Episodes of six steps are three decisions, so what a decision ends in is what the next one sees.
    torch.testing.assert_close(stored["next_observation/q"][:2], stored["observation/q"][2:4])
    batch = learner.replay.sample(4, gamma=learner.decision_gamma, generator=torch.Generator())
    assert batch.discount.tolist() == pytest.approx([0.99**2] * 4)


def test_flowrls_weights_are_those_of_the_paper_and_of_the_code() -> None:
    """By hand, on two samples of which one is better than the policy."""
    config = FlowRLConfig(guidance=0.1)
    error, behavior, value = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
    # x = [2, -1], mean 0.5: only the first sample counts, with 0.1 exp(1.5).
    assert float(paper_guidance(error, behavior, value, config)) == pytest.approx(0.5 * 0.1 * math.exp(1.5))
    # relu(x) = [2, 0], mean 1: weights 0.1 e and 0.1 / e; the mean error is 2.
    weights = 0.5 * (0.1 * math.e + 0.1 / math.e)
    assert float(official_guidance(error, behavior, value, config)) == pytest.approx(2.0 * weights)


def test_alpha_grows_where_the_entropy_is_too_small() -> None:
    """The sign is SAC's."""
    temperature = Temperature(0.2)
    for log_prob, grows in ((5.0, True), (-5.0, False)):
        (gradient,) = torch.autograd.grad(temperature.loss(torch.tensor([log_prob]), 0.0), temperature.log_alpha)
        assert (float(gradient) < 0) is grows


def test_the_papers_target_entropy_can_be_reached() -> None:
    """It is below what the noise alone has, whatever the number of flow steps and their noise."""
    for steps, sigma in ((4, 0.1), (10, 0.1), (4, 0.5)):
        config = SACFlowConfig(mode="paper", flow_steps=steps, sigma=sigma)
        learner = SACFlow(config, Bandit.spec)
        noise = torch.randn(steps + 1, 256, 1)
        _, _, log_prob = learner.policy.sample({"low_dim": torch.zeros(256, 1)}, noise)
        assert learner.target_entropy < float(-log_prob.detach().mean()) + 1.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flowrl_finds_best_actions(seed: int) -> None:
    """On the bandit with two best actions nearly all actions end near one of them, whichever it is.

    Keeping both is what a flow could do; with these settings one or two seeds in five do, so it is not asserted.
    """
    common: dict[str, Any] = {**SMALL, "batch_size": 64, "learning_starts": 400, "normalizer": "none"}
    config = FlowRLConfig(
        **common, mode="paper", actor_hidden=(64, 64), critic_hidden=(64, 64), flow_steps=4, lr=1e-3, guidance=1.0
    )
    learner = FlowRL(config, Bandit.spec, seed=seed)
    env = VectorEnv(Bandit(), 2, seed=seed)
    for _ in range(60):
        learner.update(env, 0.0)
    action = learner.act({"o": torch.zeros(512, 1)}, generator=torch.Generator().manual_seed(0))[:, 0]
    assert float(((action.abs() - 0.6).abs() < 0.2).double().mean()) > 0.85


def test_a_gaussian_does_not_keep_both_optima() -> None:
    """On the same bandit SAC's actions do not lie near both best ones."""
    common: dict[str, Any] = {**SMALL, "batch_size": 64, "learning_starts": 400, "normalizer": "none"}
    learner = SAC(SACConfig(**common, actor_hidden=(64, 64), critic_hidden=(64, 64)), Bandit.spec, seed=0)
    env = VectorEnv(Bandit(), 2, seed=0)
    for _ in range(60):
        learner.update(env, 0.0)
    action = learner.act({"o": torch.zeros(512, 1)}, generator=torch.Generator().manual_seed(0))[:, 0]
    near = [(action - sign * 0.6).abs() < 0.2 for sign in (1.0, -1.0)]
    shares = [float(mask.double().mean()) for mask in near]
    assert min(shares) < 0.15 or sum(shares) < 0.6, shares


def test_bad_configurations_are_refused_in_words() -> None:
    """Impossible figures name themselves."""
    for kind, bad in ((FlowRLConfig, {"expectile": 1.0}), (SACFlowConfig, {"sigma": 0.0}), (SACConfig, {"tau": 0.0})):
        with pytest.raises(UsageError, match=f"algo.{next(iter(bad))}"):
            kind(**bad)  # type: ignore[arg-type]
