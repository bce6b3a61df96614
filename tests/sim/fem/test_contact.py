"""Grounds and obstacles: distances, normals, responses, and gradients through all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fem_bodies import block, engine, states
from law_runner import directional_error, run_law
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.fem import Box, Capsule, HeightField, Plane, Sphere, Terrain
from rfo.sim.fem.laws import vertex_law
from rfo.sim.fem.material import MATERIALS
from rfo.sim.kernel import Fixed, Item, Law, Table
from rfo.sim.trace import exp, sin

HEIGHTS = 0.06 * np.random.default_rng(0).standard_normal((7, 6))
GROUNDS: dict[str, Any] = {
    "plane": Plane(),
    "slope": Plane((0.2, 1.0, -0.1), -0.005),
    "terrain": Terrain(lambda x, z: 0.03 * sin(9.0 * x) * exp(-z) + 0.02 * z),
    "height field": HeightField(HEIGHTS, 0.13, (-0.3, -0.25)),
}
SHAPES: dict[str, Any] = {
    "sphere": Sphere(0.15),
    "capsule": Capsule(0.08, 0.2),
    "box": Box((0.2, 0.1, 0.15), 0.03),
}


def surface_law(ground: Any) -> Law:
    """Distance and normal at a point."""

    def function(x: Any, mark: Any, heights: Any = None) -> dict[str, Any]:
        distance, normal = ground.surface(x, heights)
        return {"distance": distance + 0.0 * mark, "normal": normal}

    inputs = {"x": Item((3,)), "mark": Fixed()}
    if isinstance(ground, HeightField):
        inputs["heights"] = Table()
    return Law("surface", function, inputs, {"distance": Item(), "normal": Item((3,))})


def shape_law(shape: Any) -> Law:
    """Distance in the shape's frame."""
    return Law("shape", lambda x: {"d": shape.distance(x)}, {"x": Item((3,))}, {"d": Item()})


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_normals_are_unit_and_point_out_of_the_ground(ground: Any) -> None:
    """A small move along the normal raises the distance by its length."""
    x = np.random.default_rng(1).uniform(-0.25, 0.35, (9, 50, 3))
    x[..., 1] *= 0.02
    values = {"x": x, "mark": np.zeros(50), "heights": HEIGHTS}
    here = run_law(surface_law(ground), values, {"distance": (50,), "normal": (50, 3)})
    there = run_law(
        surface_law(ground), {**values, "x": x + 1e-6 * here["normal"]}, {"distance": (50,), "normal": (50, 3)}
    )
    assert np.abs(np.linalg.norm(here["normal"], axis=-1) - 1.0).max() < 1e-12
    slope = (there["distance"] - here["distance"]) / 1e-6
    assert np.abs(slope - 1.0).max() < 0.1  # the tangent plane moves along; a curved ground changes it a little


def test_height_field_reproduces_planes_and_smooths_the_rest() -> None:
    """B-splines reproduce linear heights exactly inside the grid, and stay level beyond its rim."""
    i, k = np.meshgrid(np.arange(8), np.arange(7), indexing="ij")
    field = HeightField(0.05 * i - 0.02 * k, 0.5, (1.0, -2.0))
    x = np.random.default_rng(2).uniform(0.0, 1.0, (4, 60, 3)) * [2.4, 0.0, 1.9] + [1.5, 0.4, -1.5]
    shapes = {"distance": (60,), "normal": (60, 3)}
    found = run_law(surface_law(field), {"x": x, "mark": np.zeros(60), "heights": field.heights}, shapes)
    plane = 0.1 * (x[..., 0] - 1.0) - 0.04 * (x[..., 2] + 2.0)
    cosine = 1.0 / np.sqrt(1.0 + 0.1**2 + 0.04**2)
    assert np.abs(found["distance"] - (0.4 - plane) * cosine).max() < 1e-12
    outside = x + np.array([100.0, 0.0, 100.0])
    found = run_law(surface_law(field), {"x": outside, "mark": np.zeros(60), "heights": field.heights}, shapes)
    assert np.abs(found["normal"] - [0.0, 1.0, 0.0]).max() < 1e-12


