"""What SAC and SAC Flow share: maximum-entropy updates of a reparameterised policy and twin critics."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from rfo.algo.action_value_fit import ActionValueFit, TargetFit
from rfo.algo.base import Policy, require
from rfo.algo.off_policy import OffPolicy, OffPolicyConfig, backward_and_step
from rfo.core.task import Observation
from rfo.data.replay import Batch
from rfo.policy.critics import frozen
from rfo.policy.normalize import Normalization

__all__ = ["SoftActorCritic", "SoftActorCriticConfig", "StochasticPolicy"]


@dataclass(frozen=True)
class SoftActorCriticConfig(OffPolicyConfig):
    """Figures of every maximum-entropy learner; defaults of SAC Flow's released code (from scratch).

    Attributes:
        batch_size: Transitions of a gradient update.
        actor_lr: Learning rate of the policy.
        critic_lr: Learning rate of the critics and of alpha.
        beta1: First moment decay of Adam, for every network.
        alpha: Weight of the entropy at the start.
        target_entropy: What alpha is tuned to; None for the algorithm's own.
        entropy_baseline: What the bonus is counted from: "none" adds -alpha log p to a value; "target" adds
            alpha (-log p - target), which differs by a constant per step and keeps a path's large entropy, which is
            mostly its noise's, from being what the critics have to track.
        interval: Updates of the critics per update of policy and alpha.
        tau: Weight of the critics in the target copies' update, where there are copies.
        critic_hidden: Widths of each critic.
        critic_norm: Normalisation of the hidden layers of critics with target copies; "layer" keeps values of actions
            that the data do not hold from running away, as in the offline-to-online part of SAC Flow's released code.
        behavior_weight: Beta, the weight in the policy's loss of the mean squared distance between its actions and the
            batch's (offline-to-online part of SAC Flow; mean over entries instead of their sum is a choice made here).
    """

    batch_size: int = 512
    actor_lr: float = 3e-4
    critic_lr: float = 1e-3
    beta1: float = 0.5
    alpha: float = 0.2
    target_entropy: float | None = None
    entropy_baseline: Literal["none", "target"] = "none"
    interval: int = 3
    tau: float = 0.005
    critic_hidden: tuple[int, ...] = (1024, 1024)
    critic_norm: Literal["none", "layer"] = "none"
    behavior_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("interval",), lambda v: v >= 1, "must be at least 1")
        require(self, ("actor_lr", "critic_lr", "alpha"), lambda v: v > 0, "must be positive")
        require(self, ("behavior_weight",), lambda v: v >= 0, "must not be negative")
        require(self, ("beta1",), lambda v: 0 <= v < 1, "must lie in [0, 1)")
        require(self, ("tau",), lambda v: 0 < v <= 1, "must lie in (0, 1]")


class StochasticPolicy(Policy, Protocol):
    """A policy whose draws have a log-probability."""

    steps: int

    def sample(self, observation: Observation, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps noise [steps + 1, B, A] to latent [B, A], action [B, A] and log-probability [B]."""
        ...


