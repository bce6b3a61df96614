"""Velocity fields by the name a config gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rfo.core.errors import UsageError
from rfo.flow.decoded import VelocityDecoded
from rfo.flow.gated import VelocityGated
from rfo.flow.velocity import VelocityField, VelocityMLP

__all__ = ["VelocityName", "make_field"]

VelocityName = Literal["mlp", "gated", "decoded"]
"""A plain network, Flow-G, or Flow-T."""


def make_field(
    name: VelocityName, feature_dim: int, action_dim: int, hidden: Sequence[int], *, output_std: float = 0.01
) -> VelocityField:
    """Builds a velocity field.

    Args:
        name: Which field.
        feature_dim: Size of the observation's features.
        action_dim: Size A of the latent action.
        hidden: Widths of the hidden layers; for "decoded" the size of the token, once per decoder layer.
        output_std: Standard deviation of the last layer's initial weights (the candidate's of "gated").

    Raises:
        UsageError: `hidden` suits no such field.
    """
    if name == "gated":
        return VelocityGated(feature_dim, action_dim, hidden, output_std=output_std)
    if name == "decoded":
        if len(set(hidden)) != 1:
            raise UsageError(
                f"a decoded velocity repeats one width once per layer, for example [64, 64]; got {list(hidden)}"
            )
        return VelocityDecoded(feature_dim, action_dim, hidden[0], len(hidden), output_std=output_std)
    return VelocityMLP(feature_dim, action_dim, hidden, output_std=output_std)
