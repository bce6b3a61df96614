"""SHAC: short-horizon actor-critic with a Gaussian policy (arXiv 2204.07137).

Unlike the released code of SAPO's baselines, the bootstrap is the value of the observation after the step, and the two
critics share no weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfo.algo.short_horizon import ShortHorizonConfig, ShortHorizonLearner
from rfo.policy.gaussian import GaussianPolicy, make_free_gaussian

__all__ = ["SHAC", "SHACConfig"]


@dataclass(frozen=True)
class SHACConfig(ShortHorizonConfig):
    """Every figure of SHAC; tags as in `LearnerConfig`.

    Attributes:
        log_std: Log standard deviation at the start, one per action entry and the same in every state [C].
    """

    log_std: float = -1.0


class SHAC(ShortHorizonLearner[SHACConfig]):
    """A Gaussian policy of state-independent spread; the arguments are those of `ShortHorizonLearner`."""

    policy: GaussianPolicy

    def build_networks(self) -> None:
        """Builds the policy, then the critics."""
        config = self.config
        self.policy = make_free_gaussian(self.make_encoder(), self.spec.action_dim, config.actor_hidden, config.log_std)
        self.critic = self.make_critic()
