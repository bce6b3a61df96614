"""Flow-G: a velocity that is the update of a gated recurrent cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from rfo.flow.time_code import TimeCode
from rfo.flow.velocity import Velocity, VelocityField

__all__ = ["VelocityGated"]


class VelocityGated(VelocityField):
    """v = g (c - x) with gate g = sigmoid(z(s, x, u)) and candidate c(s, x, u) (SAC Flow, arXiv 2509.25756, Flow-G).

    A flow step x + dt v is then a convex combination of x and the candidate wherever dt g <= 1, which keeps the
    product of the steps' Jacobians from growing. Gate and candidate are two networks of the same size, evaluated as
    one batched product; what the observation adds to their first layer is computed once.

    The gate's last layer starts at weight 0 and bias 5, so g is 0.993 everywhere at first. The candidate's last layer
    starts near zero.

    Args:
        feature_dim: Size of the observation's features.
        action_dim: Size A of the latent action.
        hidden: Widths of the hidden layers (swish) of either network; 128 in the paper, 512 in the released code.
        candidate_bound: c = bound tanh(head / bound), with 50 the bound in the paper's table of the architecture;
            None for c = head, as in the released code. Without the division every step of an optimizer would be
            50 times as large.
        gate_bias: Initial bias of the gate.
        output_std: Standard deviation of the candidate's last weights at the start.
        time_dim: Size of the code of the flow time.
    """

    def __init__(
        self,
        feature_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (128,),
        *,
        candidate_bound: float | None = 50.0,
        gate_bias: float = 5.0,
        output_std: float = 0.01,
        time_dim: int = 32,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden needs at least one width")
        self.action_dim, self.candidate_bound = action_dim, candidate_bound
        first = 2 * hidden[0]
        self.time_code = TimeCode(time_dim)
        self.from_features = nn.Linear(feature_dim, first)
        self.from_latent = nn.Linear(action_dim, first, bias=False)
        self.from_time = nn.Linear(time_dim, first, bias=False)
        widths = list(pairwise([*hidden, action_dim]))
        self.weights = nn.ParameterList([torch.empty(2, a, b) for a, b in widths])
        self.biases = nn.ParameterList([torch.empty(2, 1, b) for _, b in widths])
        self._initialize(feature_dim + action_dim + time_dim, gate_bias, output_std)

    def _initialize(self, fan_in: int, gate_bias: float, output_std: float) -> None:
        bound = 1.0 / math.sqrt(fan_in)
        for layer in (self.from_features, self.from_time):
            nn.init.uniform_(layer.weight, -bound, bound)
        # The latent has a fan-in of its own: as one of many entries it is drowned by the code of the time, and flow
        # matching to two modes then ends between them.
        own = 1.0 / math.sqrt(self.action_dim)
        nn.init.uniform_(self.from_latent.weight, -own, own)
        nn.init.uniform_(self.from_features.bias, -bound, bound)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = 1.0 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)
        with torch.no_grad():
            self.weights[-1][0].zero_()
            self.weights[-1][1].normal_(std=output_std)
            self.biases[-1][0].fill_(gate_bias)
            self.biases[-1][1].zero_()

    def bind(self, features: Tensor) -> Velocity:
        """Computes what the observation adds to the first layer, once for all flow steps."""
        prepared = functional.linear(features, self.from_features.weight, self.from_features.bias)
        from_latent, from_time = self.from_latent.weight.t(), self.from_time.weight.t()
        layers = list(zip(self.weights, self.biases, strict=True))
        bound, code = self.candidate_bound, self.time_code

        def velocity(x: Tensor, u: float | Tensor) -> Tensor:
            hidden = torch.addmm(prepared + code(u) @ from_time, x, from_latent)
            stacked = hidden.view(x.shape[0], 2, -1).transpose(0, 1)
            for weight, bias in layers:
                stacked = torch.baddbmm(bias, functional.silu(stacked), weight)
            gate, candidate = stacked.unbind(0)
            if bound is not None:
                candidate = bound * torch.tanh(candidate / bound)
            return torch.sigmoid(gate) * (candidate - x)

        return velocity
