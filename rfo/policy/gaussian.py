"""Squashed Gaussian policies, with a log standard deviation of their own or one predicted from the observation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rfo.core.task import Observation
from rfo.policy.encoders import Encoder, mlp
from rfo.policy.latent import LatentPolicy, squash_correction

__all__ = ["FreeSpread", "GaussianPolicy", "PredictedSpread", "Spread", "gaussian_log_prob", "make_free_gaussian"]


class Spread(nn.Module, ABC):
    """The log standard deviation of a Gaussian policy."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Returns log standard deviations that broadcast to [B, A].

        Args:
            features: Of the policy's last hidden layer, shape [B, width].
        """


class FreeSpread(Spread):
    """One learnt log standard deviation per action entry, the same in every state (SHAC, arXiv 2204.07137).

    Args:
        action_dim: Size A of the action.
        start: Log standard deviation at the start.
    """

    def __init__(self, action_dim: int, *, start: float = -1.0) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((action_dim,), start))

    def forward(self, features: Tensor) -> Tensor:
        """Returns the parameter, shape [A]."""
        return self.log_std


class PredictedSpread(Spread):
    """A log standard deviation per state, clamped (SAPO, arXiv 2412.12089).

    Args:
        width: Size of the last hidden layer.
        action_dim: Size A of the action.
        start: Log standard deviation at the start, in every state.
        low: Smallest log standard deviation; the gradient below is zero.
        high: Largest log standard deviation; the gradient above is zero.
    """

    def __init__(
        self, width: int, action_dim: int, *, start: float = -1.0, low: float = -5.0, high: float = 2.0
    ) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.head = nn.Linear(width, action_dim)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, start)

    def forward(self, features: Tensor) -> Tensor:
        """Returns log standard deviations, shape [B, A]."""
        return torch.clamp(self.head(features), self.low, self.high)


class GaussianPolicy(LatentPolicy):
    """a = tanh(mu(s) + sigma noise); layers with LayerNorm and SiLU, and a mean that starts near zero.

    Args:
        encoder: Observation to features.
        action_dim: Size A of the action.
        hidden: Widths of the hidden layers.
        spread: Gives log sigma.
    """

    def __init__(self, encoder: Encoder, action_dim: int, hidden: Sequence[int], spread: Spread) -> None:
        super().__init__()
        self.encoder, self.spread = encoder, spread
        self.trunk = mlp(encoder.feature_dim, hidden)
        self.mean = nn.Linear(hidden[-1], action_dim)
        nn.init.normal_(self.mean.weight, std=0.01)
        nn.init.zeros_(self.mean.bias)

    @property
    def action_dim(self) -> int:
        """Size A of the action."""
        return self.mean.out_features

    def moments(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns mean [B, A] and log standard deviation (broadcastable to it) of the latent."""
        features = self.trunk(self.encoder(observation))
        return self.mean(features), self.spread(features)

    def sample(self, observation: Observation, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions; see `LatentPolicy.sample`."""
        mean, log_std = self.moments(observation)
        latent = torch.addcmul(mean, log_std.exp(), noise)
        return latent, torch.tanh(latent)

    def sample_with_entropy(
        self, observation: Observation, noise: Tensor, fresh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws actions, and from a second draw the estimate -log pi of the entropy, as SAPO's code does.

        Args:
            observation: Normalised, first dimension B.
            noise: Of the action, shape [B, A].
            fresh: Of the estimate, shape [B, A].

        Returns:
            Latent and action, each of shape [B, A], and the estimate, shape [B].
        """
        mean, log_std = self.moments(observation)
        std = log_std.exp()
        latent = torch.addcmul(mean, std, noise)
        other = torch.addcmul(mean, std, fresh)
        log_prob = gaussian_log_prob(fresh, log_std) - squash_correction(other)
        return latent, torch.tanh(latent), -log_prob


def gaussian_log_prob(noise: Tensor, log_std: Tensor) -> Tensor:
    """Returns log N(mu + sigma noise; mu, sigma^2), summed over the action entries, shape [B].

    Args:
        noise: Standardised distance from the mean, shape [B, A].
        log_std: Log sigma, broadcastable to [B, A].
    """
    return (-0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)


def make_free_gaussian(encoder: Encoder, action_dim: int, hidden: Sequence[int], log_std: float) -> GaussianPolicy:
    """Returns a Gaussian policy whose spread is one parameter per action entry.

    Args:
        encoder: Observation to features.
        action_dim: Size A of the action.
        hidden: Widths of the hidden layers.
        log_std: Log standard deviation at the start.
    """
    return GaussianPolicy(encoder, action_dim, hidden, FreeSpread(action_dim, start=log_std))
