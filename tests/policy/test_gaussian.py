"""Gaussian policies."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from rfo.policy.encoders import LOW_DIM, ConcatEncoder, make_encoder
from rfo.policy.gaussian import GaussianPolicy, PredictedSpread, gaussian_log_prob, make_free_gaussian
from rfo.policy.latent import squash_correction


def _predicted() -> GaussianPolicy:
    torch.manual_seed(0)
    policy = GaussianPolicy(ConcatEncoder(4), 2, (16, 16), PredictedSpread(16, 2)).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def test_entropy_estimate_is_minus_the_density_of_the_squashed_action() -> None:
    """The estimate agrees with torch's transformed distribution at the second draw."""
    policy = _predicted()
    observation = {LOW_DIM: torch.randn(7, 4).double()}
    noise, fresh = torch.randn(2, 7, 2).double()
    latent, action, entropy = policy.sample_with_entropy(observation, noise, fresh)
    mean, log_std = policy.moments(observation)
    base = Independent(Normal(mean, log_std.exp()), 1)
    squashed = TransformedDistribution(base, [TanhTransform(cache_size=1)])
    expected = -squashed.log_prob(torch.tanh(mean + log_std.exp() * fresh))
    torch.testing.assert_close(entropy, expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(latent, mean + log_std.exp() * noise)
    torch.testing.assert_close(gaussian_log_prob(noise, log_std), base.log_prob(latent))
    assert torch.equal(action, torch.tanh(latent)) and torch.equal(action, policy.sample(observation, noise)[1])


def test_squash_correction_holds_far_out() -> None:
    """Where 1 - tanh(x)^2 rounds to zero the logarithm is still exact."""
    latent = torch.tensor([[40.0], [-40.0], [0.0]])
    expected = torch.tensor([2 * 0.6931472 - 80.0, 2 * 0.6931472 - 80.0, 0.0])
    torch.testing.assert_close(squash_correction(latent), expected)


def test_predicted_spread_is_clamped() -> None:
    """Log standard deviations stay within their range whatever the features."""
    spread = PredictedSpread(3, 2, low=-5.0, high=2.0)
    found = spread(1e6 * torch.randn(50, 3))
    assert float(found.detach().min()) == -5.0 and float(found.detach().max()) == 2.0


@pytest.mark.parametrize("kind", ["free", "predicted"])
def test_deterministic_action_is_that_of_the_mean(kind: str) -> None:
    """Zero noise gives tanh of the mean, and every parameter that shapes a sample has a gradient."""
    policy = make_free_gaussian(make_encoder({"x": (4,)}), 2, (16,), -1.0).double() if kind == "free" else _predicted()
    observation = {LOW_DIM: torch.randn(5, 4).double()}
    assert torch.equal(policy.deterministic(observation)[0], policy.moments(observation)[0])
    policy.sample(observation, torch.randn(5, 2).double())[1].sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in policy.parameters())
