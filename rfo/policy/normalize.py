"""Running mean and standard deviation of the low-dimensional observations, frozen while a window lasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfo.core.task import Observation
from rfo.policy.encoders import LOW_DIM, PointsName, flat_shapes, flatten_points, keys_of_rank

__all__ = ["Normalization", "RunningNormalizer"]


@dataclass(frozen=True)
class Normalization:
    """Statistics as they stood at one moment; turns a task's observation into what encoders read.

    Attributes:
        keys: Low-dimensional keys, in the order in which they are joined; among them flattened point sets.
        flat: Those of them that are point sets.
        mean: Shape [D].
        inverse_std: Shape [D].
        clip: Largest magnitude of a normalised entry; the gradient beyond it is zero.
    """

    keys: tuple[str, ...]
    flat: frozenset[str]
    mean: Tensor
    inverse_std: Tensor
    clip: float

    def __call__(self, observation: Observation) -> Observation:
        """Joins and normalises the low-dimensional keys (any leading dimensions); passes the others on."""
        prepared = {key: value for key, value in observation.items() if key not in self.keys}
        if self.keys:
            joined = _join(observation, self.keys, self.flat)
            prepared[LOW_DIM] = ((joined - self.mean) * self.inverse_std).clamp(-self.clip, self.clip)
        return prepared


class RunningNormalizer(nn.Module):
    """Running statistics over everything seen, merged a batch at a time (Chan, Golub and LeVeque, 1983).

    Kept in float64 whatever the learner uses. Before the first batch the normalisation is the identity, but for the
    clip.

    Args:
        shapes: `TaskSpec.observation_shapes`.
        points: "pooled" leaves point sets alone; "flat" makes them low-dimensional keys.
        dtype: Scalar type of the snapshots.
        device: Device of the statistics.
        std_floor: Smallest standard deviation divided by: entries that hardly move are not blown up.
        clip: Largest magnitude of a normalised entry.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        points: PointsName = "pooled",
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        std_floor: float = 0.01,
        clip: float = 10.0,
    ) -> None:
        super().__init__()
        self.flat = frozenset(keys_of_rank(shapes, 2) if points == "flat" else ())
        if self.flat:
            shapes = flat_shapes(shapes)
        self.keys = keys_of_rank(shapes, 1)
        self.dtype, self.std_floor, self.clip = dtype, std_floor, clip
        dim = sum(shapes[key][0] for key in self.keys)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64, device=device))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64, device=device))
        self.register_buffer("squares", torch.zeros(dim, dtype=torch.float64, device=device))

    @torch.no_grad()
    def update(self, observation: Observation) -> None:
        """Merges a batch into the statistics.

        Args:
            observation: Low-dimensional keys of shape [..., D], and flat point sets [..., P, C]; every leading
                dimension is batch.
        """
        if not self.keys:
            return
        batch = _join(observation, self.keys, self.flat).detach().to(torch.float64).flatten(0, -2)
        count = batch.shape[0]
        mean = batch.mean(dim=0)
        delta, total = mean - self.mean, self.count + count
        self.squares += (batch - mean).square().sum(dim=0) + delta.square() * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count += count

    @torch.no_grad()
    def snapshot(self) -> Normalization:
        """Returns the statistics of now; later updates do not change it."""
        variance = torch.where(self.count > 0, self.squares / self.count.clamp(min=1.0), 1.0)
        std = variance.sqrt().clamp(min=self.std_floor)
        mean, inverse_std = self.mean.to(self.dtype, copy=True), std.reciprocal().to(self.dtype)
        return Normalization(self.keys, self.flat, mean, inverse_std, self.clip)


def _join(observation: Observation, keys: tuple[str, ...], flat: frozenset[str]) -> Tensor:
    parts = [flatten_points(observation[key]) if key in flat else observation[key] for key in keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
