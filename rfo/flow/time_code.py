"""The flow time as a vector: sines and cosines of geometrically spaced frequencies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TimeCode"]


class TimeCode(nn.Module):
    """u in [0, 1] to sines and cosines of `dim / 2` frequencies between `lowest` and `highest`.

    Args:
        dim: Size of the code, even; 32 in the released code of SAC Flow.
        lowest: Lowest frequency [rad per unit of flow time].
        highest: Highest frequency [rad per unit of flow time].
    """

    frequencies: Tensor

    def __init__(self, dim: int = 32, *, lowest: float = 1.0, highest: float = 100.0) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"dim must be an even number of at least 2, got {dim}")
        self.dim = dim
        spaced = torch.logspace(0.0, 1.0, dim // 2, base=highest / lowest)
        self.register_buffer("frequencies", lowest * spaced, persistent=False)
        # A flow asks for the same few numbers at every call.
        self._known: dict[tuple[float, torch.device, torch.dtype], Tensor] = {}

    def forward(self, u: float | Tensor) -> Tensor:
        """Returns the code, shape [1, dim] for a number and [B, dim] for u of shape [B, 1]."""
        if isinstance(u, Tensor):
            return self._code(u)
        key = (u, self.frequencies.device, self.frequencies.dtype)
        if key not in self._known:
            self._known[key] = self._code(self.frequencies.new_full((1, 1), u))
        return self._known[key]

    def _code(self, u: Tensor) -> Tensor:
        angle = self.frequencies * u
        return torch.cat([angle.sin(), angle.cos()], dim=-1)
