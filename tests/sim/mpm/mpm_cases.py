"""The small block of matter that the tests of the MPM engine work on."""

from __future__ import annotations

import math
from typing import Any

import mpm_reference as reference
import torch
from torch import Tensor

from rfo.sim.mpm import (
    Material,
    MpmEngine,
    MpmModel,
    MpmState,
    capsule,
    corotated,
    lattice,
    neo_hookean,
    plasticine,
    sand,
    water,
)

COUNTS, SIZE = (6, 5, 6), (0.1, 0.08, 0.1)
MATERIALS = {
    "plasticine": plasticine(5000.0, 0.2, 50.0),
    "water": water(1000.0, 0.3),
    "corotated": corotated(5000.0, 0.2),
    "neo_hookean": neo_hookean(5000.0, 0.2),
    "sand": sand(5000.0, 0.2, 0.5),
}
STRESS = {
    "plasticine": reference.plasticine_stress,
    "water": reference.water_stress,
    "corotated": reference.corotated_stress,
    "neo_hookean": reference.neo_hookean_stress,
}


def make(
    material: Material,
    *,
    tool: bool = False,
    substeps: int = 20,
    dt: float = 5e-5,
    gravity: float = -90.0,
    dtype: torch.dtype = torch.float64,
    threads: int = 1,
    model: dict[str, Any] | None = None,
    **options: Any,
) -> MpmEngine:
    """An engine for a block of 180 particles in a small domain; `model` replaces figures of its model."""
    points = lattice(COUNTS, SIZE)
    figures: dict[str, Any] = {
        "density": 1.0,
        "spacing": 1 / 48,
        "nodes": (20, 16, 20),
        "tool_friction": 0.9,
        "gravity": gravity,
        "tools": (capsule(0.03, 0.1),) if tool else (),
        **(model or {}),
    }
    world = MpmModel(len(points), math.prod(SIZE) / len(points), material=material, **figures)
    return MpmEngine(world, dt=dt, substeps=substeps, dtype=dtype, threads=threads, **options)


def disturbed(engine: MpmEngine, *, lift: float = 0.0, speed: float = 0.5, n: int = 1) -> MpmState:
    """Matter with random velocities and velocity gradients."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator, dtype=torch.float64)

    points = torch.as_tensor(lattice(COUNTS, SIZE)) + torch.tensor([0.0, lift, 0.0])
    count = len(points)
    state = engine.at_rest((points + 1e-3 * normal(count, 3)).to(engine.dtype))
    return state._replace(
        v=(speed * normal(count, 3)).to(engine.dtype), c=(40.0 * speed * normal(count, 3, 3)).to(engine.dtype)
    )


def frames(engine: MpmEngine, n: int = 1) -> Tensor:
    """A capsule that presses into the block, turned about y and rolling."""
    result = torch.zeros(n, engine.substeps, 1, 13, dtype=torch.float64)
    for s in range(engine.substeps):
        t = engine.dt * s
        row = [0.01 + 0.4 * t, 0.1 - 0.3 * t, 0.0, math.cos(0.1), 0, math.sin(0.1), 0, 0.4, -0.3, 0.1, 0, 0, 3.0]
        result[:, s, 0] = torch.tensor(row, dtype=torch.float64)
    return result.to(engine.dtype)