def test_a_height_field_too_small_is_refused() -> None:
    """Bicubic patches take four heights each way."""
    with pytest.raises(UsageError, match="at least 4 x 4"):
        HeightField(np.zeros((3, 9)), 0.1)


def test_distances_of_shapes() -> None:
    """Signed distances at points where they are known."""
    cases = [
        (Sphere(0.5), [0.0, 0.0, 2.0], 1.5),
        (Sphere(0.5), [0.3, 0.0, 0.0], -0.2),
        (Capsule(0.2, 1.0), [0.5, 0.7, 0.0], 0.3),
        (Capsule(0.2, 1.0), [0.0, 1.5, 0.0], 0.3),
        (Box((1.0, 0.5, 0.5), 0.01), [1.3, 0.1, 0.2], 0.3),
        (Box((1.0, 0.5, 0.5), 0.01), [0.9, 0.0, 0.0], -0.1),
        (Box((1.0, 0.5, 0.5), 1e-4), [1.3, 0.9, 0.5], 0.5),
    ]
    for shape, point, distance in cases:
        found = run_law(shape_law(shape), {"x": np.array(point)[None, None]}, {"d": (1,)})["d"]
        assert found[0, 0] == pytest.approx(distance, abs=1e-4)


def weighted(sim: Any) -> Any:
    """A smooth scalar of two steps' results."""
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(2, *sim.inputs["x"], generator=g, dtype=torch.float64)

    def total(x: Tensor, v: Tensor, muscle: Tensor, obstacles: Tensor | None = None) -> Tensor:
        for _ in range(2):
            x, v = sim.step(x, v, muscle, obstacles=obstacles)
        return (weights[0] * x).sum() + 0.1 * (weights[1] * v).sum()

    return total


def velocity_after(ramp: float, height: np.ndarray, speed: np.ndarray, **figures: Any) -> np.ndarray:
    """Velocity after a substep of vertices at a height over the plane that rise at a speed, shape [K, 3]."""
    count = len(height)
    x, v = np.zeros((1, count, 3)), np.zeros((1, count, 3))
    x[..., 1], v[..., 1], v[..., 0] = height, speed, 0.2
    values = {"x": x, "v": v, "f": np.zeros_like(x), "mass": np.ones(count), "dt": np.array([1e-6])}
    values |= {"gravity": np.zeros(3), "contact": np.array([1e3, 0.0, 0.0, 0.05]), **figures}
    return run_law(vertex_law(ramp=ramp), values, {"x_next": (count, 3), "v_next": (count, 3)})["v_next"][0]


def test_a_ramp_sets_in_gently() -> None:
    """With a ramp the spring sets in with zero slope and is a shifted line beyond it."""
    depth = np.array([-0.01, 0.0, 1e-5, 0.005, 0.01, 0.02])
    force = velocity_after(0.01, -depth, 0.0 * depth)[:, 1] / 1e-6
    assert force == pytest.approx([0.0, 0.0, 1e3 * 1e-10 / 0.02, 1.25, 5.0, 15.0], abs=1e-9)


def test_the_map_has_a_continuous_derivative() -> None:
    """Across touch-down, the end of the ramp, and the speed past which a spring cannot follow, slopes do not jump."""
    figures = {"dt": np.array([1e-3]), "contact": np.array([1e3, 1.0, 0.9, 0.05])}
    h = 1e-6
    # The ramp is 10 mm, damping ends at a separation of 1 m/s. Along a line in (height, speed) through each place.
    for height, speed in ((0.0, -0.5), (-0.01, -0.5), (-0.02, 1.0), (-0.005, 1.0)):
        along = h * np.arange(-2.0, 3.0)
        v = velocity_after(0.01, height + 0.01 * along, speed + along, **figures)
        slopes = np.diff(v, axis=0) / h
        assert np.abs(slopes[2:] - slopes[:2]).max() < 1e-3 * h / 1e-6, (height, speed)


