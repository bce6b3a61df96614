"""SAC Flow (arXiv 2509.25756): SAC with a stochastic flow policy and the log-probability of its path.

The flow is rolled out with noise between its steps, which gives the path a density; gated (Flow-G) and decoded (Flow-T)
velocities keep the gradient through the steps from growing. Paper and released code differ in the law of a step, in the
noise level, in the sizes and in the critics; each way is one `SACFlowVariant`, and the critics are chosen beside it.

Not reproduced from the released code: Flow-T's log-probability without -log(sigma dt), alpha's loss with the opposite
sign, one random key for all flow steps, and batch normalisation of the latent inside the flow (observations are
normalised before it). Flow-T's block is the paper's in both modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rfo.algo.action_value_fit import ActionValueFit, CrossFit, TargetFit
from rfo.algo.base import require
from rfo.algo.soft_actor_critic import SoftActorCritic, SoftActorCriticConfig
from rfo.core.errors import UsageError
from rfo.core.task import Observation
from rfo.data.replay import Batch
from rfo.flow.decoded import VelocityDecoded
from rfo.flow.fields import VelocityName, make_field
from rfo.flow.gated import VelocityGated
from rfo.flow.matching import conditional_flow_matching
from rfo.flow.noise_level import FixedLevel, LevelOfObservation, LevelOfToken, NoisyField
from rfo.flow.noisy import LatentNoise, MarginalPreserving, StepLaw, VelocityNoise
from rfo.policy.action_critics import ActionCritics, CrossCritics
from rfo.policy.encoders import Encoder
from rfo.policy.noisy_flow import NoisyFlowPolicy

__all__ = ["SACFlow", "SACFlowConfig", "SACFlowVariant"]


@dataclass(frozen=True)
class SACFlowConfig(SoftActorCriticConfig):
    """Figures of SAC Flow; defaults of the released code, from scratch.

    Attributes:
        mode: The paper's way or the released code's, see `SACFlowVariant`.
        velocity: Velocity network: "gated" is Flow-G, "decoded" Flow-T.
        flow_steps: Steps K of the flow.
        critics: "target", with slowly following copies, or "cross", with batch renormalisation and none, as in the
            released code. With critics of 256 units "cross" diverged on cheetah-run and stood still on
            cartpole-swingup where "target" learned, hence the default.
        sigma: Noise level in the paper's mode; the official mode learns it.
        actor_hidden: Widths of the velocity network; for "decoded" the token's size, once per layer; empty for the
            mode's own.
        level_hidden: Widths of the network of the learned noise level ("mlp" and "gated" in the official mode).
        warm_up: Updates before the critics' renormalisation applies (official mode).
    """

    learning_starts: int = 50_000
    entropy_baseline: Literal["none", "target"] = "target"
    mode: Literal["paper", "official"] = "official"
    velocity: VelocityName = "gated"
    flow_steps: int = 4
    critics: Literal["target", "cross"] = "target"
    sigma: float = 0.1
    actor_hidden: tuple[int, ...] = ()
    level_hidden: tuple[int, ...] = (512, 512)
    warm_up: int = 100_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("flow_steps",), lambda v: v >= 1, "must be at least 1")
        require(self, ("sigma",), lambda v: v > 0, "must be positive")
        require(self, ("warm_up",), lambda v: v >= 0, "must not be negative")


PAPER_HIDDEN = {"mlp": (256, 256), "gated": (128,), "decoded": (64, 64)}
OFFICIAL_HIDDEN = {"mlp": (512, 512), "gated": (512,), "decoded": (96, 96)}


def paper_field(config: SACFlowConfig, feature_dim: int, action_dim: int) -> tuple[NoisyField, StepLaw]:
    """Returns a fixed noise level and the drift that preserves the marginals."""
    hidden = config.actor_hidden or PAPER_HIDDEN[config.velocity]
    return FixedLevel(make_field(config.velocity, feature_dim, action_dim, hidden), config.sigma), MarginalPreserving()


def official_field(config: SACFlowConfig, feature_dim: int, action_dim: int) -> tuple[NoisyField, StepLaw]:
    """Returns a learned noise level, on the latent for "mlp" and "gated", on the velocity for "decoded"."""
    hidden = config.actor_hidden or OFFICIAL_HIDDEN[config.velocity]
    if config.velocity == "decoded":
        if len(set(hidden)) != 1:
            raise UsageError(f"a decoded velocity repeats one width once per layer; got {list(hidden)}")
        decoder = VelocityDecoded(feature_dim, action_dim, hidden[0], len(hidden), outputs=2)
        return LevelOfToken(decoder), VelocityNoise()
    if config.velocity == "gated":
        gated = VelocityGated(feature_dim, action_dim, hidden, candidate_bound=None)
        return LevelOfObservation(gated, feature_dim, config.level_hidden), LatentNoise()
    field = make_field(config.velocity, feature_dim, action_dim, hidden)
    return LevelOfObservation(field, feature_dim, config.level_hidden), LatentNoise()


def target_fit(config: SACFlowConfig, encoder: Encoder, action_dim: int) -> ActionValueFit:
    """Returns twin critics with target copies."""
    norm = config.critic_norm == "layer"
    critics = ActionCritics(encoder, action_dim, config.critic_hidden, layer_norm=norm)
    return TargetFit(critics, config.tau)


def cross_fit(config: SACFlowConfig, encoder: Encoder, action_dim: int) -> ActionValueFit:
    """Returns twin critics with batch renormalisation and no copies."""
    return CrossFit(CrossCritics(encoder, action_dim, config.critic_hidden, warm_up=config.warm_up))


def paper_entropy(config: SACFlowConfig, action_dim: int) -> float:
    """Returns the entropy of the path's noise, which the policy cannot change, less 1 per action entry.

    The paper is summarised as tuning alpha to 0, but with sigma fixed at 0.1 the path's entropy is below -4.8 per
    action entry whatever the policy does, and alpha would grow without bound. What is left to the policy is what the
    tanh takes away; -1 per entry is a choice made here.
    """
    steps = config.flow_steps
    log_std = math.log(config.sigma) - 0.5 * math.log(steps)
    noise = 0.5 * (steps + 1) * math.log(2.0 * math.pi * math.e) + steps * log_std
    return action_dim * (noise - 1.0)


def official_entropy(config: SACFlowConfig, action_dim: int) -> float:
    """Returns 0; it is the entropy of the whole path, so it means something else for every number of flow steps."""
    return 0.0


FITS: dict[str, Callable[[SACFlowConfig, Encoder, int], ActionValueFit]] = {"target": target_fit, "cross": cross_fit}


@dataclass(frozen=True)
class SACFlowVariant:
    """Where paper and released code differ.

    Attributes:
        field: Makes the velocity with its noise level, and the law of a flow step.
        entropy: Target of alpha.
    """

    field: Callable[[SACFlowConfig, int, int], tuple[NoisyField, StepLaw]]
    entropy: Callable[[SACFlowConfig, int], float]


VARIANTS = {
    "paper": SACFlowVariant(paper_field, paper_entropy),
    "official": SACFlowVariant(official_field, official_entropy),
}


class SACFlow(SoftActorCritic):
    """The learner."""

    config: SACFlowConfig
    policy: NoisyFlowPolicy

    def imitation_loss(self, observation: Observation, batch: Batch) -> Tensor:
        """Returns the flow-matching loss to the batch's latents, without the noise between flow steps."""
        velocity = self.policy.bind(observation)
        return conditional_flow_matching(velocity, batch.latent, generator=self._learning, counts=batch.executed)

    def _make_policy(self) -> NoisyFlowPolicy:
        config = self.config
        encoder = self.make_encoder()
        field, law = VARIANTS[config.mode].field(config, encoder.feature_dim, self.plan_dim)
        return NoisyFlowPolicy(encoder, field, law, steps=config.flow_steps)

    def _make_fit(self) -> ActionValueFit:
        return FITS[self.config.critics](self.config, self.make_encoder(), self.plan_dim)

    def own_target_entropy(self) -> float:
        """Returns the mode's."""
        return VARIANTS[self.config.mode].entropy(self.config, self.plan_dim)
