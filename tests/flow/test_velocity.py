"""Velocity networks."""

from __future__ import annotations

import torch

from rfo.flow.velocity import VelocityMLP


def test_split_first_layer_equals_one_layer_on_the_joined_input() -> None:
    """A bound field is a plain network on [s, x, u]."""
    torch.manual_seed(0)
    field = VelocityMLP(5, 3, (16, 8)).double()
    s, x, u = torch.randn(7, 5).double(), torch.randn(7, 3).double(), torch.rand(7, 1).double()
    weight = torch.cat([field.from_features.weight, field.from_latent.weight, field.from_time[:, None]], dim=1)
    hidden = torch.cat([s, x, u], dim=1) @ weight.t() + field.from_features.bias
    for norm, layer in zip(field.norms, field.layers, strict=True):
        hidden = layer(torch.nn.functional.silu(norm(hidden)))
    torch.testing.assert_close(field.bind(s)(x, u), hidden)


def test_flow_time_as_number_equals_flow_time_as_column() -> None:
    """A float u and a column of that u give the same velocity."""
    torch.manual_seed(0)
    field = VelocityMLP(5, 3).double()
    velocity, x = field.bind(torch.randn(4, 5).double()), torch.randn(4, 3).double()
    torch.testing.assert_close(velocity(x, 0.25), velocity(x, torch.full((4, 1), 0.25).double()))


def test_first_field_is_almost_still() -> None:
    """The last layer starts with weights of standard deviation 0.01 and no bias."""
    torch.manual_seed(0)
    field = VelocityMLP(5, 8, (128, 128))
    last = field.layers[-1]
    assert 0.008 < last.weight.std().item() < 0.012
    assert torch.equal(last.bias, torch.zeros(8))
