"""Stochastic rollouts of a flow: noise between the steps, and the log-probability of the whole path.

Adding Gaussian noise to every step makes the path x_0, ..., x_K a Markov chain with a density that is known exactly,
which the density of x_K is not. SAC Flow (arXiv 2509.25756) uses the path's log-probability where SAC uses the
action's. What distinguishes the variants is the law of one step, mean and standard deviation:

=====================  ==========================  ==================  ================================================
law                    mean                        standard deviation  where
=====================  ==========================  ==================  ================================================
`MarginalPreserving`   x + b dt                    sigma sqrt(dt)      the paper
`Uncorrected`          x + v dt                    sigma sqrt(dt)      the paper without its drift
`LatentNoise`          x + v dt                    sigma               released code, Flow-G and plain
`VelocityNoise`        x + v dt                    sigma dt            released code, Flow-T (noise on the velocity)
=====================  ==========================  ==================  ================================================

Every law has its own, right density: the released Flow-T leaves out -log(sigma dt), this does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "LatentNoise",
    "MarginalPreserving",
    "NoisyPath",
    "NoisyVelocity",
    "StepLaw",
    "Uncorrected",
    "VelocityNoise",
    "path_log_prob",
    "roll_out",
]

NoisyVelocity = Callable[[Tensor, float | Tensor], tuple[Tensor, Tensor]]
"""(x, u) → velocity [B, A] and the log of the noise level sigma, of a shape that broadcasts to [B, A]; u is a number or
of shape [B, 1]."""

LOG_TWO_PI = math.log(2.0 * math.pi)


class StepLaw(Protocol):
    """The Gaussian law of one flow step."""

    def moments(self, x: Tensor, u: float, dt: float, velocity: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean [B, A] and the log of the standard deviation (broadcasts to [B, A]) of x at u + dt."""
        ...


@dataclass(frozen=True)
class MarginalPreserving:
    """b = ((1 - u + u sigma^2 / 2) v - sigma^2 / 2 x) / (1 - u): the drift that leaves the marginals as they are.

    It equals v + sigma^2 / 2 times the score (u v - x) / (1 - u) of the straight Gaussian path. The marginals are those
    of the noiseless flow in the limit of many steps, and where v is the true marginal velocity.
    """

    def moments(self, x: Tensor, u: float, dt: float, velocity: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log standard deviation; finite for u <= 1 - dt."""
        half = 0.5 * torch.exp(2.0 * log_sigma)
        scale = dt / (1.0 - u)
        mean = x * (1.0 - scale * half) + velocity * (dt + (scale * u) * half)
        return mean, log_sigma + 0.5 * math.log(dt)


@dataclass(frozen=True)
class Uncorrected:
    """Mean x + v dt, standard deviation sigma sqrt(dt)."""

    def moments(self, x: Tensor, u: float, dt: float, velocity: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log standard deviation."""
        return torch.add(x, velocity, alpha=dt), log_sigma + 0.5 * math.log(dt)


@dataclass(frozen=True)
class LatentNoise:
    """Mean x + v dt, standard deviation sigma whatever the step."""

    def moments(self, x: Tensor, u: float, dt: float, velocity: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log standard deviation."""
        return torch.add(x, velocity, alpha=dt), log_sigma


@dataclass(frozen=True)
class VelocityNoise:
    """Mean x + v dt, standard deviation sigma dt: the velocity itself is drawn."""

    def moments(self, x: Tensor, u: float, dt: float, velocity: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log standard deviation."""
        return torch.add(x, velocity, alpha=dt), log_sigma + math.log(dt)


@dataclass(frozen=True)
class NoisyPath:
    """A path from noise to a latent action.

    Attributes:
        latent: x_K, shape [B, A].
        log_prob: log N(x_0; 0, I) + sum_k log N(x_{k+1}; mean_k, std_k^2), shape [B].
        states: x_0, ..., x_K, shape [K + 1, B, A].
    """

    latent: Tensor
    log_prob: Tensor
    states: list[Tensor]


def roll_out(law: StepLaw, velocity: NoisyVelocity, x: Tensor, noise: Tensor) -> NoisyPath:
    """Draws a path by reparameterisation: differentiable in the field's parameters and in the observation.

    Args:
        law: Law of one step.
        velocity: The field, bound to its observations, with its noise level.
        x: x_0, drawn from N(0, I), shape [B, A].
        noise: Standard normal, one per step, shape [K, B, A]; its length is the number of steps.
    """
    steps = noise.shape[0]
    dt = 1.0 / steps
    states, log_stds = [x], []
    for k in range(steps):
        drawn, log_sigma = velocity(x, k * dt)
        mean, log_std = law.moments(x, k * dt, dt, drawn, log_sigma)
        x = torch.addcmul(mean, log_std.exp(), noise[k])
        states.append(x)
        log_stds.append(log_std)
    # (x_{k+1} - mean_k) / std_k is the noise itself, so only the standard deviations carry a gradient.
    squares = states[0].square().sum(dim=-1) + noise.square().sum(dim=(0, -1))
    constant = 0.5 * (steps + 1) * x.shape[-1] * LOG_TWO_PI
    spread = torch.stack([_summed(log_std, x) for log_std in log_stds]).sum(dim=0)
    return NoisyPath(x, -0.5 * squares - spread - constant, states)


def path_log_prob(law: StepLaw, velocity: NoisyVelocity, states: list[Tensor]) -> Tensor:
    """Returns the log-probability of given states x_0, ..., x_K, shape [B]: the sum of the transitions' densities."""
    steps = len(states) - 1
    dt = 1.0 / steps
    total = _normal_log_prob(states[0], torch.zeros_like(states[0]), torch.zeros_like(states[0]))
    for k in range(steps):
        drawn, log_sigma = velocity(states[k], k * dt)
        mean, log_std = law.moments(states[k], k * dt, dt, drawn, log_sigma)
        total = total + _normal_log_prob(states[k + 1], mean, log_std)
    return total


def _normal_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    log_std = log_std.expand_as(x)
    scaled = (x - mean) * torch.exp(-log_std)
    return (-0.5 * scaled.square() - log_std - 0.5 * LOG_TWO_PI).sum(dim=-1)


def _summed(log_std: Tensor, like: Tensor) -> Tensor:
    return log_std.expand_as(like).sum(dim=-1)
