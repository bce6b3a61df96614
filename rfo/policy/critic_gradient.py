"""The value networks' regression gradient in closed form, and parameters joined into one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rfo.policy.critics import StackedLayerNorm, StackedLinear, TwinCritic

__all__ = ["fill_heads_gradient", "join_parameters"]

EPS = 1e-5
"""Added to the variance in `functional.layer_norm`."""


def join_parameters(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """Makes parameters, and their gradients, views of one vector and returns it.

    A gradient norm is then one reduction and an optimizer's step one kernel, however many layers there are. Move the
    network to its device and type before this.

    Returns:
        The vector, with a zero gradient.
    """
    joined = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    joined.grad = torch.zeros_like(joined)
    start = 0
    for parameter in parameters:
        part = slice(start, start + parameter.numel())
        parameter.data = joined.data[part].view_as(parameter)
        parameter.grad = joined.grad[part].view_as(parameter)
        start = part.stop
    return joined


@torch.no_grad()
def fill_heads_gradient(critic: TwinCritic, features: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Writes the gradient of the mean squared error, summed over the networks, into `grad`; takes no step.

    What autograd computes for `TwinCritic.heads`, in two thirds of the time at the sizes of these networks.

    Args:
        critic: Networks whose parameters have gradients to write to (`join_parameters`).
        features: What the encoder made of the observations, shape [B, F].
        target: What the outputs should be, shape [B].

    Returns:
        The loss, both outputs [2, B], and the gradient to the features, shape [B, F], where they require one.
    """
    layers, norms = cast(list[StackedLinear], critic.layers), cast(list[StackedLayerNorm], critic.norms)
    x = features.expand(critic.copies, *features.shape)
    # Of each layer its input and its normalised output are kept and the rest is computed again: these buffers then
    # stay in a core's cache.
    kept = []
    for layer, norm in zip(layers, norms, strict=True):
        normal, mean, rstd = torch.native_layer_norm(layer(x), norm.shape, norm.one, norm.zero, EPS)
        kept.append((layer, norm, x, normal, mean, rstd))
        x = functional.silu(_scaled(norm, normal), inplace=True)
    values = critic.output(x).squeeze(-1)
    error = values - target
    loss = error.square().mean(dim=1).sum()
    bar = error.mul_(2.0 / len(target)).unsqueeze(-1)
    _fill(critic.output, x, bar)
    bar = bar * critic.output.weight.mT
    for layer, norm, x, normal, mean, rstd in reversed(kept):
        bar = torch.ops.aten.silu_backward(bar, _scaled(norm, normal))
        torch.sum(bar, dim=1, keepdim=True, out=norm.bias.grad)
        torch.sum(normal * bar, dim=1, keepdim=True, out=norm.weight.grad)
        # The normalised output has mean 0 and deviation 1; the deviation that it was divided by follows after.
        at = (normal, norm.shape, torch.zeros_like(mean), torch.ones_like(rstd), norm.one, norm.zero)
        bar = torch.ops.aten.native_layer_norm_backward(bar.mul_(norm.weight), *at, [True, False, False])[0].mul_(rstd)
        _fill(layer, x, bar)
        if layer is not layers[0] or features.requires_grad:
            bar = torch.bmm(bar, layer.weight.mT)
    return loss, values, bar.sum(dim=0) if features.requires_grad else None


def _scaled(norm: StackedLayerNorm, normal: Tensor) -> Tensor:
    return torch.addcmul(norm.bias, normal, norm.weight)


def _fill(layer: StackedLinear, x: Tensor, bar: Tensor) -> None:
    torch.bmm(x.mT, bar, out=layer.weight.grad)
    torch.sum(bar, dim=1, keepdim=True, out=layer.bias.grad)
