"""The Gaussian policy of SAC: a diagonal normal passed through a tanh."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rfo.core.task import Observation
from rfo.flow.noise_level import bounded_log
from rfo.policy.encoders import Encoder
from rfo.policy.gaussian import gaussian_log_prob
from rfo.policy.latent import squash_correction

__all__ = ["SquashedGaussianPolicy"]

LOG_TWO_PI = math.log(2.0 * math.pi)


class SquashedGaussianPolicy(nn.Module):
    """a = tanh(mean(s) + std(s) eps), log std bounded to [-5, 2] by a tanh (SAC, arXiv 1812.05905).

    Args:
        encoder: Observation to features.
        action_dim: Size A of the action.
        hidden: Widths of the hidden layers, ReLU.
    """

    steps = 0

    def __init__(self, encoder: Encoder, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.encoder, self.action_dim = encoder, action_dim
        layers: list[nn.Module] = []
        width = encoder.feature_dim
        for following in hidden:
            layers += [nn.Linear(width, following), nn.ReLU()]
            width = following
        self.network = nn.Sequential(*layers, nn.Linear(width, 2 * action_dim))

    def sample(self, observation: Observation, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws actions.

        Args:
            observation: Normalised, first dimension B.
            noise: Standard normal, shape [1, B, A].

        Returns:
            Latent and action, each of shape [B, A], and the action's log-probability, shape [B].
        """
        mean, raw = self.network(self.encoder(observation)).chunk(2, dim=-1)
        log_std = bounded_log(raw)
        latent = torch.addcmul(mean, log_std.exp(), noise[0])
        density = gaussian_log_prob(noise[0], log_std)
        return latent, torch.tanh(latent), density - squash_correction(latent)

    def entry_log_prob(self, observation: Observation, latent: Tensor) -> Tensor:
        """Returns the log-density of every entry of given latents, shape [B, A]."""
        mean, raw = self.network(self.encoder(observation)).chunk(2, dim=-1)
        log_std = bounded_log(raw)
        scaled = (latent - mean) * torch.exp(-log_std)
        density: Tensor = -0.5 * scaled.square() - log_std - 0.5 * LOG_TWO_PI
        return density

    def deterministic(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns latent and action of the mean."""
        batch = next(iter(observation.values()))
        latent, action, _ = self.sample(observation, batch.new_zeros(1, batch.shape[0], self.action_dim))
        return latent, action
