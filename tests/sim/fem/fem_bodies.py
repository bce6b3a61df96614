"""Small bodies, so that every test of the engine takes a moment."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import torch

from rfo.sim.fem import FemContact, FemEngine, FemModel

DT, SUBSTEPS = 1.0 / 60.0 / 8.0, 8


def block(nx: int = 2, ny: int = 1, nz: int = 1, **changes: Any) -> FemModel:
    """A block of 0.1 m cubes, six tetrahedra each, every second one driven by one of two muscles."""
    corners = np.array(list(product(range(nx + 1), range(ny + 1), range(nz + 1))))
    index = {tuple(c): i for i, c in enumerate(corners)}
    tets = []
    for cell in product(range(nx), range(ny), range(nz)):
        for order in permutations(range(3)):
            path = [np.array(cell)]
            for axis in order:
                path.append(path[-1] + np.eye(3, dtype=int)[axis])
            if np.linalg.det(np.array(path)[1:] - path[0]) < 0:
                path[2], path[3] = path[3], path[2]
            tets.append([index[tuple(p)] for p in path])
    count = len(tets)
    ones, muscle_of = np.ones(count), np.where(np.arange(count) % 2 == 0, (np.arange(count) // 2) % 2, -1)
    fiber = np.tile([0.6, 0.8, 0.0], (count, 1))
    figures: dict[str, Any] = {
        "vertices": 0.1 * corners,
        "tets": np.array(tets),
        "mass": np.ones(len(corners)),
        "muscle_of": muscle_of,
        "fiber": fiber,
        "mu": 4e4 * ones,
        "lam": 9e4 * ones,
        "eta": 60.0 * ones,
        "strength": 2e4 * ones,
        "contact": FemContact(stiffness=6e3, damping=1.0, friction=0.8, ramp=0.001),
    }
    model = FemModel(**{**figures, **changes})
    return model if "mass" in changes else model.with_mass_from(1000.0)


def engine(model: FemModel, dtype: torch.dtype = torch.float64, **options: Any) -> FemEngine:
    """An engine on one thread with a short control step."""
    return FemEngine(model, **{"dt": DT, "substeps": SUBSTEPS, "dtype": dtype, "threads": 1, **options})


def states(
    model: FemModel, n: int, height: float, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random deformed, moving, activated states whose lowest rest point is `height` over the ground."""
    g = torch.Generator().manual_seed(seed)
    rest = torch.as_tensor(model.vertices)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x = rest + 0.006 * normal(n, *rest.shape) + torch.tensor([0.0, height, 0.0])
    v = 0.3 * normal(n, *rest.shape) + torch.tensor([0.4, -0.2, 0.1])
    muscle = 0.7 * (2.0 * torch.rand(n, model.muscle_count, generator=g, dtype=torch.float64) - 1.0)
    return x.to(dtype), v.to(dtype), muscle.to(dtype)
