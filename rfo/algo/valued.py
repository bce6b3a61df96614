"""Learners with twin critics, fitted to the TD(lambda) targets of each window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from rfo.algo.base import has_widths, require
from rfo.algo.learner import Learner, LearnerConfig
from rfo.algo.value_fit import ValueFit
from rfo.policy.critic_gradient import join_parameters
from rfo.policy.critics import TwinCritic

__all__ = ["ValuedConfig", "ValuedLearner"]


@dataclass(frozen=True)
class ValuedConfig(LearnerConfig):
    """What the critics add; tags as in `LearnerConfig`.

    Attributes:
        lam: Lambda of the TD(lambda) targets [C].
        critic_hidden: Widths of each value network [E].
        critic_lr: Learning rate of the critics at the start [E].
        critic_epochs: Passes over the window [E]; SHAC and SAPO use 16 [C].
        critic_minibatches: Minibatches of a pass [C].
        critic_encoder_epochs: Passes in which the critic's encoder learns too; later ones fit the value networks to its
            features as they are, which for point clouds saves most of the time [I]. None for all passes [C].
        target_mix: Share of the old weights in an averaged critic that is bootstrapped from; SHAC's code has 0.2 to
            0.995 by task [C], SAPO no such critic, which is 0 [P][C], and of RFO it is not known [I].
        value_memory: Values are centered on what the mean reward would be worth for ever (arXiv 2405.09999) and scaled
            by their targets' deviation; this is the share of the old mean and deviation that stays at each window [E].
            null leaves the networks to learn values as they are [C].
    """

    lam: float = 0.95
    critic_hidden: tuple[int, ...] = (128, 128)
    critic_lr: float = 2e-3
    critic_epochs: int = 8
    critic_minibatches: int = 4
    critic_encoder_epochs: int | None = None
    target_mix: float = 0.0
    value_memory: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("critic_epochs", "critic_minibatches"), lambda value: value >= 1, "must be at least 1")
        require(self, ("critic_encoder_epochs",), lambda value: value is None or value >= 1, "must be at least 1")
        require(self, ("critic_lr",), lambda value: value > 0, "must be positive")
        require(self, ("lam",), lambda value: 0 <= value <= 1, "must lie in [0, 1]")
        require(self, ("target_mix",), lambda value: 0 <= value < 1, "must lie in [0, 1)")
        memory, rule = ("value_memory",), "must lie in [0, 1), or be null"
        require(self, memory, lambda value: value is None or 0 <= value < 1, rule)
        require(self, ("critic_hidden",), has_widths, "needs widths of at least 1")


ValuedT = TypeVar("ValuedT", bound=ValuedConfig)


class ValuedLearner(Learner[ValuedT]):
    """A learner with twin critics; the arguments are those of `Learner`."""

    critic: TwinCritic

    def set_up(self) -> None:
        """Makes the critics' optimizer and fit."""
        super().set_up()
        config = self.config
        self.critic.to(self.device, self.dtype)
        encoder = list(self.critic.encoder.parameters())
        heads = [parameter for parameter in self.critic.parameters() if not any(parameter is p for p in encoder)]
        parts = [join_parameters(part) for part in (heads, encoder) if part]
        self.value_fit = ValueFit(
            self.critic,
            [self.make_optimizer([part], config.critic_lr) for part in parts],
            gamma=config.gamma,
            lam=config.lam,
            epochs=config.critic_epochs,
            minibatches=config.critic_minibatches,
            grad_clip=config.grad_clip,
            generator=self.fit_order,
            encoder_epochs=config.critic_encoder_epochs,
            target_mix=config.target_mix,
            value_memory=config.value_memory,
        )
        self.schedules += [(optimizer, config.critic_lr) for optimizer in self.value_fit.optimizers]

    def make_critic(self) -> TwinCritic:
        """Returns twin critics with an encoder of their own."""
        return TwinCritic(self.make_encoder(), self.config.critic_hidden)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit; tensors are the live ones, as in torch's modules."""
        return super().state_dict() | {"value_fit": self.value_fit.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        super().load_state_dict(state_dict)
        self.value_fit.load_state_dict(state_dict["value_fit"])
