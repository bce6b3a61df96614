"""SAC with a Gaussian policy (arXiv 1812.05905): the control for the flow policies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rfo.algo.action_value_fit import ActionValueFit, TargetFit
from rfo.algo.soft_actor_critic import SoftActorCritic, SoftActorCriticConfig
from rfo.core.task import Observation
from rfo.data.replay import Batch
from rfo.policy.action_critics import ActionCritics
from rfo.policy.squashed_gaussian import SquashedGaussianPolicy

__all__ = ["SAC", "SACConfig"]


@dataclass(frozen=True)
class SACConfig(SoftActorCriticConfig):
    """Figures of SAC.

    Attributes:
        actor_hidden: Widths of the policy's hidden layers.
    """

    batch_size: int = 256
    critic_lr: float = 1e-3
    beta1: float = 0.9
    interval: int = 2
    critic_hidden: tuple[int, ...] = (256, 256)
    actor_hidden: tuple[int, ...] = (256, 256)


class SAC(SoftActorCritic):
    """The learner."""

    config: SACConfig
    policy: SquashedGaussianPolicy

    def imitation_loss(self, observation: Observation, batch: Batch) -> Tensor:
        """Returns minus the log-density of the batch's latents, a mean over entries; flow matching is for flows."""
        return -batch.mean_of(self.policy.entry_log_prob(observation, batch.latent)).mean()

    def own_target_entropy(self) -> float:
        """Returns -1 per action entry."""
        return -float(self.plan_dim)

    def _make_policy(self) -> SquashedGaussianPolicy:
        encoder = self.make_encoder()
        return SquashedGaussianPolicy(encoder, self.plan_dim, self.config.actor_hidden)

    def _make_fit(self) -> ActionValueFit:
        encoder = self.make_encoder()
        config = self.config
        norm = config.critic_norm == "layer"
        critics = ActionCritics(encoder, self.plan_dim, config.critic_hidden, layer_norm=norm)
        return TargetFit(critics, config.tau)
