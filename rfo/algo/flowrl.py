"""FlowRL (arXiv 2506.12811): a flow policy that climbs Q under a guidance towards better past actions.

The policy maximises E[Q(s, a)] while a flow-matching loss on replayed actions, weighted by how much better the
behaviour's optimal value Q_beta is than the policy's own, keeps it near the best of what has been done. Q_beta and
V_beta are an expectile pair on the same replay (Eqs. 18-19 of the paper).

Paper and released code differ in the weight, in the space of the targets, in the noise that flows begin from and in how
slowly the target networks follow. Each way is one `FlowRLVariant`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rfo.algo.base import require
from rfo.algo.off_policy import OffPolicy, OffPolicyConfig, backward_and_step, blend
from rfo.core.task import Observation
from rfo.data.replay import Batch, Replay
from rfo.flow.fields import VelocityName, make_field
from rfo.flow.integrate import SOLVERS, SolverName
from rfo.flow.velocity import Velocity
from rfo.policy.action_critics import ActionCritics
from rfo.policy.critics import frozen
from rfo.policy.flow import FlowPolicy
from rfo.policy.normalize import Normalization

__all__ = ["FlowRL", "FlowRLConfig", "FlowRLVariant", "official_guidance", "paper_guidance"]


@dataclass(frozen=True)
class FlowRLConfig(OffPolicyConfig):
    """Every figure of FlowRL; sizes and rates are those of the released code where not said otherwise.

    Attributes:
        mode: The paper's way or the released code's, see `FlowRLVariant`.
        velocity: Velocity network.
        flow_steps: Steps of the flow.
        solver: One-step method of the flow; the midpoint rule calls the network twice per step.
        guidance: Lambda, the factor of the guidance's weight.
        weight_max: Largest weight of a sample in the paper's mode, which has no bound itself (a choice made here).
        expectile: Of the behaviour's value.
        tau: Weight of the online networks in the targets' update; None for the mode's own.
        interval: Updates of the critics per update of policy and targets.
        recent: Newest transitions from which `recent_share` of a batch is drawn.
        recent_share: Share of a batch drawn from the newest transitions.
        actor_hidden: Widths of the velocity network.
        critic_hidden: Widths of each value network.
        lr: Learning rate of every network.
    """

    mode: Literal["paper", "official"] = "official"
    velocity: VelocityName = "mlp"
    flow_steps: int = 1
    solver: SolverName = "midpoint"
    guidance: float = 0.1
    weight_max: float = 10.0
    expectile: float = 0.9
    tau: float | None = None
    interval: int = 2
    recent: int = 2048
    recent_share: float = 0.2
    actor_hidden: tuple[int, ...] = (512, 512)
    critic_hidden: tuple[int, ...] = (512, 512, 512, 512)
    lr: float = 3e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("flow_steps", "interval", "recent"), lambda v: v >= 1, "must be at least 1")
        require(self, ("expectile",), lambda v: 0 < v < 1, "must lie in (0, 1)")
        require(self, ("recent_share",), lambda v: 0 <= v <= 1, "must lie in [0, 1]")
        require(self, ("guidance",), lambda v: v >= 0, "must not be negative")
        require(self, ("lr", "weight_max"), lambda v: v > 0, "must be positive")


Guidance = Callable[[Tensor, Tensor, Tensor, FlowRLConfig], Tensor]
"""(flow-matching error [B], Q_beta [B], Q [B], config) → the guidance's part of the loss, a scalar."""


def paper_guidance(error: Tensor, behavior: Tensor, value: Tensor, config: FlowRLConfig) -> Tensor:
    """Weighs each sample's error by lambda 1[x > 0] exp(x - mean(x)), x = Q_beta - Q (Theorem 4.2, appendix B.1)."""
    lead = behavior - value
    weight = config.guidance * torch.exp(lead - lead.mean()) * (lead > 0)
    return (weight.clamp(max=config.weight_max) * error).mean()


def official_guidance(error: Tensor, behavior: Tensor, value: Tensor, config: FlowRLConfig) -> Tensor:
    """Weighs the batch's mean error by the mean of clamp(lambda exp(relu(x) - mean relu(x)), 0.001, 1).

    The released code reduces the error to one number before the product, so only the mean weight matters.
    """
    lead = functional.relu(behavior - value)
    weight = (config.guidance * torch.exp(lead - lead.mean())).clamp(1e-3, 1.0)
    return weight.mean() * error.mean()


@dataclass(frozen=True)
class FlowRLVariant:
    """Where paper and released code differ.

    Attributes:
        guidance: How the flow-matching errors are weighted.
        noise_bound: Largest magnitude of the noise that flows begin from.
        latent_targets: Whether the flow is drawn to latents (the space it lives in) or to executed actions, after the
            tanh, as in the released code, where the pull shrinks every action towards |a| <= tanh(1).
        tau: Weight of the online networks in the targets' update.
    """

    guidance: Guidance
    noise_bound: float
    latent_targets: bool
    tau: float


VARIANTS = {
    "paper": FlowRLVariant(paper_guidance, float("inf"), True, 0.005),
    "official": FlowRLVariant(official_guidance, 1.0, False, 0.95),
}
"""The paper's table has no tau; 0.005 is what SAC uses."""


