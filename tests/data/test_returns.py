"""Returns of a window."""

from __future__ import annotations

import torch
from torch import Tensor

from rfo.data.returns import discount_weights, surrogate_return, td_lambda

GAMMA = 0.9


def _window(seed: int, horizon: int = 9, n: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reward = torch.randn(horizon, n, generator=generator, dtype=torch.float64)
    value = torch.randn(horizon, n, generator=generator, dtype=torch.float64)
    draw = torch.rand(horizon, n, generator=generator)
    return reward, value, draw < 0.15, (draw >= 0.15) & (draw < 0.3)


def _plain(reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, lam: float) -> Tensor:
    horizon, n = reward.shape
    result = torch.zeros_like(reward)
    for i in range(n):
        for t in reversed(range(horizon)):
            after = 0.0 if terminated[t, i] else float(value[t, i])
            if terminated[t, i] or truncated[t, i] or t == horizon - 1:
                result[t, i] = float(reward[t, i]) + GAMMA * after
            else:
                result[t, i] = float(reward[t, i]) + GAMMA * ((1 - lam) * after + lam * float(result[t + 1, i]))
    return result


def test_equals_the_plain_recursion() -> None:
    """The batched form is the backward recursion, with terminations and time limits anywhere."""
    for lam in (0.0, 0.3, 0.95, 1.0):
        window = _window(1)
        torch.testing.assert_close(td_lambda(*window, gamma=GAMMA, lam=lam), _plain(*window, lam))


def test_limits_of_lambda() -> None:
    """Lambda 0 is one step; lambda 1 without ends is the discounted sum and the last value."""
    reward, value, _, _ = _window(2)
    never = torch.zeros_like(reward, dtype=torch.bool)
    torch.testing.assert_close(td_lambda(reward, value, never, never, gamma=GAMMA, lam=0.0), reward + GAMMA * value)
    weights = GAMMA ** torch.arange(len(reward), dtype=torch.float64)[:, None]
    whole = (weights * reward).sum(dim=0) + GAMMA ** len(reward) * value[-1]
    torch.testing.assert_close(td_lambda(reward, value, never, never, gamma=GAMMA, lam=1.0)[0], whole)


def test_surrogate_return_is_the_sum_over_segments() -> None:
    """Discounts begin anew after an end, and a value closes each segment that did not terminate."""
    reward, value, terminated, truncated = _window(3)
    horizon, n = reward.shape
    expected = 0.0
    for i in range(n):
        power = 1.0
        for t in range(horizon):
            expected += power * float(reward[t, i])
            power *= GAMMA
            ends = bool(terminated[t, i] or truncated[t, i]) or t == horizon - 1
            if ends:
                expected += 0.0 if terminated[t, i] else power * float(value[t, i])
                power = 1.0
    closing = truncated.clone()
    closing[-1] = True
    rows = (closing & ~terminated).flatten().nonzero().squeeze(1)
    weights = discount_weights(terminated | truncated, gamma=GAMMA, dtype=torch.float64)
    result = surrogate_return(reward, weights, rows, value.flatten()[rows], gamma=GAMMA)
    torch.testing.assert_close(float(result), expected / (n * horizon))
