"""Velocity fields with a noise level: fixed, of the observation, or of the decoder's token."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rfo.flow.decoded import VelocityDecoded
from rfo.flow.noisy import NoisyVelocity
from rfo.flow.velocity import VelocityField

__all__ = ["FixedLevel", "LevelOfObservation", "LevelOfToken", "NoisyField", "bounded_log"]

LOG_LEAST, LOG_LARGEST = -5.0, 2.0
"""Bounds of a learned log noise level (released code of SAC Flow)."""


def bounded_log(raw: Tensor) -> Tensor:
    """Returns a log noise level in [-5, 2] by a tanh."""
    middle, half = 0.5 * (LOG_LARGEST + LOG_LEAST), 0.5 * (LOG_LARGEST - LOG_LEAST)
    return middle + half * torch.tanh(raw)


class NoisyField(nn.Module, ABC):
    """A velocity field that also says how much noise a step gets.

    Attributes:
        action_dim: Size A of the latent action.
    """

    action_dim: int

    @abstractmethod
    def bind(self, features: Tensor) -> NoisyVelocity:
        """Returns velocity and log noise level of given observations.

        Args:
            features: Shape [B, feature_dim].
        """


class FixedLevel(NoisyField):
    """One noise level for every step and entry (SAC Flow, the paper: 0.1).

    Args:
        field: The velocity.
        sigma: The noise level.
    """

    log_sigma: Tensor

    def __init__(self, field: VelocityField, sigma: float) -> None:
        super().__init__()
        self.field, self.action_dim = field, field.action_dim
        self.register_buffer("log_sigma", torch.tensor(math.log(sigma)), persistent=False)

    def bind(self, features: Tensor) -> NoisyVelocity:
        """Binds the velocity."""
        velocity, log_sigma = self.field.bind(features), self.log_sigma
        return lambda x, u: (velocity(x, u), log_sigma)


class LevelOfObservation(NoisyField):
    """A noise level per action entry from a network on the observation (released code of SAC Flow, Flow-G and plain).

    Args:
        field: The velocity.
        feature_dim: Size of the observation's features.
        hidden: Widths of the network's hidden layers, ReLU; 512-512 in the released code.
    """

    def __init__(self, field: VelocityField, feature_dim: int, hidden: Sequence[int] = (512, 512)) -> None:
        super().__init__()
        self.field, self.action_dim = field, field.action_dim
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(feature_dim, width), nn.ReLU()]
            feature_dim = width
        self.level = nn.Sequential(*layers, nn.Linear(feature_dim, self.action_dim))

    def bind(self, features: Tensor) -> NoisyVelocity:
        """Binds the velocity and computes the noise level, once for all flow steps."""
        velocity, log_sigma = self.field.bind(features), bounded_log(self.level(features))
        return lambda x, u: (velocity(x, u), log_sigma)


class LevelOfToken(NoisyField):
    """A noise level per action entry and flow step from the decoder's token (released code of SAC Flow, Flow-T).

    Args:
        field: A decoder with two outputs per action entry.
    """

    def __init__(self, field: VelocityDecoded) -> None:
        super().__init__()
        if field.output.out_features != 2 * field.action_dim:
            raise ValueError("the decoder needs outputs=2: velocity and noise level")
        self.field, self.action_dim = field, field.action_dim

    def bind(self, features: Tensor) -> NoisyVelocity:
        """Binds the decoder."""
        both = self.field.bind(features)

        def velocity(x: Tensor, u: float | Tensor) -> tuple[Tensor, Tensor]:
            drawn, raw = both(x, u).chunk(2, dim=-1)
            return drawn, bounded_log(raw)

        return velocity
