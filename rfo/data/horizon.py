"""An on-policy window: H control steps of N environments, with the graph kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rfo.core.shell import VectorEnv
from rfo.core.task import Observation

__all__ = [
    "EpisodeReturns",
    "Sampler",
    "Window",
    "collect_window",
    "flatten_batch",
    "limit_gradient",
    "select_rows",
]

Sampler = Callable[[Observation, int, Tensor | None], tuple[Tensor, Tensor]]
"""Maps an observation, the step's place t in the window, and where an episode ended just before it (None at t = 0) to a
latent and an action, each of shape [N, A]."""


@dataclass(frozen=True)
class Window:
    """H steps of N environments.

    Attributes:
        observation: What the policy saw, as the task gave it, without graph, each [H, N, ...].
        final_observation: After each step and before any reset, with graph, each [H, N, ...].
        reward: With graph, shape [H, N].
        terminated: Bool [H, N].
        truncated: Bool [H, N].
        latent: Latent actions without graph, shape [H, N, A].
    """

    observation: Observation
    final_observation: Observation
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    latent: Tensor

    @property
    def done(self) -> Tensor:
        """Where an episode ended, bool [H, N]."""
        return self.terminated | self.truncated

    def bootstrap_rows(self) -> Tensor:
        """Returns where a value closes a segment: at time limits and the window's end, never at termination.

        Returns:
            Indices into the flattened [H, N], shape [R].
        """
        closing = self.truncated.clone()
        closing[-1] = True
        return (closing & ~self.terminated).flatten().nonzero().squeeze(1)


def collect_window(
    env: VectorEnv, sampler: Sampler, horizon: int, *, action_gradient_limit: float | None = None
) -> Window:
    """Runs `horizon` control steps, cutting the gradient before the first and at resets only.

    Args:
        env: The environments; continues where they stand.
        sampler: Draws the actions.
        horizon: Number H of control steps.
        action_gradient_limit: See `limit_gradient`; None leaves the gradient as it is.
    """
    observation = env.begin_window()
    seen, transitions, latents = [], [], []
    ended: Tensor | None = None
    for t in range(horizon):
        latent, action = sampler(observation, t, ended)
        transition = env.step(limit_gradient(action, action_gradient_limit))
        seen.append({key: value.detach() for key, value in observation.items()})
        latents.append(latent.detach())
        transitions.append(transition)
        observation, ended = transition.observation, transition.done
    return Window(
        observation=_stack(seen),
        final_observation=_stack([transition.final_observation for transition in transitions]),
        reward=torch.stack([transition.reward for transition in transitions]),
        terminated=torch.stack([transition.terminated for transition in transitions]),
        truncated=torch.stack([transition.truncated for transition in transitions]),
        latent=torch.stack(latents),
    )


def limit_gradient(action: Tensor, limit: float | None) -> Tensor:
    """Returns the action, whose gradient from what follows is shortened where it is an outlier among environments.

    One with a gradient many times that of its neighbours would decide alone where a whole batch goes.

    Args:
        action: Shape [N, A].
        limit: Longest gradient of one environment, in medians over those that have one; None for no limit.
    """
    if limit is None:
        return action
    limited: Tensor = _LimitedGradient.apply(action, limit)  # type: ignore[no-untyped-call]
    return limited


class _LimitedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, action: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return action.view_as(action)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        length = gradient.norm(dim=-1, keepdim=True)
        longest = ctx.limit * length.masked_fill(length == 0, torch.nan).nanmedian()
        # What is not a number is longer than nothing, and so stays what it is.
        return gradient * torch.where(length > longest, longest / length, 1.0), None


def flatten_batch(observation: Observation) -> Observation:
    """Merges the first two dimensions of every key, [H, N, ...] to [H N, ...]."""
    return {key: value.flatten(0, 1) for key, value in observation.items()}


def select_rows(observation: Observation, rows: Tensor) -> Observation:
    """Picks rows of every key's first dimension."""
    return {key: value.index_select(0, rows) for key, value in observation.items()}


class EpisodeReturns:
    """Sums rewards over windows and reports the return of each episode that ends.

    Args:
        n: Number of environments.
        device: Device of the sums.
        dtype: Scalar type of the sums.
    """

    def __init__(self, n: int, *, device: torch.device, dtype: torch.dtype) -> None:
        self.running = torch.zeros(n, device=device, dtype=dtype)

    @torch.no_grad()
    def update(self, window: Window) -> Tensor:
        """Adds a window and returns the undiscounted returns of the episodes that ended in it, shape [E]."""
        reward, done = window.reward.detach(), window.done
        if not bool(done.any()):
            self.running = self.running + reward.sum(dim=0)
            return reward.new_zeros(0)
        finished = []
        for t in range(reward.shape[0]):
            self.running = self.running + reward[t]
            finished.append(self.running[done[t]])
            self.running = self.running.masked_fill(done[t], 0.0)
        return torch.cat(finished)


def _stack(observations: Sequence[Observation]) -> Observation:
    return {key: torch.stack([observation[key] for observation in observations]) for key in observations[0]}
