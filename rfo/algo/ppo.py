"""PPO: proximal policy optimization through the same windows, without gradients of the physics (arXiv 1707.06347)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rfo.algo.base import Stopwatch, require
from rfo.algo.learner import Figures
from rfo.algo.valued import ValuedConfig, ValuedLearner
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation
from rfo.data.horizon import Window, flatten_batch, select_rows
from rfo.policy.gaussian import GaussianPolicy, gaussian_log_prob, make_free_gaussian
from rfo.policy.normalize import Normalization

__all__ = ["PPO", "PPOConfig"]


@dataclass(frozen=True)
class PPOConfig(ValuedConfig):
    """Every figure of PPO; tags as in `LearnerConfig`.

    Attributes:
        horizon: Control steps of a window [C].
        actor_lr: Learning rate at the start; it then follows the divergence from the old policy [C].
        critic_lr: Learning rate of the critics at the start [I].
        clip: Range of the probability ratio [C].
        epochs: Passes of the policy over the window [C].
        minibatches: Minibatches of a pass [I].
        target_kl: Divergence per pass to which the learning rate is adapted [C].
        log_std: Log standard deviation at the start, one per action entry and the same in every state [I].
    """

    horizon: int = 32
    actor_lr: float = 5e-4
    clip: float = 0.2
    epochs: int = 5
    minibatches: int = 4
    target_kl: float = 0.008
    log_std: float = -0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("epochs", "minibatches"), lambda value: value >= 1, "must be at least 1")
        require(self, ("clip", "target_kl"), lambda value: value > 0, "must be positive")


class PPO(ValuedLearner[PPOConfig]):
    """A Gaussian policy of state-independent spread, improved by the clipped ratio of its densities.

    Ratios are taken before the tanh, which cancels in them. The value fit is the one of the other learners: TD(lambda)
    targets minus values are the generalised advantages. The arguments are those of `Learner`.
    """

    policy: GaussianPolicy

    def set_up(self) -> None:
        """Leaves the actor's learning rate to the divergence."""
        super().set_up()
        # The divergence drives the actor's learning rate, not the clock.
        self.schedules = [(optimizer, self.config.critic_lr) for optimizer in self.value_fit.optimizers]

    def build_networks(self) -> None:
        """Builds the policy, then the critics."""
        config = self.config
        self.policy = make_free_gaussian(self.make_encoder(), self.spec.action_dim, config.actor_hidden, config.log_std)
        self.critic = self.make_critic()

    @torch.no_grad()
    def collect(self, env: VectorEnv, normalization: Normalization) -> Window:
        """Runs the policy for one window without a graph."""
        return super().collect(env, normalization)

    def improve(self, window: Window, normalization: Normalization, progress: float, watch: Stopwatch) -> Figures:
        """Takes several passes of the actor over the window, then fits the critics."""
        config = self.config
        observation = flatten_batch(normalization(window.observation))
        latent = window.latent.flatten(0, 1)
        with torch.no_grad():
            old = self._log_prob(observation, latent)
            targets = self.value_fit.targets(window, normalization).flatten()
            advantage = targets - self.critic.mean(observation)
            advantage = (advantage - advantage.mean()) / advantage.std().clamp(min=1e-8)
        norms = []
        for _ in range(config.epochs):
            order = torch.randperm(len(old), generator=self.loss_noise, device=self.device)
            for rows in order.chunk(config.minibatches):
                ratio = (self._log_prob(select_rows(observation, rows), latent[rows]) - old[rows]).exp()
                norms.append(self.climb(_clipped_loss(ratio, advantage[rows], config.clip)))
            kl = self._adapt_learning_rate(observation, latent, old)
        watch.lap("backward")
        figures: Figures = {"gradient_norm": max(norms), "kl": kl, "actor_lr": self.optimizer.param_groups[0]["lr"]}
        figures |= self.value_fit.fit(window, normalization)
        watch.lap("critic")
        return figures

    @torch.no_grad()
    def _adapt_learning_rate(self, observation: Observation, latent: Tensor, old: Tensor) -> float:
        log_ratio = self._log_prob(observation, latent) - old
        # E[r - 1 - log r] under the old policy: never negative, and with less variance than E[-log r].
        kl = float((log_ratio.exp() - 1.0 - log_ratio).mean())
        target = self.config.target_kl
        factor = 1.0 / 1.5 if kl > 2.0 * target else 1.5 if kl < 0.5 * target else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = min(max(group["lr"] * factor, self.config.lr_min), 1e-2)
        return kl

    def _log_prob(self, observation: Observation, latent: Tensor) -> Tensor:
        mean, log_std = self.policy.moments(observation)
        return gaussian_log_prob((latent - mean) * (-log_std).exp(), log_std)


def _clipped_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Returns -mean min(r A, clip(r) A) (PPO, Eq. 7)."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()
