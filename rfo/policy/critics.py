"""Twin value networks, evaluated as one batched computation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from rfo.core.task import Observation
from rfo.policy.encoders import Encoder

__all__ = ["StackedLayerNorm", "StackedLinear", "TwinCritic", "frozen"]


class StackedLinear(nn.Module):
    """Several independent linear layers of one size as one batched product.

    Initialised entry by entry as `nn.Linear` is, so the copies differ.

    Args:
        copies: Number M of layers.
        inputs: Size of the input.
        outputs: Size of the output.
    """

    def __init__(self, copies: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(copies, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [M, B, inputs] to [M, B, outputs]."""
        return torch.baddbmm(self.bias, x, self.weight)


class StackedLayerNorm(nn.Module):
    """Layer normalisation with its own scale and shift for each of several stacked copies.

    Args:
        copies: Number M of copies.
        dim: Size of the last dimension.
    """

    one: Tensor
    zero: Tensor

    def __init__(self, copies: int, dim: int) -> None:
        super().__init__()
        self.shape = (dim,)
        # torch's kernel is vectorised only where it is given a scale and a shift.
        self.register_buffer("one", torch.ones(dim), persistent=False)
        self.register_buffer("zero", torch.zeros(dim), persistent=False)
        self.weight = nn.Parameter(torch.ones(copies, 1, dim))
        self.bias = nn.Parameter(torch.zeros(copies, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension of [M, B, dim]."""
        return torch.addcmul(self.bias, functional.layer_norm(x, self.shape, self.one, self.zero), self.weight)


class TwinCritic(nn.Module):
    """Two independently initialised value networks on one encoder: linear, LayerNorm, SiLU, and a linear output.

    The actor's objective takes their mean and the critic's targets their minimum (SAPO, arXiv 2412.12089, section 4.2).
    Values are `center` + `scale` x outputs: where rewards are much alike, values are one large number with small
    differences, and networks that must first grow to that number have gradients that dwarf the differences'.

    Args:
        encoder: Observation to features; trained by the critic's loss.
        hidden: Widths of the hidden layers.
    """

    copies = 2
    center: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.encoder = encoder
        widths = [encoder.feature_dim, *hidden]
        pairs = list(pairwise(widths))
        self.layers = nn.ModuleList([StackedLinear(self.copies, a, b) for a, b in pairs])
        self.norms = nn.ModuleList([StackedLayerNorm(self.copies, width) for width in hidden])
        self.output = StackedLinear(self.copies, widths[-1], 1)
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, observation: Observation) -> Tensor:
        """Returns both values of normalised observations [B, ...], shape [2, B]."""
        return self.center + self.scale * self.heads(self.encoder(observation))

    def heads(self, features: Tensor) -> Tensor:
        """Returns both networks' outputs for an encoder's features [B, feature_dim], shape [2, B]."""
        x = features.expand(self.copies, *features.shape)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = functional.silu(norm(layer(x)))
        value: Tensor = self.output(x)
        return value.squeeze(-1)

    def mean(self, observation: Observation) -> Tensor:
        """Returns the mean of both values, shape [B]: what the actor climbs."""
        values: Tensor = self(observation)
        return values.mean(dim=0)

    def min(self, observation: Observation) -> Tensor:
        """Returns the smaller value, shape [B]: what targets are built from."""
        values: Tensor = self(observation)
        return values.amin(dim=0)

    @torch.no_grad()
    def shift(self, amount: Tensor) -> None:
        """Adds a number to both values of every observation."""
        self.output.bias.add_(amount)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keeps a graph from reaching a module's parameters, while gradients still pass through to its input."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
