"""Encoders: an observation dictionary to one feature vector, by the rank of each key.

Rank 1 keys are low-dimensional and reach an encoder as one tensor under `LOW_DIM` (see `rfo.policy.normalize`, which
joins and normalises them). Rank 2 keys are point sets [P, C]: they keep their names and are pooled, or, where a point
is always the same vertex or particle, are flattened into `LOW_DIM` as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rfo.core.errors import UsageError
from rfo.core.task import Observation

__all__ = [
    "LOW_DIM",
    "ConcatEncoder",
    "Encoder",
    "PointEncoder",
    "PointsName",
    "flat_shapes",
    "flatten_points",
    "keys_of_rank",
    "make_encoder",
    "mlp",
]

PointsName = Literal["pooled", "flat"]
"""How point sets are read: without regard to their order, or entry by entry."""

LOW_DIM = "low_dim"
"""Key under which the joined low-dimensional keys of a prepared observation stand."""


def keys_of_rank(shapes: Mapping[str, tuple[int, ...]], rank: int) -> tuple[str, ...]:
    """Returns the observation keys whose shape (without the environment dimension) has `rank` entries."""
    return tuple(key for key, shape in shapes.items() if len(shape) == rank)


def flatten_points(points: Tensor) -> Tensor:
    """Returns the mean over the points and every point's offset from it, shape [..., P, C] to [..., C + P C].

    Offsets and mean move on different scales, and only the former tell a shape.
    """
    mean = points.mean(dim=-2, keepdim=True)
    return torch.cat([mean, points - mean], dim=-2).flatten(-2)


def flat_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of an observation whose point sets went through `flatten_points`."""
    return {key: ((shape[0] + 1) * shape[1],) if len(shape) == 2 else shape for key, shape in shapes.items()}


class Encoder(nn.Module, ABC):
    """A prepared observation to features.

    Attributes:
        feature_dim: Size of the features.
    """

    feature_dim: int

    @abstractmethod
    def forward(self, observation: Observation) -> Tensor:
        """Encodes a prepared observation.

        Args:
            observation: `LOW_DIM` of shape [B, D] where there are low-dimensional keys, point sets [B, P, C].

        Returns:
            Features, shape [B, feature_dim].
        """


class ConcatEncoder(Encoder):
    """The low-dimensional keys as they are; they arrive joined, so this is the identity.

    Args:
        low_dim: Size of the joined low-dimensional keys.
    """

    def __init__(self, low_dim: int) -> None:
        super().__init__()
        self.feature_dim = low_dim

    def forward(self, observation: Observation) -> Tensor:
        """Returns the joined low-dimensional keys, shape [B, D]."""
        return observation[LOW_DIM]


class PointEncoder(Encoder):
    """Point sets by a per-point network and a mean, beside a layer for the low-dimensional keys.

    Per point 64-128-256 with LayerNorm and SiLU, mean over the points, projection to 64; joined with a layer of 128 on
    the low-dimensional keys (SAPO, arXiv 2412.12089, and its authors' code). Independent of the order of the points.

    Args:
        points: Number of channels C of each point key.
        low_dim: Size of the joined low-dimensional keys; 0 where there are none.
    """

    def __init__(self, points: Mapping[str, int], low_dim: int) -> None:
        super().__init__()
        self.keys = tuple(points)
        self.point_networks = nn.ModuleList([mlp(channels, (64, 128, 256)) for channels in points.values()])
        self.projections = nn.ModuleList([nn.Linear(256, 64) for _ in points])
        self.low_dim_network = mlp(low_dim, (128,)) if low_dim else None
        self.feature_dim = 64 * len(self.keys) + (128 if low_dim else 0)

    def forward(self, observation: Observation) -> Tensor:
        """Returns [64 per point key, 128 of the low-dimensional keys], shape [B, feature_dim]."""
        parts = [
            projection(_pool(network, observation[key]))
            for key, network, projection in zip(self.keys, self.point_networks, self.projections, strict=True)
        ]
        if self.low_dim_network is not None:
            parts.append(self.low_dim_network(observation[LOW_DIM]))
        return torch.cat(parts, dim=-1)


CACHED_ROWS = 32
"""Point sets that pass through a per-point network together on the CPU: what lies between two layers then stays in the
core's cache, which saves a quarter of the time of a large batch (measured with 204 points)."""


def _pool(network: nn.Module, points: Tensor) -> Tensor:
    """Returns the mean over the points of a network's features, [B, P, C] to [B, width]."""
    parts = (points,) if points.is_cuda else points.split(CACHED_ROWS)  # type: ignore[no-untyped-call]
    pooled = [network(part).mean(dim=-2) for part in parts]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled)


def make_encoder(shapes: Mapping[str, tuple[int, ...]]) -> Encoder:
    """Returns the encoder that suits the observation's keys.

    Args:
        shapes: `TaskSpec.observation_shapes`.

    Raises:
        UsageError: A key has a rank that no encoder reads.
    """
    low_dim = sum(shapes[key][0] for key in keys_of_rank(shapes, 1))
    points = {key: shapes[key][1] for key in keys_of_rank(shapes, 2)}
    for key, shape in shapes.items():
        if len(shape) not in (1, 2):
            raise UsageError(
                f"observation {key!r} has shape {shape}: encoders read low-dimensional (D,) and point (P, C) keys; "
                "leave it out of TaskSpec.observation_shapes"
            )
    if not low_dim and not points:
        raise UsageError("TaskSpec.observation_shapes is empty: a policy needs at least one key")
    return PointEncoder(points, low_dim) if points else ConcatEncoder(low_dim)


def mlp(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Returns linear layers of the given widths, each followed by LayerNorm and SiLU."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.SiLU()]
        inputs = width
    return nn.Sequential(*layers)
