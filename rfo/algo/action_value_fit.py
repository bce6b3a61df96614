"""Fitting twin action values to one-step targets: with target copies, or without them by joint normalisation."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from rfo.algo.off_policy import blend
from rfo.core.task import Observation
from rfo.policy.action_critics import ActionCritics, CrossCritics

__all__ = ["ActionValueFit", "CrossFit", "TargetFit"]


class ActionValueFit(Protocol):
    """Twin critics and how they are fitted."""

    @property
    def critics(self) -> nn.Module:
        """The networks that are fitted."""
        ...

    def loss(
        self,
        here: Observation,
        action: Tensor,
        there: Observation,
        next_action: Tensor,
        bonus: Tensor,
        reward: Tensor,
        discount: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns half the mean squared error, summed over both networks, and the values [2, B].

        Args:
            here: Normalised s.
            action: a, shape [B, A].
            there: Normalised s'.
            next_action: a' of the policy, shape [B, A], without graph.
            bonus: What is added to the value of (s', a'): minus alpha log p, shape [B].
            reward: Shape [B].
            discount: Shape [B].
        """
        ...

    def value(self, observation: Observation, action: Tensor) -> Tensor:
        """Returns the smaller value, as the actor climbs it, shape [B]."""
        ...

    def after_step(self) -> None:
        """Called after every step of the critics' optimizer."""
        ...


class TargetFit:
    """Targets from slowly following copies (SAC, arXiv 1812.05905).

    Args:
        critics: Twin critics.
        tau: Weight of the critics in the copies' update.
    """

    def __init__(self, critics: ActionCritics, tau: float) -> None:
        self.critics, self.targets, self.tau = critics, copy.deepcopy(critics), tau

    def loss(
        self,
        here: Observation,
        action: Tensor,
        there: Observation,
        next_action: Tensor,
        bonus: Tensor,
        reward: Tensor,
        discount: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns loss and values, see `ActionValueFit.loss`."""
        with torch.no_grad():
            following = self.targets(there, next_action).to(reward.dtype).amin(dim=0)
        return _square(self.critics(here, action), reward + discount * (following + bonus))

    def value(self, observation: Observation, action: Tensor) -> Tensor:
        """Returns the smaller value, shape [B]."""
        values: Tensor = self.critics(observation, action)
        return values.amin(dim=0)

    def after_step(self) -> None:
        """Moves the copies."""
        blend(self.targets, self.critics, self.tau)


class CrossFit:
    """Targets from the critics themselves, normalised together with the values they are for (CrossQ).

    Args:
        critics: Twin critics with batch renormalisation.
    """

    def __init__(self, critics: CrossCritics) -> None:
        self.critics = critics

    def loss(
        self,
        here: Observation,
        action: Tensor,
        there: Observation,
        next_action: Tensor,
        bonus: Tensor,
        reward: Tensor,
        discount: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns loss and values, see `ActionValueFit.loss`."""
        values, following = self.critics.train_pair(here, action, there, next_action)
        following = following.to(reward.dtype).amin(dim=0)
        return _square(values, reward + discount * (following + bonus))

    def value(self, observation: Observation, action: Tensor) -> Tensor:
        """Returns the smaller value by the running statistics, shape [B]."""
        values: Tensor = self.critics(observation, action)
        return values.amin(dim=0)

    def after_step(self) -> None:
        """Has nothing to move."""


def _square(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    values = values.to(target.dtype)
    return 0.5 * (values - target).square().mean(dim=1).sum(), values