class FlowRL(OffPolicy):
    """The learner: a flow policy, twin Q and Q_beta as four stacked networks, and V_beta."""

    config: FlowRLConfig
    policy: FlowPolicy

    def _build(self) -> None:
        config = self.config
        self.variant = VARIANTS[config.mode]
        self.tau = self.variant.tau if config.tau is None else config.tau
        encoder = self.make_encoder()
        field = make_field(config.velocity, encoder.feature_dim, self.plan_dim, config.actor_hidden)
        self.policy = FlowPolicy(encoder, field, steps=config.flow_steps, solver=SOLVERS[config.solver])
        # Copies 0 and 1 are Q, copies 2 and 3 are Q_beta: all four read (s, a), so one product serves them.
        self.critics = self._critics(self.plan_dim, copies=4)
        self.targets = copy.deepcopy(self.critics)
        self.value = self._critics(0, copies=1)
        for name in ("policy", "critics", "targets", "value"):
            self._register(name, getattr(self, name))
        self.policy_optimizer = self._optimize("policy", list(self.policy.parameters()), config.lr)
        self.critic_optimizer = self._optimize(
            "critics", [*self.critics.parameters(), *self.value.parameters()], config.lr
        )

    def learn(self, batch: Batch, normalization: Normalization) -> dict[str, Tensor]:
        """Updates the critics, and policy and targets every `interval` updates."""
        here, behavior, figures = self._fit_critics(batch, normalization)
        if self.updates % self.config.interval == 0:
            with self._autocast():
                actor_loss, guidance = self._actor_loss(batch, here, behavior)
            backward_and_step(actor_loss, self.policy_optimizer)
            blend(self.targets, self.critics, self.tau)
            figures |= {"actor_loss": actor_loss.detach(), "guidance_loss": guidance.detach()}
        return figures

    def imitate(self, batch: Batch, normalization: Normalization) -> dict[str, Tensor]:
        """Updates the critics for the policy as it is, the targets, and the policy by flow matching to the batch."""
        here, _, figures = self._fit_critics(batch, normalization)
        with self._autocast():
            loss = self._matching_error(self.policy.bind(here), batch).mean()
        backward_and_step(loss, self.policy_optimizer)
        blend(self.targets, self.critics, self.tau)
        return figures | {"imitation_loss": loss.detach()}

    def _fit_critics(self, batch: Batch, normalization: Normalization) -> tuple[Observation, Tensor, dict[str, Tensor]]:
        """Updates the critics; returns the normalised observation, Q_beta before that, and figures."""
        here, there = normalization(batch.observation), normalization(batch.next_observation)
        with self._autocast():
            loss, values = self._critic_loss(batch, here, there)
        behavior = values.detach()[2:].amin(dim=0)  # before the step, as in the released code
        backward_and_step(loss, self.critic_optimizer)
        return here, behavior, {"critic_loss": loss.detach(), "value_mean": values.detach()[:2].mean()}

    def _critic_loss(self, batch: Batch, here: Observation, there: Observation) -> tuple[Tensor, Tensor]:
        """Returns the loss of all critics and the values of the four stacked ones, shape [4, B]."""
        with torch.no_grad():
            following = self.policy.sample(there, self.policy_noise(len(batch.reward), self._learning))[1]
            then = self.targets.inputs(there, following)
            now = self.targets.inputs(here, batch.action)
            # Q' looks at (s', a') and Q_beta' at (s, a): two inputs each, one product.
            aimed = self.targets.evaluate(torch.stack([then, then, now, now])).to(batch.reward.dtype)
            next_value = self.value(there)[0]
            target = torch.stack([aimed[:2].amin(dim=0), next_value.to(batch.reward.dtype)])
            target = batch.reward + batch.discount * target
            behavior = aimed[2:].amin(dim=0)
        values = self.critics(here, batch.action).to(batch.reward.dtype)
        square = (values - target.repeat_interleave(2, dim=0)).square().mean(dim=1).sum()
        lead = behavior - self.value(here)[0]
        side = torch.where(lead >= 0, self.config.expectile, 1.0 - self.config.expectile)
        return square + (side * lead.square()).mean(), values

    def _actor_loss(self, batch: Batch, here: Observation, behavior: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(batch.reward)
        velocity = self.policy.bind(here)
        _, action = self.policy.carry(velocity, self.policy_noise(rows, self._learning))
        with frozen(self.critics):
            value = self.critics.first(2, here, action).amin(dim=0)
        error = self._matching_error(velocity, batch)
        guidance = self.variant.guidance(error, behavior, value.detach(), self.config)
        return guidance - value.mean(), guidance

    def _matching_error(self, velocity: Velocity, batch: Batch) -> Tensor:
        """Returns the flow-matching error of every row, shape [B]."""
        rows = len(batch.reward)
        target = batch.latent if self.variant.latent_targets else batch.action
        noise = self.policy_noise(rows, self._learning)
        u = torch.rand((rows, 1), generator=self._learning, dtype=self.dtype, device=self.device)
        error = velocity(torch.lerp(noise, target, u), u) - (target - noise)
        return batch.mean_of(error.square())

    def policy_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Returns noise within the variant's bound, shape [rows, A]."""
        bound = self.variant.noise_bound
        noise = self.draw_noise((rows,), generator)
        return noise if bound == float("inf") else noise.clamp(-bound, bound)

    def _draw(self, replay: Replay, rows: int) -> Batch:
        config = self.config
        return replay.sample(
            rows,
            gamma=self.decision_gamma,
            generator=self._drawing,
            n_step=config.n_step,
            chunk=config.chunk,
            recent=config.recent,
            recent_share=config.recent_share if replay is self.replay else 0.0,
        )

    def _figure_counts(self, learned: int) -> dict[str, int]:
        due = self._due_every(self.config.interval, learned)
        return {"actor_loss": due, "guidance_loss": due}

    def _critics(self, action_dim: int, copies: int) -> ActionCritics:
        encoder = self.make_encoder()
        return ActionCritics(encoder, action_dim, self.config.critic_hidden, copies=copies, activation="gelu")
