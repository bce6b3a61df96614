"""Fitting twin action values to one-step targets: with target copies, or without them by joint normalisation."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from rfo.algo.off_policy import blend
from rfo.core.task import Observation
from rfo.policy.action_critics import ActionCritics, CrossCritics

__all__ = ["ActionValueFit", "CrossFit", "TargetFit"]


class ActionValueFit(ABC):
    """Twin critics and how they are fitted."""

    critics: ActionCritics | CrossCritics
    """The networks that are fitted."""

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
        values, following = self.evaluate(here, action, there, next_action)
        values, following = values.to(reward.dtype), following.to(reward.dtype).amin(dim=0)
        target = reward + discount * (following + bonus)
        return 0.5 * (values - target).square().mean(dim=1).sum(), values

    @abstractmethod
    def evaluate(
        self, here: Observation, action: Tensor, there: Observation, next_action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the values of (s, a) with a graph and those of (s', a') for the target without, each [2, B]."""

    def value(self, observation: Observation, action: Tensor) -> Tensor:
        """Returns the smaller value, as the actor climbs it, shape [B]."""
        values: Tensor = self.critics(observation, action)
        return values.amin(dim=0)

    @abstractmethod
    def after_step(self) -> None:
        """Called after every step of the critics' optimizer."""


class TargetFit(ActionValueFit):
    """Targets from slowly following copies (SAC, arXiv 1812.05905).

    Args:
        critics: Twin critics.
        tau: Weight of the critics in the copies' update.
    """

    def __init__(self, critics: ActionCritics, tau: float) -> None:
        self.critics, self.targets, self.tau = critics, copy.deepcopy(critics), tau

    def evaluate(
        self, here: Observation, action: Tensor, there: Observation, next_action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the critics' values and the copies'."""
        with torch.no_grad():
            following = self.targets(there, next_action)
        return self.critics(here, action), following

    def after_step(self) -> None:
        """Moves the copies."""
        blend(self.targets, self.critics, self.tau)


class CrossFit(ActionValueFit):
    """Targets from the critics themselves, normalised together with the values they are for (CrossQ).

    Args:
        critics: Twin critics with batch renormalisation.
    """

    critics: CrossCritics

    def __init__(self, critics: CrossCritics) -> None:
        self.critics = critics

    def evaluate(
        self, here: Observation, action: Tensor, there: Observation, next_action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the values of both, by their joint statistics."""
        return self.critics.train_pair(here, action, there, next_action)

    def after_step(self) -> None:
        """Has nothing to move."""
