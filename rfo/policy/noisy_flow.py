"""A stochastic flow policy: noise between the flow steps gives the path of an action a density."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rfo.core.task import Observation
from rfo.flow.noise_level import NoisyField
from rfo.flow.noisy import StepLaw, roll_out
from rfo.flow.velocity import Velocity
from rfo.policy.encoders import Encoder
from rfo.policy.latent import squash_correction

__all__ = ["NoisyFlowPolicy"]


class NoisyFlowPolicy(nn.Module):
    """a = tanh(x_K) with x_0, ..., x_K drawn by `rfo.flow.noisy` (SAC Flow, arXiv 2509.25756).

    Args:
        encoder: Observation to features.
        field: Velocity and noise level on the features.
        law: Law of one flow step.
        steps: Number K of flow steps.
    """

    def __init__(self, encoder: Encoder, field: NoisyField, law: StepLaw, *, steps: int) -> None:
        super().__init__()
        self.encoder, self.field, self.law, self.steps = encoder, field, law, steps

    @property
    def action_dim(self) -> int:
        """Size A of the action."""
        return self.field.action_dim

    def bind(self, observation: Observation) -> Velocity:
        """Returns the velocity of normalised observations, without its noise, as flow matching reads it."""
        noisy = self.field.bind(self.encoder(observation))
        return lambda x, u: noisy(x, u)[0]

    def sample(self, observation: Observation, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws actions.

        Args:
            observation: Normalised, first dimension B.
            noise: x_0 and the noise of every step, standard normal, shape [K + 1, B, A].

        Returns:
            The latent x_K and the action tanh(x_K), each of shape [B, A], and the log-probability of the path that ends
            in the action, shape [B].
        """
        path = roll_out(self.law, self.field.bind(self.encoder(observation)), noise[0], noise[1:])
        return path.latent, torch.tanh(path.latent), path.log_prob - squash_correction(path.latent)

    def deterministic(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns latent and action of the noises' mean, zero."""
        batch = next(iter(observation.values()))
        latent, action, _ = self.sample(observation, batch.new_zeros(self.steps + 1, batch.shape[0], self.action_dim))
        return latent, action
