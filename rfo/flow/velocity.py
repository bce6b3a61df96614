"""Velocity fields v(x, u | s): what carries noise (u = 0) to a latent action (u = 1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["VelocityField", "VelocityMLP"]


class VelocityField(nn.Module, ABC):
    """A conditional velocity field, split so that what does not depend on the flow step is computed once.

    Attributes:
        action_dim: Size A of the latent action.
    """

    action_dim: int

    @abstractmethod
    def prepare(self, features: Tensor) -> Tensor:
        """Computes the part of the field that depends on the observation alone.

        Args:
            features: Shape [B, feature_dim].

        Returns:
            Whatever `velocity` needs of the observation, first dimension B.
        """

    @abstractmethod
    def velocity(self, prepared: Tensor, x: Tensor, u: float | Tensor) -> Tensor:
        """Evaluates v(x, u | s).

        Args:
            prepared: What `prepare` returned.
            x: Point of the flow, shape [B, A].
            u: Flow time in [0, 1], a number or shape [B, 1].

        Returns:
            Shape [B, A].
        """


class VelocityMLP(VelocityField):
    """A plain network on [s, x, u]: linear layers, each but the last with LayerNorm and SiLU.

    The first layer W [s, x, u] + b is kept as W_s s + b, W_x x and w_u u, so that the widest product is paid once per
    observation and not once per flow step. The last layer starts near zero: the first policy is tanh of noise.

    Args:
        feature_dim: Size of the observation's features.
        action_dim: Size A of the latent action.
        hidden: Widths of the hidden layers.
        output_std: Standard deviation of the last layer's initial weights; its bias starts at zero.
    """

    def __init__(
        self, feature_dim: int, action_dim: int, hidden: Sequence[int] = (128, 128), *, output_std: float = 0.01
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden needs at least one width")
        self.action_dim = action_dim
        self.from_features = nn.Linear(feature_dim, hidden[0])
        self.from_latent = nn.Linear(action_dim, hidden[0], bias=False)
        self.from_time = nn.Parameter(torch.empty(hidden[0]))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for width in hidden])
        widths = [*hidden, action_dim]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(widths)])
        self._initialize(feature_dim + action_dim + 1, output_std)

    def _initialize(self, fan_in: int, output_std: float) -> None:
        # The three parts of the first layer start as one layer of their joint width would.
        bound = 1.0 / math.sqrt(fan_in)
        for tensor in (self.from_features.weight, self.from_features.bias, self.from_latent.weight, self.from_time):
            nn.init.uniform_(tensor, -bound, bound)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=output_std)
        nn.init.zeros_(last.bias)

    def prepare(self, features: Tensor) -> Tensor:
        """Returns W_s s + b, shape [B, hidden[0]]."""
        return functional.linear(features, self.from_features.weight, self.from_features.bias)

    def velocity(self, prepared: Tensor, x: Tensor, u: float | Tensor) -> Tensor:
        """Evaluates v(x, u | s), shape [B, A]."""
        if isinstance(u, Tensor):
            hidden = torch.addcmul(prepared, u, self.from_time)
        else:
            hidden = torch.add(prepared, self.from_time, alpha=u)
        hidden = torch.addmm(hidden, x, self.from_latent.weight.t())
        for norm, layer in zip(self.norms, self.layers, strict=True):
            hidden = layer(functional.silu(norm(hidden)))
        return hidden
