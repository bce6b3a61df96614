"""Conditional flow matching: pull a velocity field towards carrying noise to given targets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rfo.flow.velocity import Velocity

__all__ = ["Reduction", "conditional_flow_matching"]

Reduction = Literal["mean", "sum"]
"""How the squared error is reduced over the action entries; over the batch it is always the mean."""


def conditional_flow_matching(
    velocity: Velocity,
    target: Tensor,
    *,
    generator: torch.Generator,
    reduction: Reduction = "mean",
    counts: Tensor | None = None,
    source_std: float = 1.0,
) -> Tensor:
    """Returns E |v(z, u | s) - (y - e)|^2 with e ~ N(0, source_std^2 I), u ~ U(0, 1), z = (1 - u) e + u y.

    The straight-path loss of flow matching (Lipman et al., arXiv 2210.02747); the two regularisers of RFO
    (arXiv 2602.03501) are this loss with different targets.

    Args:
        velocity: The field, bound to its observations.
        target: y in the space the flow lives in (before the tanh), shape [B, A]. No gradient flows into it.
        generator: Source of e and u.
        reduction: Mean or sum over A.
        counts: Which entries of the target count, bool [B, A]; all of them where None. The mean is over those.
        source_std: Standard deviation of e, what the flow carries at u = 0.

    Returns:
        The loss, a scalar.
    """
    target = target.detach()
    like = {"dtype": target.dtype, "device": target.device}
    noise = source_std * torch.randn(target.shape, generator=generator, **like)  # type: ignore[call-overload]
    u = torch.rand(target.shape[0], 1, generator=generator, **like)  # type: ignore[call-overload]
    error = velocity(torch.lerp(noise, target, u), u) - (target - noise)
    squared = error.square()
    if counts is not None:
        squared = squared * counts * (1.0 if reduction == "sum" else counts.numel() / counts.sum())
    loss: Tensor = squared.mean() if reduction == "mean" else squared.sum(dim=-1).mean()
    return loss
