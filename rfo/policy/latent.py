"""What every policy here has in common: noise and an observation become a latent x, and the action is tanh(x)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from rfo.core.task import Observation

__all__ = ["LatentPolicy", "squash_correction"]


class LatentPolicy(nn.Module, ABC):
    """A policy reparameterised by noise: differentiable in the observation, the noise and the parameters."""

    @property
    @abstractmethod
    def action_dim(self) -> int:
        """Size A of the latent, of the noise and of the action."""

    @abstractmethod
    def sample(self, observation: Observation, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions.

        Args:
            observation: Normalised, first dimension B.
            noise: Standard normal, or zero for the deterministic action, shape [B, A].

        Returns:
            The latent x and the action tanh(x), each of shape [B, A].
        """

    def deterministic(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns latent and action of the noise's mean, zero."""
        batch = next(iter(observation.values()))
        return self.sample(observation, batch.new_zeros(batch.shape[0], self.action_dim))


def squash_correction(latent: Tensor) -> Tensor:
    """Returns sum_j log(1 - tanh(x_j)^2), what the squashing takes from a log-density, shape [B].

    log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)) holds its accuracy where tanh saturates.

    Args:
        latent: Shape [B, A].
    """
    log_two = 0.6931471805599453
    return (2.0 * (log_two - latent - nn.functional.softplus(-2.0 * latent))).sum(dim=-1)