class Temperature(nn.Module):
    """alpha > 0, by its logarithm.

    Args:
        alpha: Value at the start.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))

    def loss(self, log_prob: Tensor, target_entropy: float) -> Tensor:
        """Returns alpha (entropy - target): alpha grows where the entropy is below its target.

        The released code of SAC Flow's offline-to-online part has the opposite sign; this is SAC's.
        """
        return self.log_alpha.exp() * (-log_prob.detach().mean() - target_entropy)


class SoftActorCritic(OffPolicy):
    """Critics to r + gamma (min Q(s', a') - alpha log p), policy by alpha log p - min Q, alpha by its target entropy.

    A subclass makes the policy and says how critics are fitted.
    """

    config: SoftActorCriticConfig
    policy: StochasticPolicy

    @abstractmethod
    def own_target_entropy(self) -> float:
        """Returns what alpha is tuned to where the config does not say."""

    @abstractmethod
    def _make_policy(self) -> StochasticPolicy:
        """Makes the policy, a module."""

    @abstractmethod
    def _make_fit(self) -> ActionValueFit:
        """Makes the critics and how they are fitted."""

    def _build(self) -> None:
        config = self.config
        given = config.target_entropy
        self.target_entropy = self.own_target_entropy() if given is None else given
        self.policy = self._make_policy()
        self.fit = self._make_fit()
        self.temperature = Temperature(config.alpha)
        assert isinstance(self.policy, nn.Module)
        self._register("policy", self.policy)
        self._register("critics", self.fit.critics)
        if isinstance(self.fit, TargetFit):
            self._register("targets", self.fit.targets)
        self._register("temperature", self.temperature)
        betas = (config.beta1, 0.999)
        self.policy_optimizer = self._optimize("policy", list(self.policy.parameters()), config.actor_lr, betas)
        self.critic_optimizer = self._optimize("critics", list(self.fit.critics.parameters()), config.critic_lr, betas)
        self.alpha_optimizer = self._optimize(
            "temperature", list(self.temperature.parameters()), config.critic_lr, betas
        )

    def learn(self, batch: Batch, normalization: Normalization) -> dict[str, Tensor]:
        """Updates the critics, and policy and alpha every `interval` updates."""
        here, figures = self._fit_critics(batch, normalization)
        if self.updates % self.config.interval == 0:
            figures |= self._improve(here, batch, figures["alpha"])
        return figures

    def imitate(self, batch: Batch, normalization: Normalization) -> dict[str, Tensor]:
        """Updates the critics for the policy as it is, and the policy by flow matching to the batch's latents."""
        here, figures = self._fit_critics(batch, normalization)
        with self._autocast():
            loss = self.imitation_loss(here, batch)
        backward_and_step(loss, self.policy_optimizer)
        return figures | {"imitation_loss": loss.detach()}

    @abstractmethod
    def imitation_loss(self, observation: Observation, batch: Batch) -> Tensor:
        """Returns what is least where the policy acts as the batch does.

        Args:
            observation: The batch's, normalised.
            batch: What was done.
        """

    def actor_loss(self, observation: Observation, action: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
        """Returns E[alpha log p - min Q]."""
        return (alpha * log_prob - self.fit.value(observation, action)).mean()

    def _fit_critics(self, batch: Batch, normalization: Normalization) -> tuple[Observation, dict[str, Tensor]]:
        """Updates the critics; returns the normalised observation and figures."""
        here, there = normalization(batch.observation), normalization(batch.next_observation)
        alpha = self.temperature.log_alpha.detach().exp()
        with self._autocast():
            with torch.no_grad():
                _, following, log_prob = self.policy.sample(there, self.policy_noise(len(batch.reward), self._learning))
            baseline = self.target_entropy if self.config.entropy_baseline == "target" else 0.0
            bonus = alpha * (-log_prob - baseline)
            loss, values = self.fit.loss(here, batch.action, there, following, bonus, batch.reward, batch.discount)
        backward_and_step(loss, self.critic_optimizer)
        self.fit.after_step()
        return here, {"critic_loss": loss.detach(), "value_mean": values.detach().mean(), "alpha": alpha}

    def _improve(self, here: Observation, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        rows = next(iter(here.values())).shape[0]
        figures = {}
        with self._autocast(), frozen(self.fit.critics):
            _, action, log_prob = self.policy.sample(here, self.policy_noise(rows, self._learning))
            loss = self.actor_loss(here, action, log_prob, alpha)
            if self.config.behavior_weight > 0:
                distance = batch.mean_of((action - batch.action).square()).mean()
                loss = loss + self.config.behavior_weight * distance
                figures["behavior_distance"] = distance.detach()
        backward_and_step(loss, self.policy_optimizer)
        backward_and_step(self.temperature.loss(log_prob, self.target_entropy), self.alpha_optimizer)
        return figures | {"actor_loss": loss.detach(), "entropy": -log_prob.detach().mean()}

    def policy_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Returns noise for the flow's beginning and each of its steps, shape [steps + 1, rows, A]."""
        return self.draw_noise((self.policy.steps + 1, rows), generator)

    def _figure_counts(self, learned: int) -> dict[str, int]:
        due = self._due_every(self.config.interval, learned)
        return {"actor_loss": due, "entropy": due, "behavior_distance": due}
