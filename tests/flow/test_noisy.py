"""Noisy rollouts and the log-probability of a path."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from rfo.flow.noisy import (
    LatentNoise,
    MarginalPreserving,
    StepLaw,
    Uncorrected,
    VelocityNoise,
    path_log_prob,
    roll_out,
)

LAWS: tuple[StepLaw, ...] = (MarginalPreserving(), Uncorrected(), LatentNoise(), VelocityNoise())


def _curved(x: Tensor, u: float) -> tuple[Tensor, Tensor]:
    return torch.sin(x) + u, -1.0 + 0.3 * torch.tanh(x)


def _linear(x: Tensor, u: float) -> tuple[Tensor, Tensor]:
    return -0.7 * x + 0.2 + 0.5 * u, torch.full((), math.log(0.3), dtype=x.dtype)


def _noise(steps: int, batch: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(steps + 1, batch, dim, generator=generator, dtype=torch.float64)
    return drawn[0], drawn[1:]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_a_path_has_the_sum_of_its_transitions_densities(law: StepLaw) -> None:
    """What the rollout returns equals the densities of its states, by another route and by torch.distributions."""
    path = roll_out(law, _curved, *_noise(5, 6, 3))
    torch.testing.assert_close(path.log_prob, path_log_prob(law, _curved, path.states))
    total = Normal(0.0, 1.0).log_prob(path.states[0]).sum(-1)
    for k in range(5):
        v, log_sigma = _curved(path.states[k], k / 5)
        mean, log_std = law.moments(path.states[k], k / 5, 0.2, v, log_sigma)
        total = total + Normal(mean, log_std.exp().expand_as(mean)).log_prob(path.states[k + 1]).sum(-1)
    torch.testing.assert_close(path.log_prob, total)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_a_linear_field_has_the_closed_form(law: StepLaw) -> None:
    """The path of a linear field is one Gaussian, whose density is known (to 1e-4)."""
    steps, dim = 4, 1
    x, noise = _noise(steps, 8, dim)
    path = roll_out(law, _linear, x, noise)
    # The path is an affine map of the noise: mean of zero noise, one column per unit of noise.
    zero = torch.zeros(steps + 1, 1, dim, dtype=torch.float64)
    mean = torch.stack(roll_out(law, _linear, zero[0], zero[1:]).states).flatten()
    columns = []
    for i in range(steps + 1):
        unit = zero.clone()
        unit[i] = 1.0
        columns.append(torch.stack(roll_out(law, _linear, unit[0], unit[1:]).states).flatten() - mean)
    matrix = torch.stack(columns, dim=1)
    gaussian = MultivariateNormal(mean, matrix @ matrix.T)
    expected = gaussian.log_prob(torch.stack(path.states).squeeze(-1).T)
    torch.testing.assert_close(path.log_prob, expected, atol=1e-4, rtol=0.0)


def _marginal_error(law: StepLaw, steps: int) -> float:
    """Returns how far the final variance is from the target's, for the exact velocity of N(0, 1) to N(0, 0.25)."""
    target = 0.5

    def velocity(x: Tensor, u: float) -> tuple[Tensor, Tensor]:
        # x_u = (1 - u) e + u y is N(0, var); v is E[y - e | x_u].
        variance = (1.0 - u) ** 2 + (u * target) ** 2
        return x * (u * target**2 - (1.0 - u)) / variance, torch.full((), math.log(0.8), dtype=x.dtype)

    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(steps + 1, 20000, 1, generator=generator, dtype=torch.float64)
    latent = roll_out(law, velocity, noise[0], noise[1:]).latent
    return abs(float(latent.std()) - target)


def test_the_drift_preserves_the_marginal_as_the_steps_grow() -> None:
    """With the drift the error vanishes with K; without it it stays."""
    coarse, fine = _marginal_error(MarginalPreserving(), 4), _marginal_error(MarginalPreserving(), 128)
    assert fine < 0.02 < coarse
    assert _marginal_error(Uncorrected(), 128) > 0.1


def test_the_noise_level_gets_an_entropy_gradient() -> None:
    """Every law's log-probability falls with the noise level: -log(sigma) is in it, for Flow-T's too."""
    for law in (LatentNoise(), VelocityNoise(), Uncorrected()):
        level = torch.zeros((), dtype=torch.float64, requires_grad=True)
        path = roll_out(law, lambda x, u, level=level: (0.0 * x, level), *_noise(4, 3, 2))  # type: ignore[misc]
        (gradient,) = torch.autograd.grad(path.log_prob.sum(), level)
        assert float(gradient) == pytest.approx(-4 * 2 * 3)
