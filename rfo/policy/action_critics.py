"""Several action-value networks evaluated as one batched computation, with layer or batch renormalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rfo.core.task import Observation
from rfo.policy.critics import StackedLayerNorm, StackedLinear
from rfo.policy.encoders import Encoder

__all__ = ["ActionCritics", "ActivationName", "CrossCritics", "StackedBatchRenorm"]

ActivationName = Literal["relu", "silu", "gelu", "mish", "elu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "mish": functional.mish,
    "elu": functional.elu,
}


class ActionCritics(nn.Module):
    """M independently initialised networks Q(s, a) on one encoder.

    Args:
        encoder: Observation to features; trained by the critics' loss.
        action_dim: Number of action entries; 0 makes them value networks V(s).
        hidden: Widths of the hidden layers.
        copies: Number M of networks.
        activation: After every hidden layer.
        layer_norm: Normalise every hidden layer before its activation.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_dim: int,
        hidden: Sequence[int],
        *,
        copies: int = 2,
        activation: ActivationName = "relu",
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.copies = encoder, copies
        self.activation = ACTIVATIONS[activation]
        widths = [encoder.feature_dim + action_dim, *hidden]
        self.layers = nn.ModuleList([StackedLinear(copies, a, b) for a, b in pairwise(widths)])
        self.norms = nn.ModuleList([StackedLayerNorm(copies, w) if layer_norm else nn.Identity() for w in hidden])
        self.output = StackedLinear(copies, widths[-1], 1)

    def forward(self, observation: Observation, action: Tensor | None = None) -> Tensor:
        """Returns the values of normalised observations [B, ...] and actions [B, A], shape [M, B]."""
        inputs = self.inputs(observation, action)
        return self.evaluate(inputs.expand(self.copies, *inputs.shape))

    def inputs(self, observation: Observation, action: Tensor | None = None) -> Tensor:
        """Returns what the networks read, shape [B, F + A]."""
        features: Tensor = self.encoder(observation)
        return features if action is None else torch.cat([features, action], dim=-1)

    def evaluate(self, inputs: Tensor) -> Tensor:
        """Returns the values of inputs [m, B, F + A], each of the first m networks reading its own, shape [m, B]."""
        x, copies = inputs, len(inputs)

        def of(parameter: Tensor) -> Tensor:
            # The gradient of a slice is written into zeros of the whole: to be had only where it is needed.
            return parameter if copies == self.copies else parameter[:copies]

        layers = cast(list[StackedLinear], self.layers)
        for layer, norm in zip(layers, self.norms, strict=True):
            x = torch.baddbmm(of(layer.bias), x, of(layer.weight))
            if isinstance(norm, StackedLayerNorm):
                x = functional.layer_norm(x, norm.shape, norm.one, norm.zero)
                x = torch.addcmul(of(norm.bias), x, of(norm.weight))
            x = self.activation(x)
        return torch.baddbmm(of(self.output.bias), x, of(self.output.weight)).squeeze(-1)

    def first(self, copies: int, observation: Observation, action: Tensor) -> Tensor:
        """Returns the values of the first networks only, shape [copies, B]."""
        inputs = self.inputs(observation, action)
        return self.evaluate(inputs.expand(copies, *inputs.shape))


