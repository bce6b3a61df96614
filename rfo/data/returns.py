"""Returns of a window: TD(lambda) for the critic, the discounted surrogate for the actor."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["discount_weights", "surrogate_return", "td_lambda"]


@torch.no_grad()
def td_lambda(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lam: float,
    starts: Tensor | None = None,
) -> Tensor:
    """Returns TD(lambda) targets by the backward recursion of SHAC (arXiv 2204.07137).

    G_t = r_t + gamma [(1 - lambda) V_{t+1} + lambda G_{t+1}] within an episode, and G_t = r_t + gamma V_{t+1} where an
    episode or the window ends; V_{t+1} is the value of the observation before any reset, zero at termination.

    With `starts`, the recursion is that of the chunks between them: lambda weighs values at starts only, and each
    target at a start is the TD(lambda) target of a step that lasts as long as its chunk.

    Args:
        reward: Shape [H, N].
        next_value: Value of the final observation of every step, shape [H, N].
        terminated: The episode failed or finished for good, bool [H, N].
        truncated: The time limit was reached, bool [H, N].
        gamma: Discount per control step.
        lam: Weight of longer returns; 0 gives one-step targets, 1 the discounted sum of rewards.
        starts: Where a chunk begins, bool [H, N]; None where every step is one.

    Returns:
        Targets, shape [H, N].
    """
    next_value = next_value.masked_fill(terminated, 0.0)
    one_step = reward + gamma * next_value
    done = terminated | truncated
    targets = torch.empty_like(one_step)
    targets[-1] = one_step[-1]

    def weight(t: int) -> float | Tensor:
        if starts is None:
            return gamma * lam
        return torch.full_like(reward[t], gamma).masked_fill(starts[t], gamma * lam)

    # r + gamma [(1 - lambda) V + lambda G] = (r + gamma V) + gamma lambda (G - V)
    for t in range(reward.shape[0] - 2, -1, -1):
        correction = weight(t + 1) * (targets[t + 1] - next_value[t])
        targets[t] = one_step[t] + correction.masked_fill(done[t], 0.0)
    return targets


@torch.no_grad()
def discount_weights(done: Tensor, *, gamma: float, dtype: torch.dtype) -> Tensor:
    """Returns gamma^i with i the number of steps since the segment began, which is the window's start or a reset.

    Args:
        done: Where an episode ended, bool [H, N].
        gamma: Discount per control step.
        dtype: Scalar type of the result.

    Returns:
        Shape [H, N].
    """
    weights = torch.ones(done.shape, dtype=dtype, device=done.device)
    for t in range(1, done.shape[0]):
        weights[t] = (gamma * weights[t - 1]).masked_fill(done[t - 1], 1.0)
    return weights


def surrogate_return(reward: Tensor, weights: Tensor, rows: Tensor, bootstrap_value: Tensor, *, gamma: float) -> Tensor:
    """Returns (1 / (N H)) sum over segments of [sum_i gamma^i r_i + gamma^length V(s_end)] (SHAC, Eq. 5).

    Args:
        reward: With its graph, shape [H, N].
        weights: From `discount_weights`, shape [H, N].
        rows: Steps whose final observation closes a segment alive, as indices into the flattened [H, N], shape [R].
        bootstrap_value: Value of those final observations, with its graph, shape [R].
        gamma: Discount per control step.

    Returns:
        The return, a scalar.
    """
    closing = gamma * weights.flatten()[rows]
    total: Tensor = (weights * reward).sum() + (closing * bootstrap_value).sum()
    return total / reward.numel()
