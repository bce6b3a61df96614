"""Scripted policies that a task brings along, to make demonstrations with."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from rfo.core.task import Observation

__all__ = ["HasOracles", "Oracle"]


class Oracle(Protocol):
    """A script that acts for N environments and may remember what it is at in each of them."""

    def __call__(self, observation: Observation, began: Tensor) -> Tensor:
        """Returns actions in [-1, 1], shape [N, action_dim].

        Args:
            observation: As the task gives it, first dimension N.
            began: Where an episode has just begun, bool [N].
        """


@runtime_checkable
class HasOracles(Protocol):
    """A task with scripts; the first of them is the one that solves it.

    Attributes:
        oracles: Their names.
    """

    oracles: tuple[str, ...]

    def make_oracle(self, name: str, n: int, seed: int) -> Oracle:
        """Builds a script for n environments, with its random draws taken from the seed."""