def test_contact_never_pulls() -> None:
    """However fast a vertex leaves, its normal velocity only grows, and never by more than a vertex at rest gains."""
    speed = np.linspace(-3.0, 8.0, 100)
    figures = {"dt": np.array([1e-3]), "contact": np.array([1e3, 1.0, 0.0, 0.05])}
    v = velocity_after(0.0, np.full(100, -0.02), speed, **figures)[:, 1]
    assert (v > speed).all()
    assert (np.diff(v) > 0.0).all() and (np.diff(v) <= np.diff(speed)).all()  # a contraction


def pose(n: int) -> Tensor:
    """Obstacles near the block's side, turned and moving, shape [n, 1, 13]."""
    g = torch.Generator().manual_seed(4)
    base = torch.tensor([0.05, 0.96, 0.05, 0.8, 0.3, -0.4, 0.2, 0.3, 0.5, -0.2, 1.0, -2.0, 1.5], dtype=torch.float64)
    return base + 0.01 * torch.randn(n, 1, 13, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("activation", ["fiber", "volumetric"])
@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("surface", [*GROUNDS, *SHAPES])
def test_gradient_on_every_surface(surface: str, material: str, activation: Any) -> None:
    """Two steps in float64: 1e-6 of differences in the air, 1e-4 in contact; for obstacles to their pose as well."""
    ground = GROUNDS.get(surface, Plane())
    obstacles = (SHAPES[surface],) if surface in SHAPES else ()
    model = block(ground=ground, obstacles=obstacles, material=material, activation=activation)
    sim, free = engine(model), engine(replace(model, ground=Plane(offset=-9.0), obstacles=()))
    for contact, limit in ((False, 1e-6), (True, 1e-4)):
        inputs = states(model, 3, 0.0 if contact and not obstacles else 1.0)
        poses = (pose(3) + torch.tensor([0.0 if contact else 2.0, *12 * [0.0]]),) if obstacles else ()
        moved, _ = sim.step(*inputs, obstacles=poses[0] if poses else None)
        assert (float((moved - free.step(*inputs)[0]).abs().max()) > 1e-4) == contact
        assert directional_error(weighted(sim), (*inputs, *poses), 1e-7, trials=2) < limit


def test_an_obstacle_pushes_and_carries() -> None:
    """A ball moving sideways under the body pushes it up and drags it along."""
    sim = engine(block(gravity=0.0, obstacles=(Sphere(1.0),)))
    x = torch.as_tensor(sim.model.vertices)[None] + torch.tensor([-0.1, 0.995, -0.05], dtype=torch.float64)
    obstacle = torch.zeros(1, 13, dtype=torch.float64)
    obstacle[0, 3], obstacle[0, 7] = 1.0, 2.0
    _, v = sim.step(x, torch.zeros_like(x), torch.zeros(1, 2, dtype=torch.float64), obstacles=obstacle)
    assert float(v[..., 1].mean()) > 0.0
    assert float(v[..., 0].mean()) > 0.0


def test_missing_obstacles_are_named() -> None:
    """A body with obstacles cannot step without their poses."""
    sim = engine(block(obstacles=(Sphere(1.0),)))
    with pytest.raises(UsageError, match="takes x, v, muscle, obstacles"):
        sim.step(*states(sim.model, 1, 1.0))


def test_friction_stops_a_slow_body_and_not_more() -> None:
    """Friction never turns a velocity around."""
    law = vertex_law()
    rng = np.random.default_rng(5)
    v = rng.standard_normal((8, 30, 3))
    x = -0.05 * rng.random((8, 30, 3))
    values = {
        "x": x,
        "v": v,
        "f": np.zeros_like(v),
        "mass": np.full(30, 0.05),
        "dt": np.array([1e-3]),
        "gravity": np.zeros(3),
        "contact": np.array([1e5, 1.0, 5.0, 0.05]),
    }
    after = run_law(law, values, {"x_next": (30, 3), "v_next": (30, 3)})["v_next"]
    tangential = [0, 2]
    assert (after[..., tangential] * v[..., tangential] >= 0.0).all()
    assert (np.abs(after[..., tangential]) <= np.abs(v[..., tangential])).all()
