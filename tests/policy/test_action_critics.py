"""Stacked action values, batch renormalisation, and cross-normalised critics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rfo.policy.action_critics import ActionCritics, CrossCritics, StackedBatchRenorm
from rfo.policy.encoders import LOW_DIM, ConcatEncoder


def _inputs(batch: int = 6) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(batch, 3, generator=generator, dtype=torch.float64)
    return {LOW_DIM: s}, torch.randn(batch, 2, generator=generator, dtype=torch.float64)


def test_the_stack_is_a_loop_over_its_networks() -> None:
    """One batched product equals plain torch layers with the same weights; the copies differ."""
    critics = ActionCritics(ConcatEncoder(3), 2, (8, 8), copies=3, activation="gelu").double()
    observation, action = _inputs()
    values = critics(observation, action)
    for m in range(3):
        x = torch.cat([observation[LOW_DIM], action], dim=1)
        for layer, norm in zip(critics.layers, critics.norms, strict=True):
            x = x @ layer.weight[m] + layer.bias[m]
            x = nn.functional.gelu(nn.functional.layer_norm(x, (8,)) * norm.weight[m] + norm.bias[m])
        torch.testing.assert_close(values[m], (x @ critics.output.weight[m] + critics.output.bias[m])[:, 0])
    assert not torch.allclose(values[0], values[1])
    torch.testing.assert_close(critics.first(2, observation, action), values[:2])


def test_renormalization_has_the_gradient_of_joint_batch_normalization() -> None:
    """While warming up, values and gradients are those of plain normalisation by both halves' statistics."""
    norm = StackedBatchRenorm(2, 4).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    other = 3.0 + torch.randn(2, 6, 4, dtype=torch.float64)
    both = torch.cat([x, other], dim=1)
    mean, variance = both.mean(1, keepdim=True), both.var(1, keepdim=True, correction=0)
    expected = (both - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
    found = torch.cat(norm.train_pair(x, other), dim=1)
    torch.testing.assert_close(found, expected)
    variables = [x, norm.weight, norm.bias]
    plain = torch.autograd.grad(expected[:, :6].sin().sum(), variables)
    for a, b in zip(plain, torch.autograd.grad(found[:, :6].sin().sum(), variables), strict=True):
        torch.testing.assert_close(a, b)


def test_after_the_warm_up_it_normalizes_by_the_running_statistics() -> None:
    """Where r and d are within bounds, training and acting agree."""
    norm = StackedBatchRenorm(1, 3, warm_up=0, momentum=0.5).double()
    x, other = torch.randn(2, 1, 64, 3, dtype=torch.float64)
    for _ in range(30):
        norm.train_pair(x, other)
    before = norm(x)
    torch.testing.assert_close(norm.train_pair(x, other)[0], before, atol=1e-6, rtol=1e-6)


def test_cross_critics_keep_the_second_half_out_of_the_gradient() -> None:
    """The values of (s', a') carry no graph, and values by running statistics do not depend on the batch."""
    critics = CrossCritics(ConcatEncoder(3), 2, (8,)).double()
    observation, action = _inputs()
    here, there = critics.train_pair(observation, action, observation, action)
    assert here.requires_grad and not there.requires_grad
    torch.testing.assert_close(here, there)
    one = critics({LOW_DIM: observation[LOW_DIM][:1]}, action[:1])
    torch.testing.assert_close(one, critics(observation, action)[:, :1])
