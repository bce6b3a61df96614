"""Replay: transitions in preallocated tensors on the training device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.shell import Transition
from rfo.core.task import Observation

__all__ = ["LATENT_BOUND", "Batch", "Replay", "join"]

LATENT_BOUND = 0.999
"""Largest magnitude of an action whose latent is taken by atanh, so that it stays below 3.8."""


@dataclass(frozen=True)
class Batch:
    """Transitions drawn from a replay.

    Attributes:
        observation: As the task gave it, each [B, ...].
        latent: What the policy drew before its tanh, shape [B, A]; for chunks [B, h A].
        action: What was executed, in [-1, 1], of the latent's shape. What follows an episode's end within a chunk was
            not executed and is replaced by uniform draws.
        reward: Discounted sum of the rewards of up to n steps, shape [B].
        discount: Factor of the value of `next_observation`: gamma^steps, and zero after a termination, shape [B]. A
            time limit is no termination.
        next_observation: Where those steps ended, before any reset, each [B, ...].
        executed: Which entries of `action` were executed, bool of its shape; None where all were.
    """

    observation: Observation
    latent: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_observation: Observation
    executed: Tensor | None = None

    def mean_of(self, entries: Tensor) -> Tensor:
        """Returns the mean over the executed entries of every row, [B, A] to [B]."""
        if self.executed is None:
            return entries.mean(dim=-1)
        return (entries * self.executed).sum(dim=-1) / self.executed.sum(dim=-1)


def join(first: Batch, second: Batch) -> Batch:
    """Puts the rows of two batches into one."""

    def both(name: str) -> Observation:
        a, b = getattr(first, name), getattr(second, name)
        return {key: torch.cat([a[key], b[key]]) for key in a}

    names = ("latent", "action", "reward", "discount")
    rows = {name: torch.cat([getattr(first, name), getattr(second, name)]) for name in names}
    executed = None
    if first.executed is not None and second.executed is not None:
        executed = torch.cat([first.executed, second.executed])
    return Batch(both("observation"), **rows, next_observation=both("next_observation"), executed=executed)


class Replay:
    """A ring of the last transitions of N environments, as rows of [capacity, ...].

    Rows are written N at a time, so the next step of the same environment is N rows further on. The capacity is rounded
    down to a multiple of N.

    Args:
        shapes: `TaskSpec.observation_shapes`.
        action_dim: Number of action entries.
        num_envs: Number N of environments.
        capacity: Largest number of transitions.
        dtype: Scalar type.
        device: Training device.

    Raises:
        UsageError: There is not room for one transition of every environment.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        action_dim: int,
        *,
        num_envs: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        if capacity < num_envs:
            raise UsageError(f"a replay of {capacity} transitions has no room for {num_envs} environments; raise it")
        self.num_envs, self.capacity = num_envs, capacity - capacity % num_envs
        self.device = torch.device(device)
        self.head = 0
        self.size = 0

        def rows(*shape: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.empty((self.capacity, *shape), dtype=kind, device=self.device)

        self._columns = {f"observation/{key}": rows(*shape) for key, shape in shapes.items()}
        self._columns |= {f"next_observation/{key}": rows(*shape) for key, shape in shapes.items()}
        self._columns |= {"latent": rows(action_dim), "action": rows(action_dim), "reward": rows()}
        self._columns |= {name: rows(kind=torch.bool) for name in ("terminated", "truncated")}
        self._keys = tuple(shapes)

    def __len__(self) -> int:
        return self.size

    @torch.no_grad()
    def add(self, observation: Observation, latent: Tensor, action: Tensor, transition: Transition) -> None:
        """Stores one step of every environment, over the oldest one where the ring is full.

        Args:
            observation: What the policy saw, each [N, ...].
            latent: Shape [N, A].
            action: Shape [N, A].
            transition: What the step returned.
        """
        values = {f"observation/{key}": observation[key] for key in self._keys}
        values |= {f"next_observation/{key}": transition.final_observation[key] for key in self._keys}
        values |= {"latent": latent, "action": action, "reward": transition.reward}
        values |= {"terminated": transition.terminated, "truncated": transition.truncated}
        end = self.head + self.num_envs
        for name, value in values.items():
            self._columns[name][self.head : end] = value
        self.head = end % self.capacity
        self.size = min(self.size + self.num_envs, self.capacity)

    @torch.no_grad()
    def extend(self, columns: Mapping[str, Tensor]) -> None:
        """Stores transitions in order; where they are more than the capacity, the last ones.

        Args:
            columns: `observation/<key>`, `next_observation/<key>`, latent, action, reward, terminated, truncated, each
                with the transition first; with several environments the rows of a step follow one another.
        """
        total = len(columns["reward"])
        count = min(total, self.capacity)
        rows = (self.head + torch.arange(count, device=self.device)) % self.capacity
        for name, column in self._columns.items():
            column[rows] = columns[name][total - count :].to(column)
        self.head = (self.head + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(
        self,
        batch: int,
        *,
        gamma: float,
        generator: torch.Generator,
        n_step: int = 1,
        chunk: int = 1,
        recent: int = 0,
        recent_share: float = 0.0,
    ) -> Batch:
        """Draws transitions with replacement, uniformly, or in part from the newest ones.

        With `chunk` h, actions are the h that follow one another from any step on, whether or not they were planned
        together, the reward is their discounted sum and the discount gamma^h; where an episode ends before, both are
        those of the steps until then.

        Args:
            batch: Number B of transitions.
            gamma: Discount per control step.
            generator: Source of the draw.
            n_step: Steps whose rewards are summed; fewer where an episode ends before.
            chunk: Actions h of a chunk; not with n_step.
            recent: Number of newest transitions that the recent share is drawn from.
            recent_share: Share of the batch drawn from the newest transitions; the rest is uniform over all.

        Raises:
            ValueError: The replay holds fewer than `n_step` or `chunk` steps of every environment.
        """
        steps = max(n_step, chunk)
        usable = self.size - (steps - 1) * self.num_envs
        if usable < 1:
            raise ValueError(f"the replay holds {self.size} transitions, too few for {steps} steps")
        fresh = min(max(recent, 1), usable)
        newest = round(batch * recent_share)
        age = torch.randint(usable, (batch - newest,), generator=generator, device=self.device)
        if newest:
            late = torch.randint(usable - fresh, usable, (newest,), generator=generator, device=self.device)
            age = torch.cat([age, late])
        rows = (age + (self.head - self.size)) % self.capacity  # age 0 is the oldest
        if steps == 1:
            return self._gather(rows, gamma)
        return (
            self._gather_chunks(rows, gamma, chunk, generator) if chunk > 1 else self._gather_steps(rows, gamma, n_step)
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the stored transitions, oldest first, without the empty rows."""
        order = (torch.arange(self.size, device=self.device) + (self.head - self.size)) % self.capacity
        return {"columns": {name: column[order] for name, column in self._columns.items()}, "num_envs": self.num_envs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replaces everything stored; draws from then on are those of the replay that was saved."""
        size = len(state_dict["columns"]["reward"])
        if size > self.capacity or state_dict["num_envs"] != self.num_envs:
            raise UsageError(
                f"a replay of {size} transitions of {state_dict['num_envs']} environments does not fit one of "
                f"{self.capacity} of {self.num_envs}"
            )
        for name, column in self._columns.items():
            column[:size] = state_dict["columns"][name]
        self.size, self.head = size, size % self.capacity

    def _gather(self, rows: Tensor, gamma: float) -> Batch:
        picked = {name: column.index_select(0, rows) for name, column in self._columns.items() if name != "truncated"}
        reward = picked["reward"]
        discount = torch.full_like(reward, gamma).masked_fill_(picked["terminated"], 0.0)
        return Batch(
            {key: picked[f"observation/{key}"] for key in self._keys},
            picked["latent"],
            picked["action"],
            reward,
            discount,
            {key: picked[f"next_observation/{key}"] for key in self._keys},
        )

    def _gather_steps(self, rows: Tensor, gamma: float, steps: int) -> Batch:
        first = self._gather(rows, gamma)
        reward, discount, last = torch.zeros_like(first.reward), torch.ones_like(first.reward), rows
        for at, alive in zip(self._following(rows, steps), self._alive(rows, steps), strict=True):
            reward = reward + torch.where(alive, discount * self._columns["reward"][at], 0.0)
            last = torch.where(alive, at, last)
            discount = torch.where(alive, discount * gamma, discount)
        discount = discount.masked_fill(self._columns["terminated"][last], 0.0)
        following = {key: self._columns[f"next_observation/{key}"].index_select(0, last) for key in self._keys}
        return Batch(first.observation, first.latent, first.action, reward, discount, following)

    def _gather_chunks(self, rows: Tensor, gamma: float, length: int, generator: torch.Generator) -> Batch:
        found = self._gather_steps(rows, gamma, length)
        at, alive = torch.stack(self._following(rows, length), dim=1), torch.stack(self._alive(rows, length), dim=1)
        action, latent = self._columns["action"][at], self._columns["latent"][at]  # [B, h, A]
        executed = alive.unsqueeze(-1).expand_as(action)
        # What would have been done after an end is of no consequence: the values see it drawn at random.
        drawn = 2.0 * torch.rand(action.shape, generator=generator, dtype=action.dtype, device=self.device) - 1.0
        action = torch.where(executed, action, drawn)
        latent = torch.where(executed, latent, torch.atanh(drawn.clamp(-LATENT_BOUND, LATENT_BOUND)))
        return dataclasses.replace(
            found, latent=latent.flatten(1), action=action.flatten(1), executed=executed.flatten(1)
        )

    def _following(self, rows: Tensor, steps: int) -> list[Tensor]:
        """Returns the rows of the next steps of the same environments, the first included."""
        return [(rows + i * self.num_envs) % self.capacity for i in range(steps)]

    def _alive(self, rows: Tensor, steps: int) -> list[Tensor]:
        """Returns whether those steps are of the same episode as the first, each bool [B]."""
        alive = [torch.ones_like(rows, dtype=torch.bool)]
        for at in self._following(rows, steps)[:-1]:
            alive.append(alive[-1] & ~(self._columns["terminated"][at] | self._columns["truncated"][at]))
        return alive
