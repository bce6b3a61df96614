"""Pretraining on a data set, what follows it, and chunks of actions in the off-policy learners."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from rfo.algo.flowrl import FlowRL, FlowRLConfig
from rfo.algo.off_policy import OffPolicy, OffPolicyConfig
from rfo.algo.sac import SAC, SACConfig
from rfo.algo.sac_flow import SACFlow, SACFlowConfig
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, State, Task, TaskSpec
from rfo.data.offline import OfflineData, save


class Walk(Task):
    """The position moves by the action; the reward is the nearness to zero, and the episode ends after five steps."""

    spec: ClassVar[TaskSpec] = TaskSpec("walk", "torch", 1, 5, 0.1, {"x": (1,)}, differentiable=False)

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Begins anywhere near."""
        return {"x": torch.rand(n, 1, generator=generator, dtype=self.dtype) - 0.5}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Moves."""
        return {"x": state["x"] + 0.3 * action}

    def observe(self, state: State) -> Observation:
        """Shows the position."""
        return {"x": state["x"]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Is highest at zero."""
        return -next_state["x"][:, 0].abs()


@pytest.fixture
def demonstrations(tmp_path: Path) -> str:
    """Episodes of three steps in which every action is near 0.6 or near -0.6, whatever is seen."""
    rng = np.random.default_rng(0)
    count = 600
    seen = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
    action = np.clip(rng.choice([-0.6, 0.6], (count, 1)) + 0.03 * rng.normal(size=(count, 1)), -1, 1)
    truncated = np.arange(count) % 3 == 2
    data = OfflineData(
        {"x": seen},
        {"x": seen},
        action.astype(np.float32),
        -np.abs(seen[:, 0]),
        np.zeros(count, bool),
        truncated,
    )
    path = tmp_path / "demonstrations.npz"
    save(data, path)
    return str(path)


SMALL: dict[str, Any] = {"horizon": 10, "batch_size": 32, "learning_starts": 4, "replay_capacity": 500}
NETS: dict[str, Any] = {"critic_hidden": (16, 16)}
LEARNERS: list[tuple[type[OffPolicy], OffPolicyConfig]] = [
    (SAC, SACConfig(**SMALL, **NETS, actor_hidden=(16,))),
    (FlowRL, FlowRLConfig(**SMALL, **NETS, actor_hidden=(32, 32), mode="paper", flow_steps=8, lr=3e-3)),
    (SACFlow, SACFlowConfig(**SMALL, **NETS, actor_hidden=(32, 32), mode="paper", velocity="mlp", actor_lr=3e-3)),
    (SACFlow, SACFlowConfig(**SMALL, **NETS, actor_hidden=(64, 64), mode="paper", velocity="gated", actor_lr=3e-3)),
    (SACFlow, SACFlowConfig(**SMALL, **NETS, actor_hidden=(32, 32), velocity="decoded", actor_lr=3e-3)),
]


def _name(value: Any) -> str:
    return str(getattr(value, "velocity", "")) if hasattr(value, "gamma") else value.__name__


@pytest.mark.parametrize(("kind", "config"), LEARNERS[1:3], ids=_name)
def test_pretraining_keeps_both_ways_of_the_data(kind: type[OffPolicy], config: Any, demonstrations: str) -> None:
    """After flow matching most drawn actions lie near one of both demonstrated ones, and both are drawn."""
    config = replace(config, dataset=demonstrations, pretrain_updates=600, batch_size=128)
    learner = kind(config, Walk.spec, seed=0)
    learner.pretrain(learner.pretraining_left)
    assert learner.pretraining_left == 0 and learner.updates == 0
    seen = {"x": torch.linspace(-1, 1, 256)[:, None]}
    action = learner.act(seen, generator=torch.Generator().manual_seed(0))[:, 0]
    shares = [float(((action - way).abs() < 0.25).double().mean()) for way in (0.6, -0.6)]
    assert min(shares) > 0.25 and sum(shares) > 0.7, shares


