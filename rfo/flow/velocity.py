"""Velocity fields v(x, u | s): what carries noise (u = 0) to a latent action (u = 1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Velocity", "VelocityField", "VelocityMLP"]


Velocity = Callable[[Tensor, float | Tensor], Tensor]
"""v(x, u) of given observations: x of shape [B, A], u in [0, 1] a number or of shape [B, 1]; returns [B, A]."""


class VelocityField(nn.Module, ABC):
    """A conditional velocity field; what does not depend on the flow step is computed once, in `bind`.

    Attributes:
        action_dim: Size A of the latent action.
    """

    action_dim: int

    @abstractmethod
    def bind(self, features: Tensor) -> Velocity:
        """Returns the velocity of given observations.

        Args:
            features: Shape [B, feature_dim].
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

    def bind(self, features: Tensor) -> Velocity:
        """Computes W_s s + b and looks up the other parameters, once for all flow steps."""
        prepared = functional.linear(features, self.from_features.weight, self.from_features.bias)
        from_latent, from_time = self.from_latent.weight.t(), self.from_time
        # Transposed here, so that a gradient reaches each parameter once per observation and not once per flow step.
        norms, layers = cast(list[nn.LayerNorm], self.norms), cast(list[nn.Linear], self.layers)
        blocks = [
            (norm.normalized_shape, norm.weight, norm.bias, norm.eps, layer.weight.t(), layer.bias)
            for norm, layer in zip(norms, layers, strict=True)
        ]

        def velocity(x: Tensor, u: float | Tensor) -> Tensor:
            if isinstance(u, Tensor):
                hidden = torch.addcmul(prepared, u, from_time)
            else:
                hidden = torch.add(prepared, from_time, alpha=u)
            hidden = torch.addmm(hidden, x, from_latent)
            for shape, scale, shift, eps, weight, bias in blocks:
                hidden = functional.silu(torch.layer_norm(hidden, shape, scale, shift, eps))
                hidden = torch.addmm(bias, hidden, weight)
            return hidden

        return velocity
