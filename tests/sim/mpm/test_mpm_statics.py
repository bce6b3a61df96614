"""Columns at rest: the weight that each height carries, and how far an elastic column settles, against closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rfo.sim.mpm import Ground, Material, MpmEngine, MpmModel, MpmState, lattice, neo_hookean, water

Floats = NDArray[np.float64]
DENSITY, GRAVITY = 1000.0, -9.81
WALL = 1.5  # spacings by which matter passes a domain's first free node before it stops (see `MpmModel.margin`)


def column(material: Material, stiffness: float, cells: int, height: int, *, room: float, spacing: float) -> MpmEngine:
    """A frictionless domain for a column of so many cells, with `room` free cells on each side."""
    volume = (0.5 * spacing) ** 3  # two particles per cell and axis
    wide = cells + round(2 * room) + 7
    model = MpmModel(
        (2 * cells) ** 2 * 2 * height,
        volume,
        DENSITY,
        material,
        spacing,
        (wide, height + 10, wide),
        gravity=GRAVITY,
        ground=Ground(friction=0.0),
    )
    dt = 0.25 * spacing / math.sqrt(stiffness / DENSITY)
    return MpmEngine(model, dt=dt, substeps=40, dtype=torch.float64, threads=1)


def settled(engine: MpmEngine, x: Floats, rounds: int) -> MpmState:
    """The state of rest below undeformed matter at `x`, found by taking motion out after every control step."""
    state = engine.at_rest(torch.as_tensor(x)[None])
    for _ in range(rounds):
        state = engine.step(state)
        state = state._replace(v=0.6 * state.v, c=0.6 * state.c)
    return state


def spline(y: Floats, nodes: Floats, spacing: float) -> tuple[Floats, Floats]:
    """Quadratic B-splines around nodes, and their derivatives, [len(y), len(nodes)]."""
    r = (y[:, None] - nodes) / spacing
    near, far = np.abs(r) < 0.5, np.abs(r) < 1.5
    value = np.where(near, 0.75 - r * r, np.where(far, 0.5 * (1.5 - np.abs(r)) ** 2, 0.0))
    slope = np.where(near, -2.0 * r, np.where(far, -np.sign(r) * (1.5 - np.abs(r)), 0.0))
    return value, slope / spacing


def test_water_at_rest_carries_the_weight_above() -> None:
    """In a full vessel at rest every level carries the weight of what lies over it, and the gradient is rho g."""
    spacing, cells, height = 1.0 / 48.0, 4, 12
    material = water(1e5, 0.3)
    lam = material.parameters["lam"]
    # The vessel is filled up to its walls: a column that leaves the walls' layers empty spreads into them.
    full = cells + round(2 * WALL)
    engine = column(material, lam, full, height, room=-WALL, spacing=spacing)
    model = engine.model
    points = lattice((2 * full, 2 * height, 2 * full), (full * spacing, height * spacing, full * spacing))
    points -= [0.0, WALL * spacing, 0.0]
    state = settled(engine, points, 40)
    assert float(state.v.abs().max()) < 1e-3 * math.sqrt(-GRAVITY * height * spacing)
    # Weak form: a level is a test function that rises from 0 to 1 over two cells, from the first free node on. What
    # single particles carry scatters more: of their pressures a grid feels only averages.
    assert model.origin is not None
    nodes = model.origin[1] + spacing * np.arange(model.nodes[1])
    value, slope = spline(state.x[0, :, 1].numpy(), nodes, spacing)
    swell = state.s[0, :, 0].numpy()
    pressure = -lam * (1.0 + swell) * swell
    forces, weights = [], []
    for level in range(8):
        rising = np.clip((nodes - level * spacing) / (2.0 * spacing), 0.0, 1.0)
        forces.append(float((model.volume * pressure * (slope @ rising)).sum()))
        weights.append(float((-GRAVITY * model.mass * (value @ rising)).sum()))
    assert forces == pytest.approx(weights, rel=0.01)
    # Pressure gradient over the middle: force over area against depth.
    depths = np.arange(len(forces)) * spacing
    gradient = -np.polyfit(depths, np.array(forces) / (full * spacing) ** 2, 1)[0]
    lost = (points[:, 1].max() - points[:, 1].min()) / float(np.ptp(state.x[0, :, 1].numpy()))
    assert gradient == pytest.approx(-DENSITY * GRAVITY * lost, rel=0.02)


def test_an_elastic_column_settles_as_a_bar_does() -> None:
    """u(y) = -(rho g / E) (H y - y^2 / 2) for a slender column on a smooth floor, at first order in the spacing."""
    tall, strain = 0.24, 0.004
    young = -DENSITY * GRAVITY * tall / strain
    material = neo_hookean(young, 0.2)
    mu, lam = material.parameters.values()
    errors = []
    for height in (6, 12, 24):
        cells, spacing = height // 3, tall / height
        engine = column(material, lam + 2.0 * mu, cells, height, room=3, spacing=spacing)
        points = lattice((2 * cells, 2 * height, 2 * cells), (cells * spacing, tall, cells * spacing))
        y = points[:, 1].copy()
        state = settled(engine, points - [0.0, WALL * spacing, 0.0], 3 * height)
        exact = DENSITY * GRAVITY / young * (tall * y - 0.5 * y * y)
        found = state.x[0, :, 1].numpy() + WALL * spacing - y
        errors.append(float(np.abs(found - exact).max() / np.abs(exact).max()))
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[-1] < 0.04, errors
    assert min(orders) > 0.9, orders
