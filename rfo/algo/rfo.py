"""RFO: Reparameterization Flow Policy Optimization (arXiv 2602.03501).

One update collects a window of H control steps, climbs its discounted return by one backward pass through the flow's
steps, the simulator's steps and the value at the end, adds two flow-matching regularisers, and fits twin critics to
TD(lambda) targets. With action chunks, one flow yields h actions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rfo.algo.base import require
from rfo.algo.short_horizon import ShortHorizonConfig, ShortHorizonLearner
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation
from rfo.data.chunks import ChunkController, ChunkSampler, plan_starts
from rfo.data.horizon import Window, select_rows
from rfo.flow.fields import VelocityName, make_field
from rfo.flow.integrate import SOLVERS, SolverName
from rfo.flow.matching import Reduction, conditional_flow_matching
from rfo.policy.flow import FlowPolicy
from rfo.policy.normalize import Normalization

__all__ = ["RFO", "RFOConfig"]


@dataclass(frozen=True)
class RFOConfig(ShortHorizonConfig):
    """Every figure of RFO; tags as in `LearnerConfig`.

    Attributes:
        velocity: Velocity field: a plain network [S], Flow-G or Flow-T [I].
        flow_steps: Steps K of the flow [T].
        solver: One-step method of the flow [S].
        source_std: Standard deviation of the noise that the flow carries [E]; 1 in the paper [S].
        c_past: Weight of the pull towards the latents of recent windows [T].
        c_uni: Weight of the pull towards actions drawn uniformly [T].
        regularizer_anneal: Both weights are multiplied by max(0, 1 - anneal * progress) [E]; 0 keeps them constant [T].
        past_windows: Windows in the pull towards the past, the present one included [T].
        cfm_reduction: Squared flow-matching error as the mean over action entries [E] or their sum [T].
        cfm_rows: Rows drawn of each window for the regularisers, where there are more [I]: an unbiased estimate that
            costs less where the encoder is large. None for all of them [T].
        uniform_bound: Largest magnitude of a uniform action before its atanh [I].
        output_std: Standard deviation of the velocity's last layer at the start [I].
        chunk: Actions h that one flow yields [I]; 1 is the policy without chunks.
        execute: Actions m executed of each chunk [I]; None for all of them.
        chunk_values: The critics are fitted at "every" step or at the steps where a "chunk" begins [I].
    """

    velocity: VelocityName = "mlp"
    flow_steps: int = 4
    solver: SolverName = "euler"
    source_std: float = 1.0
    c_past: float = 0.2
    c_uni: float = 0.2
    regularizer_anneal: float = 1.25
    past_windows: int = 2
    cfm_reduction: Reduction = "mean"
    cfm_rows: int | None = None
    uniform_bound: float = 0.999
    output_std: float = 0.01
    chunk: int = 1
    execute: int | None = None
    chunk_values: Literal["every", "chunk"] = "every"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("flow_steps", "past_windows", "chunk"), lambda value: value >= 1, "must be at least 1")
        weights = ("c_past", "c_uni", "regularizer_anneal", "output_std")
        require(self, weights, lambda value: value >= 0, "must not be negative")
        require(
            self, ("source_std",), lambda value: value > 0, "must be positive: without noise there is nothing to carry"
        )
        require(self, ("uniform_bound",), lambda value: 0 < value < 1, "must lie in (0, 1), for atanh(1) is infinite")
        require(self, ("cfm_rows",), lambda value: value is None or value >= 1, "must be at least 1")
        require(self, ("solver",), lambda value: value in SOLVERS, f"must be one of {', '.join(SOLVERS)}")
        require(self, ("cfm_reduction",), lambda value: value in ("mean", "sum"), "must be mean or sum")
        require(self, ("execute",), lambda m: m is None or 1 <= m <= self.chunk, f"must lie in 1..{self.chunk}, chunk")
        if self.horizon % self.executed:
            raise UsageError(
                f"algo.horizon is {self.horizon}; it must be a multiple of the {self.executed} actions that each "
                "chunk executes"
            )

    @property
    def executed(self) -> int:
        """Actions m executed of each chunk."""
        return self.chunk if self.execute is None else self.execute


class RFO(ShortHorizonLearner[RFOConfig]):
    """A flow policy, twin critics, and one `update` per window; the arguments are those of `ShortHorizonLearner`."""

    policy: FlowPolicy

    def build_networks(self) -> None:
        """Builds the flow policy over chunks of actions, then the critics."""
        config = self.config
        encoder = self.make_encoder()
        size = config.chunk * self.spec.action_dim
        field = make_field(
            config.velocity, encoder.feature_dim, size, config.actor_hidden, output_std=config.output_std
        )
        self.policy = FlowPolicy(
            encoder, field, steps=config.flow_steps, solver=SOLVERS[config.solver], source_std=config.source_std
        )
        self.critic = self.make_critic()
        self._past: deque[tuple[Observation, Tensor]] = deque(maxlen=config.past_windows)

    def collect(self, env: VectorEnv, normalization: Normalization) -> Window:
        """Runs the policy for one window with the graph kept, and remembers its plans as past data."""
        config, prepare = self.config, self.make_view(normalization)
        sampler = ChunkSampler(
            lambda observation, noise: self.policy.sample(prepare(observation), noise)[0],
            self.draw_noise((config.horizon, env.n), self.rollout_noise),
            length=config.chunk,
            execute=config.executed,
        )
        window = self.run_window(env, sampler)
        keys = window.observation
        observation = {key: torch.cat([plan[key] for plan, _ in sampler.planned]) for key in keys}
        self._past.append((observation, torch.cat([latent for _, latent in sampler.planned])))
        return window

    def actor_losses(self, window: Window, normalization: Normalization, progress: float) -> dict[str, Tensor]:
        """Returns the actor's loss and its parts.

        Args:
            window: What `collect` returned.
            normalization: The statistics it was collected with.
            progress: Share of the training done.

        Returns:
            `actor`, minus the discounted return; `past` and `uniform`, unweighted, where they have weight; `total`.
        """
        config = self.config
        total = self.pathwise_loss(window, normalization)
        losses = {"actor": total}
        scale = max(0.0, 1.0 - config.regularizer_anneal * progress)
        weights = {"past": scale * config.c_past, "uniform": scale * config.c_uni}
        if any(weights.values()):
            losses |= self._regularizers(normalization, past=weights["past"] > 0, uniform=weights["uniform"] > 0)
        for name in [name for name in weights if name in losses]:
            total = total + weights[name] * losses[name]
        return losses | {"total": total}

    def value_starts(self, window: Window) -> Tensor | None:
        """Returns where plans were made, if the critics are fitted there only."""
        if self.config.chunk_values == "every":
            return None
        return plan_starts(window.done, execute=self.config.executed)

    @torch.no_grad()
    def act(
        self, observation: Observation, *, deterministic: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns the first actions of new plans, shape [N, A]; see `Learner.act`."""
        latent = self.latent(observation, deterministic=deterministic, generator=generator)
        return torch.tanh(latent[:, : self.spec.action_dim])

    def controller(self, *, deterministic: bool, generator: torch.Generator | None) -> ChunkController:
        """Returns a policy that executes its plans as training does; see `act`."""
        return ChunkController(
            lambda observation: self.latent(observation, deterministic=deterministic, generator=generator),
            length=self.config.chunk,
            execute=self.config.executed,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit; tensors are the live ones, as in torch's modules."""
        return super().state_dict() | {"past": [(dict(observation), latent) for observation, latent in self._past]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        super().load_state_dict(state_dict)
        self._past.clear()
        for observation, latent in state_dict["past"]:
            moved = {key: value.to(self.device) for key, value in observation.items()}
            self._past.append((moved, latent.to(self.device)))

    def _regularizers(self, normalization: Normalization, *, past: bool, uniform: bool) -> dict[str, Tensor]:
        # The encoder runs once for both: with point clouds it is the larger part of the work. Observations are stored
        # raw and normalised anew, so that every window is read with the statistics of this one.
        stored = [self._draw_rows(*plans) for plans in (self._past if past else [self._past[-1]])]
        observation = {key: torch.cat([seen[key] for seen, _ in stored]) for key in stored[-1][0]}
        features = self.policy.encoder(normalization(observation))
        losses = {}
        if past:
            losses["past"] = self._match(features, torch.cat([latent for _, latent in stored]))
        if uniform:
            latent = stored[-1][1]
            losses["uniform"] = self._match(features[-len(latent) :], self._draw_uniform(latent))
        return losses

    def _draw_rows(self, observation: Observation, latent: Tensor) -> tuple[Observation, Tensor]:
        limit = self.config.cfm_rows
        if limit is None or len(latent) <= limit:
            return observation, latent
        rows = torch.randperm(len(latent), generator=self.loss_noise, device=self.device)[:limit]
        return select_rows(observation, rows), latent[rows]

    def _draw_uniform(self, latent: Tensor) -> Tensor:
        bound = self.config.uniform_bound
        action = torch.rand(latent.shape, generator=self.loss_noise, dtype=self.dtype, device=self.device) * 2.0 - 1.0
        return torch.atanh(action.clamp(-bound, bound))

    def _match(self, features: Tensor, target: Tensor) -> Tensor:
        return conditional_flow_matching(
            self.policy.field.bind(features),
            target,
            generator=self.loss_noise,
            reduction=self.config.cfm_reduction,
            source_std=self.config.source_std,
        )
