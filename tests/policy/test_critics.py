"""Twin value networks."""

from __future__ import annotations

import torch
from torch import nn

from rfo.policy.critic_gradient import fill_heads_gradient, join_parameters
from rfo.policy.critics import TwinCritic, frozen
from rfo.policy.encoders import LOW_DIM, ConcatEncoder, PointEncoder


def _critic() -> TwinCritic:
    torch.manual_seed(0)
    critic = TwinCritic(ConcatEncoder(5), (16, 8)).double()
    for norm in critic.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return critic


def _separate(critic: TwinCritic, i: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for stacked, norm in zip(critic.layers, critic.norms, strict=True):
        linear, plain = nn.Linear(*stacked.weight.shape[1:]).double(), nn.LayerNorm(norm.weight.shape[-1]).double()
        linear.weight.data, linear.bias.data = stacked.weight.data[i].t(), stacked.bias.data[i, 0]
        plain.weight.data, plain.bias.data = norm.weight.data[i, 0], norm.bias.data[i, 0]
        layers += [linear, plain, nn.SiLU()]
    output = nn.Linear(critic.output.weight.shape[1], 1).double()
    output.weight.data, output.bias.data = critic.output.weight.data[i].t(), critic.output.bias.data[i, 0]
    return nn.Sequential(*layers, output)


def test_equals_two_separate_networks() -> None:
    """Values, input gradients and parameter gradients are those of two plain networks."""
    critic = _critic()
    x = torch.randn(7, 5).double().requires_grad_()
    y = x.detach().clone().requires_grad_()
    networks = [_separate(critic, i) for i in range(2)]
    stacked, plain = critic({LOW_DIM: x}), torch.cat([network(y) for network in networks], dim=1).t()
    torch.testing.assert_close(stacked, plain)
    weights = torch.randn(2, 7).double()
    (stacked * weights).sum().backward()
    (plain * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    for i, network in enumerate(networks):
        torch.testing.assert_close(critic.layers[1].weight.grad[i].t(), network[3].weight.grad)
        torch.testing.assert_close(critic.norms[0].weight.grad[i, 0], network[1].weight.grad)


def test_copies_are_independent() -> None:
    """The copies start differently, and the loss of one has no gradient in the other."""
    critic = _critic()
    values = critic({LOW_DIM: torch.randn(7, 5).double()})
    assert not torch.allclose(values[0], values[1])
    values[0].sum().backward()
    for parameter in critic.parameters():
        assert torch.equal(parameter.grad[1], torch.zeros_like(parameter.grad[1]))
        assert bool(parameter.grad[0].any())


def test_mean_and_min_are_of_both() -> None:
    """The actor's value is the mean and the targets' value the minimum."""
    critic, observation = _critic(), {LOW_DIM: torch.randn(7, 5).double()}
    values = critic(observation)
    torch.testing.assert_close(critic.mean(observation), (values[0] + values[1]) / 2)
    assert torch.equal(critic.min(observation), torch.minimum(values[0], values[1]))


def test_frozen_keeps_the_input_gradient_only() -> None:
    """A frozen critic passes gradients through and takes none."""
    critic = _critic()
    x = torch.randn(7, 5).double().requires_grad_()
    with frozen(critic):
        value = critic.mean({LOW_DIM: x})
    value.sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in critic.parameters())


def test_closed_form_gradient_equals_autograd() -> None:
    """The regression's loss, values, and gradients to parameters and features are autograd's."""
    critic = _critic()
    features, target = torch.randn(7, 5).double().requires_grad_(), torch.randn(7).double()
    loss = nn.functional.mse_loss(critic.heads(features), target.expand(2, 7), reduction="none").mean(dim=1).sum()
    expected = torch.autograd.grad(loss, [features, *critic.parameters()])
    joined = join_parameters(list(critic.parameters()))
    filled, values, bar = fill_heads_gradient(critic, features, target)
    torch.testing.assert_close(filled, loss.detach())
    torch.testing.assert_close(values, critic.heads(features).detach())
    torch.testing.assert_close(bar, expected[0])
    torch.testing.assert_close(joined.grad, torch.cat([gradient.flatten() for gradient in expected[1:]]))


def test_joined_parameters_move_with_their_vector() -> None:
    """A step on the vector changes what the network computes, and an encoder's gradient lands in the vector."""
    critic = TwinCritic(PointEncoder({"points": 3}, 0), (8,))
    joined, observation = join_parameters(list(critic.parameters())), {"points": torch.randn(4, 6, 3)}
    before = critic(observation)
    before.sum().backward()
    assert joined.grad is not None and bool(joined.grad[: joined.numel() // 2].any())
    with torch.no_grad():
        joined.sub_(joined.grad, alpha=1e-3)
    assert bool((critic(observation) < before).all())