@pytest.mark.parametrize(("kind", "config"), LEARNERS, ids=_name)
def test_continuing_is_bitwise_the_same_with_data_and_chunks(
    kind: type[OffPolicy], config: Any, demonstrations: str
) -> None:
    """A state saved within pretraining, and one saved within a chunk, go on as if nothing had happened."""
    config = replace(config, dataset=demonstrations, pretrain_updates=4, chunk=3, offline_share=0.25)
    whole, env = kind(config, Walk.spec, seed=0), VectorEnv(Walk(), 2, seed=0)
    whole.pretrain(2)
    other, other_env = kind(config, Walk.spec, seed=5), VectorEnv(Walk(), 2, seed=5)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert whole.pretrain(2) == other.pretrain(2)
    whole.update(env, 0.0)  # 10 steps: the fourth chunk has been begun
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    other_env.load_state_dict(env.state_dict())
    a, b = whole.update(env, 0.0), other.update(other_env, 0.0)
    assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}


def test_a_batch_has_its_share_of_the_data(demonstrations: str) -> None:
    """A fixed share, or the data's share of all there is."""
    base = replace(LEARNERS[0][1], dataset=demonstrations, batch_size=40)
    for share, expected in ((0.25, 10), (1.0, 40), (0.0, 0), (None, 40)):
        learner = SAC(replace(base, offline_share=share), Walk.spec)  # type: ignore[arg-type]
        learner.update(VectorEnv(Walk(), 2), 0.0)
        assert learner.replay is not None
        batch = learner._sample(learner.replay)
        demonstrated = int(((batch.action.abs() - 0.6).abs() < 0.15).sum())
        # 600 demonstrations beside 20 transitions of uniform actions, a quarter of which lie as near.
        assert abs(demonstrated - expected) <= (40 - expected) * 0.5 + 4 and len(batch.action) == 40


def test_the_behavior_weight_holds_actions_to_the_batchs(demonstrations: str) -> None:
    """The larger beta, the nearer are the policy's actions to those of the data after the same updates."""
    distances = []
    for weight in (0.0, 30.0):
        config = SACConfig(
            **SMALL, **NETS, actor_hidden=(16,), dataset=demonstrations, offline_share=1.0, behavior_weight=weight
        )
        learner = SAC(config, Walk.spec, seed=0)
        learner.prepare()
        batch = learner._draw(learner._data, 64)  # type: ignore[arg-type]
        mean = torch.full_like(batch.action, 0.4)
        batch = replace(batch, action=mean, latent=torch.atanh(mean))
        for _ in range(300):
            learner.learn(batch, learner._normalization)
            learner.updates += 1
        action = learner.act({"x": batch.observation["x"]}, deterministic=True)
        distances.append(float((action - mean).abs().mean()))
    assert distances[1] < 0.1 and distances[1] < 0.5 * distances[0], distances


def test_a_pretrained_policy_acts_from_the_first_step(demonstrations: str) -> None:
    """Nothing is drawn uniformly at random where there is a policy, and learning still waits."""
    config = replace(LEARNERS[0][1], dataset=demonstrations, pretrain_updates=1, learning_starts=1000)
    learner = SAC(config, Walk.spec, seed=0)  # type: ignore[arg-type]
    learner.pretrain(1)
    with torch.no_grad():
        for parameter in learner.policy.parameters():
            parameter.zero_()
        learner.policy.network[-1].bias[0] = 0.2  # type: ignore[index]
        learner.policy.network[-1].bias[1] = -20.0  # type: ignore[index]
    learner.update(VectorEnv(Walk(), 2), 0.0)
    assert learner.replay is not None and learner.updates == 0
    acted = learner.replay._columns["action"][: len(learner.replay)]
    assert float((acted - 0.2).abs().max()) < 0.1


def test_a_wrong_data_set_is_refused_in_words(demonstrations: str, tmp_path: Path) -> None:
    """Another task's observations, no file, and pretraining without data name themselves."""
    other = replace(Walk.spec, observation_shapes={"x": (2,)})
    with pytest.raises(UsageError, match="observation 'x' has shape"):
        SAC(SACConfig(dataset=demonstrations), other).prepare()
    with pytest.raises(UsageError, match="actions have shape"):
        SAC(SACConfig(dataset=demonstrations), replace(Walk.spec, action_dim=2)).prepare()
    with pytest.raises(UsageError, match="does not exist"):
        SAC(SACConfig(dataset=str(tmp_path / "none.npz")), Walk.spec).prepare()
    with pytest.raises(UsageError, match="needs a data set"):
        SACConfig(pretrain_updates=5)
    with pytest.raises(UsageError, match=r"algo\.n_step must be 1"):
        SACConfig(n_step=3, chunk=5)