class StackedBatchRenorm(nn.Module):
    """Batch renormalisation (Ioffe, arXiv 1702.03275) with its own statistics for each of several stacked copies.

    While training, entries are normalised by the batch and then moved to where the running statistics would have put
    them, by a factor r and a shift d that carry no gradient and are bounded. For the first `warm_up` updates r = 1 and
    d = 0, which is batch normalisation.

    Args:
        copies: Number M of copies.
        dim: Size of the last dimension.
        momentum: Weight of the running statistics against the batch's.
        eps: Added to the variance.
        r_max: Largest factor, and inverse of the smallest.
        d_max: Largest shift.
        warm_up: Updates before r and d apply.
    """

    mean: Tensor
    variance: Tensor
    updates: Tensor

    def __init__(
        self,
        copies: int,
        dim: int,
        *,
        momentum: float = 0.99,
        eps: float = 1e-3,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warm_up: int = 100_000,
    ) -> None:
        super().__init__()
        self.momentum, self.eps, self.r_max, self.d_max, self.warm_up = momentum, eps, r_max, d_max, warm_up
        self.weight = nn.Parameter(torch.ones(copies, 1, dim))
        self.bias = nn.Parameter(torch.zeros(copies, 1, dim))
        self.register_buffer("mean", torch.zeros(copies, 1, dim))
        self.register_buffer("variance", torch.ones(copies, 1, dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises [M, B, dim] by the running statistics, as in acting."""
        scale = self.weight * torch.rsqrt(self.variance + self.eps)
        return torch.addcmul(self.bias - self.mean * scale, x, scale)

    def train_pair(self, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Normalises two halves [M, B, dim] by their joint statistics and updates the running ones.

        Args:
            x: The half that carries a gradient, through the joint statistics too.
            other: The half without a gradient.
        """
        # Statistics need the parameters' type, whatever type the products have.
        x, other = x.to(self.mean.dtype), other.to(self.mean.dtype)
        with torch.no_grad():
            # As the mean square less the squared mean: one pass instead of two, and inputs are of order one.
            rows = x.shape[1] + other.shape[1]
            mean = (x.sum(dim=1, keepdim=True) + other.sum(dim=1, keepdim=True)) / rows
            square = x.square().sum(dim=1, keepdim=True) + other.square().sum(dim=1, keepdim=True)
            variance = (square / rows - mean.square()).clamp(min=0.0)
            inverse = torch.rsqrt(variance + self.eps)
            running = torch.sqrt(self.variance + self.eps)
            applies = (self.updates >= self.warm_up).to(mean.dtype)
            r = (1.0 / (inverse * running)).clamp(1.0 / self.r_max, self.r_max)
            r = 1.0 + applies * (r - 1.0)
            d = applies * ((mean - self.mean) / running).clamp(-self.d_max, self.d_max)
            self.mean.lerp_(mean, 1.0 - self.momentum)
            self.variance.lerp_(variance, 1.0 - self.momentum)
            self.updates += 1
            scale = self.weight * (r * inverse)
            shift = self.bias + self.weight * d - mean * scale
            normalized_other = torch.addcmul(shift, other, scale)
        normalized: Tensor = _Renormalize.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, mean, inverse, r, d
        )
        return normalized, normalized_other


class _Renormalize(torch.autograd.Function):
    """weight (r (x - mean) / std + d) + bias; mean and std are of x and as many other rows, r and d are constants."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, r: Tensor, d: Tensor
    ) -> Tensor:
        scale = weight * (r * inverse)
        ctx.save_for_backward(x, scale, mean, inverse, r, d)
        return torch.addcmul(bias + weight * d - mean * scale, x, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse, r, d = ctx.saved_tensors
        rows = 2 * x.shape[1]
        total = grad.sum(dim=1, keepdim=True)
        moment = ((grad * x).sum(dim=1, keepdim=True) - mean * total) * inverse  # sum of grad x_hat
        along = -scale * moment * inverse / rows
        grad_x = torch.addcmul(-scale * total / rows - mean * along, grad, scale).addcmul_(x, along)
        return grad_x, r * moment + d * total, total, None, None, None, None


class CrossCritics(nn.Module):
    """M networks Q(s, a) with batch renormalisation and no target copies (CrossQ, arXiv 1902.05605).

    In training (s, a) and (s', a') pass together, so that the statistics cover both. No gradient flows through the
    second half, its share in the statistics included.

    Args:
        encoder: Observation to features; trained by the critics' loss.
        action_dim: Number of action entries.
        hidden: Widths of the hidden layers, ReLU.
        copies: Number M of networks.
        warm_up: Updates before the renormalisation applies.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_dim: int,
        hidden: Sequence[int] = (1024, 1024),
        *,
        copies: int = 2,
        warm_up: int = 100_000,
    ) -> None:
        super().__init__()
        self.encoder, self.copies = encoder, copies
        widths = [encoder.feature_dim + action_dim, *hidden]
        self.norms = nn.ModuleList([StackedBatchRenorm(copies, width, warm_up=warm_up) for width in widths])
        self.layers = nn.ModuleList([StackedLinear(copies, a, b) for a, b in pairwise(widths)])
        self.output = StackedLinear(copies, widths[-1], 1)

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        """Returns values by the running statistics, shape [M, B]."""
        inputs = torch.cat([self.encoder(observation), action], dim=-1)
        x = self.norms[0](inputs.expand(self.copies, *inputs.shape))
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            x = torch.relu(norm(layer(x)))
        value: Tensor = self.output(x)
        return value.squeeze(-1)

    def train_pair(
        self, observation: Observation, action: Tensor, next_observation: Observation, next_action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the values of (s, a) with a graph and of (s', a') without, each [M, B], by joint statistics."""
        here = torch.cat([self.encoder(observation), action], dim=-1)
        with torch.no_grad():
            there = torch.cat([self.encoder(next_observation), next_action], dim=-1)
        shape = (self.copies, *here.shape)
        norms = [norm for norm in self.norms if isinstance(norm, StackedBatchRenorm)]
        x, y = norms[0].train_pair(here.expand(shape), there.expand(shape))
        for layer, norm in zip(self.layers, norms[1:], strict=True):
            with torch.no_grad():
                y = layer(y)
            x, y = norm.train_pair(layer(x), y)
            x, y = x.relu_(), y.relu_()
        with torch.no_grad():
            y = self.output(y)
        return self.output(x).squeeze(-1), y.squeeze(-1)
