"""A policy that draws an action by carrying noise along a velocity field."""

from __future__ import annotations

import torch
from torch import Tensor

from rfo.core.task import Observation
from rfo.flow.integrate import Solver, integrate
from rfo.flow.velocity import Velocity, VelocityField
from rfo.policy.encoders import Encoder
from rfo.policy.latent import LatentPolicy

__all__ = ["FlowPolicy"]


class FlowPolicy(LatentPolicy):
    """a = tanh(x_K), with x_0 = source_std * noise and x_K the solution of dx/du = v(x, u | s) at u = 1.

    Differentiable in the observation, the noise and the parameters (RFO, arXiv 2602.03501); nothing here needs a
    density.

    Args:
        encoder: Observation to features.
        field: Velocity field on the features.
        steps: Number K of flow steps.
        solver: One-step method of the flow.
        source_std: Standard deviation of x_0, what the flow carries.
    """

    def __init__(
        self, encoder: Encoder, field: VelocityField, *, steps: int, solver: Solver, source_std: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder, self.field = encoder, field
        self.steps, self.solver, self.source_std = steps, solver, source_std

    @property
    def action_dim(self) -> int:
        """Size A of the latent: of one action, or of a chunk of them."""
        return self.field.action_dim

    def bind(self, observation: Observation) -> Velocity:
        """Returns the velocity of normalised observations, first dimension B."""
        return self.field.bind(self.encoder(observation))

    def sample(self, observation: Observation, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the latent x_K that x_0 = source_std * noise is carried to, and the action tanh(x_K)."""
        return self.carry(self.bind(observation), noise)

    def carry(self, velocity: Velocity, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latent and action for a velocity that is bound already, so that a loss can use it again."""
        latent = integrate(velocity, self.source_std * noise, steps=self.steps, solver=self.solver)
        return latent, torch.tanh(latent)
