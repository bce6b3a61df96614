"""How tools move during a control step, in torch: gradients flow to the poses and on to the actions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["quaternion_about", "smooth_clamp", "tool_frames"]


def smooth_clamp(value: Tensor, low: Tensor, high: Tensor, width: Tensor) -> Tensor:
    """Limits `value` to [low, high] with a gradient that fades instead of ending.

    The identity inside; within a few `width` of a limit it bends, and beyond the limit the gradient falls as
    exp(-distance / width).
    """
    over = functional.softplus((value - high) / width)
    under = functional.softplus((low - value) / width)
    return value - width * (over - under)


def quaternion_about(axis: int, angle: Tensor) -> Tensor:
    """Unit quaternion (w, x, y, z) of a turn about a coordinate axis, [...] → [..., 4]."""
    parts = [torch.zeros_like(angle) for _ in range(4)]
    parts[0], parts[1 + axis] = torch.cos(0.5 * angle), torch.sin(0.5 * angle)
    return torch.stack(parts, dim=-1)


def tool_frames(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], substeps: int, dt: float) -> Tensor:
    """Frames of tools that move evenly from one pose to another.

    Args:
        start: Positions [N, tool_count, 3] [m] and unit quaternions [N, tool_count, 4] before the control step.
        end: The same after it; no tool turns by more than about half a radian.
        substeps: Number of substeps.
        dt: Substep [s].

    Returns:
        Position, quaternion, velocity [m/s] and angular velocity [rad/s] in each substep,
        [N, substeps, tool_count, 13].
    """
    (x, q), (x_end, q_end) = start, end
    share = ((torch.arange(substeps, dtype=x.dtype, device=x.device) + 0.5) / substeps)[:, None, None]
    per_second = 1.0 / (substeps * dt)
    velocity = (x_end - x) * per_second
    w, u = q[..., :1], q[..., 1:]
    w_end, u_end = q_end[..., :1], q_end[..., 1:]
    half = u_end * w - u * w_end - torch.linalg.cross(u_end, u)  # vector part of q_end q*
    squared = half.square().sum(dim=-1, keepdim=True)
    spin = (2.0 * per_second) * half * (1.0 + squared / 6.0 + 0.075 * squared.square())  # arcsin, by its series
    turning = torch.lerp(q[:, None], q_end[:, None], share)
    moving = torch.lerp(x[:, None], x_end[:, None], share)
    still = [velocity[:, None].expand_as(moving), spin[:, None].expand_as(moving)]
    return torch.cat([moving, functional.normalize(turning, dim=-1), *still], dim=-1)
