"""Action chunks: one plan of h actions, of which the first m are executed open loop before the next plan is made.

Plans are made together at steps 0, m, 2m, ... of a window. An environment whose episode ends in between drops the rest
of its plan and plans anew from the observation of the reset; that plan lasts until the next common step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rfo.core.shell import Transition
from rfo.core.task import Observation
from rfo.data.horizon import select_rows

__all__ = ["ChunkController", "ChunkSampler", "merge_steps", "plan_starts"]

Planner = Callable[[Observation, Tensor], Tensor]
"""Maps observations [B, ...] and noise [B, h A] to latent chunks [B, h A]."""


class ChunkSampler:
    """Draws the actions of one window from latent chunks; a `rfo.data.horizon.Sampler`.

    Args:
        planner: Draws chunks, with the graph kept.
        noise: Noise of a plan made at any step, shape [H, N, h A].
        length: Actions h of a chunk.
        execute: Actions m executed of each chunk, at most h.
    """

    def __init__(self, planner: Planner, noise: Tensor, *, length: int, execute: int) -> None:
        self._planner, self._noise = planner, noise
        self._length, self._execute = length, execute
        self._plan: list[Tensor] = []
        self.planned: list[tuple[Observation, Tensor]] = []
        """Every plan of the window: observations and whole latent chunks, without graph."""

    def __call__(self, observation: Observation, t: int, ended: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns latent and action of step t, each of shape [N, A]."""
        place = t % self._execute
        if place == 0:
            self._plan = self._make(observation, self._noise[t])
        elif ended is not None and bool(ended.any()):
            self._replan(observation, self._noise[t], ended.nonzero().squeeze(1), place)
        latent = self._plan[place]
        return latent, torch.tanh(latent)

    def _make(self, observation: Observation, noise: Tensor) -> list[Tensor]:
        chunk = self._planner(observation, noise)
        self.planned.append(({key: value.detach() for key, value in observation.items()}, chunk.detach()))
        return list(chunk.view(len(chunk), self._length, -1).unbind(1))

    def _replan(self, observation: Observation, noise: Tensor, rows: Tensor, place: int) -> None:
        # index_copy: what is overwritten was never executed, and no gradient reaches it.
        fresh = self._make(select_rows(observation, rows), noise.index_select(0, rows))
        for i in range(place, self._execute):
            self._plan[i] = self._plan[i].index_copy(0, rows, fresh[i - place])


class ChunkController:
    """Acts open loop: plans every m-th call, and where an episode has begun in between, until the next common plan.

    Args:
        planner: Maps observations to latent chunks [B, h A].
        length: Actions h of a chunk.
        execute: Actions m executed of each chunk.
    """

    def __init__(self, planner: Callable[[Observation], Tensor], *, length: int, execute: int) -> None:
        self._planner, self._length, self._execute = planner, length, execute
        self._calls = 0
        self._plan: Tensor | None = None

    def __call__(self, observation: Observation, began: Tensor | None = None) -> Tensor:
        """Returns the next actions, shape [N, A]; see `latent`."""
        return torch.tanh(self.latent(observation, began))

    def latent(self, observation: Observation, began: Tensor | None = None) -> Tensor:
        """Returns the next latent actions, shape [N, A].

        Args:
            observation: What is seen now, first dimension N.
            began: Where an episode has just begun, bool [N]; None where none has since the last plan.
        """
        place = self._calls % self._execute
        self._calls += 1
        if place == 0 or self._plan is None:
            self._plan = self._make(observation)
        elif began is not None and bool(began.any()):
            rows = began.nonzero().squeeze(1)
            fresh = self._make(select_rows(observation, rows))
            self._plan = self._plan.clone()
            self._plan[rows, place:] = fresh[:, : self._length - place]
        return self._plan[:, place]

    def state_dict(self) -> dict[str, Any]:
        """Returns the plan and how far it has been followed."""
        return {"calls": self._calls, "plan": self._plan}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with a plan."""
        self._calls, self._plan = state_dict["calls"], state_dict["plan"]

    def _make(self, observation: Observation) -> Tensor:
        chunk = self._planner(observation)
        return chunk.view(len(chunk), self._length, -1)


@torch.no_grad()
def plan_starts(done: Tensor, *, execute: int) -> Tensor:
    """Returns at which steps of a window a plan was made: every m-th, and after an episode's end, bool [H, N].

    Args:
        done: Where an episode ended, bool [H, N].
        execute: Actions m executed of each chunk.
    """
    starts = torch.zeros_like(done)
    starts[1:] = done[:-1]
    starts[::execute] = True
    return starts


@torch.no_grad()
def merge_steps(steps: Sequence[Transition], gamma: float) -> Transition:
    """Returns one transition for several control steps through which an action was held.

    Its reward is their discounted sum divided by the number of `steps`, so that values are of the size that they have
    where decisions are single steps: networks and learning rates need not follow the number.

    Where an episode ends before the last of them, it is that of the steps until then: what happens in the next episode
    is not in it. The discount of what follows is the caller's, the same for every environment.

    Args:
        steps: What the steps returned, in order.
        gamma: Discount per control step of the rewards.
    """
    merged, factor = replace(steps[0], reward=steps[0].reward / len(steps)), 1.0
    for step in steps[1:]:
        factor *= gamma
        alive = ~merged.done
        final = {
            key: torch.where(alive.view(-1, *[1] * (value.dim() - 1)), value, merged.final_observation[key])
            for key, value in step.final_observation.items()
        }
        merged = Transition(
            step.observation,
            merged.reward + (factor / len(steps)) * step.reward * alive,
            merged.terminated | (alive & step.terminated),
            merged.truncated | (alive & step.truncated),
            final,
        )
    return merged
