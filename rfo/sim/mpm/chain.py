"""Where the links of an articulated tool are, in torch: a tree of hinges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Chain", "Hinge", "multiply", "rotate"]


@dataclass(frozen=True)
class Hinge:
    """A hinge, and the frame that turns with it.

    Attributes:
        parent: Number of the hinge that carries this one, smaller than its own; -1 for the base.
        offset: Place in the parent's frame [m].
        axis: Unit axis in the parent's frame.
        low: Smallest angle [rad].
        high: Largest angle [rad].
    """

    parent: int
    offset: tuple[float, float, float]
    axis: tuple[float, float, float]
    low: float
    high: float


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Product of quaternions (w, x, y, z), [..., 4]."""
    w, u, w_b, u_b = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    scalar = w * w_b - (u * u_b).sum(dim=-1, keepdim=True)
    return torch.cat([scalar, w * u_b + w_b * u + torch.linalg.cross(u.expand_as(u_b), u_b)], dim=-1)


def rotate(q: Tensor, v: Tensor) -> Tensor:
    """Vectors [..., 3] turned by unit quaternions [..., 4]."""
    w, u = q[..., :1], q[..., 1:]
    u = u + torch.zeros_like(v)
    twice = 2.0 * torch.linalg.cross(u, v + torch.zeros_like(u))
    turned: Tensor = v + w * twice + torch.linalg.cross(u, twice)
    return turned


class Chain:
    """Forward kinematics, level by level of the tree: a few operations whatever the number of hinges.

    Args:
        hinges: Parents before children.
        base: Position of the base [m]; it does not turn.
        like: Tensor whose dtype and device the chain takes.
    """

    def __init__(self, hinges: Sequence[Hinge], base: tuple[float, float, float], like: Tensor) -> None:
        depth: list[int] = []
        for hinge in hinges:
            depth.append(0 if hinge.parent < 0 else depth[hinge.parent] + 1)
        self._levels = [[i for i, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]
        self._parents = [hinge.parent for hinge in hinges]
        self._offset = like.new_tensor([hinge.offset for hinge in hinges])
        self._axis = like.new_tensor([hinge.axis for hinge in hinges])
        self._base = like.new_tensor(base)
        self.low, self.high = (like.new_tensor([getattr(hinge, key) for hinge in hinges]) for key in ("low", "high"))

    def __call__(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [N, hinge_count, 3] and unit quaternions [N, hinge_count, 4] of the hinges' frames."""
        half = 0.5 * angles
        own = torch.cat([half.cos()[..., None], half.sin()[..., None] * self._axis], dim=-1)
        positions: dict[int, Tensor] = {}
        turns: dict[int, Tensor] = {}
        for level in self._levels:
            if self._parents[level[0]] < 0:
                x = (self._base + self._offset[level]).expand(len(angles), -1, -1)
                q = own[:, level]
            else:
                q_parent = torch.stack([turns[self._parents[i]] for i in level], dim=1)
                x_parent = torch.stack([positions[self._parents[i]] for i in level], dim=1)
                x = x_parent + rotate(q_parent, self._offset[level])
                q = multiply(q_parent, own[:, level])
            positions |= dict(zip(level, x.unbind(dim=1), strict=True))
            turns |= dict(zip(level, q.unbind(dim=1), strict=True))
        count = range(len(self._parents))
        return torch.stack([positions[i] for i in count], dim=1), torch.stack([turns[i] for i in count], dim=1)
