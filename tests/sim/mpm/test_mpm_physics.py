"""Physics of the MPM engine against an independent reference and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpm_reference as reference
import numpy as np
import pytest
import torch
from mpm_cases import COUNTS, MATERIALS, SIZE, STRESS, disturbed, frames, make
from numpy.typing import NDArray
from torch import Tensor

from rfo.sim.mpm import Ground, MpmState, lattice, plasticine, sand


@pytest.mark.parametrize("name", STRESS)
def test_matches_a_reference_with_singular_values(name: str) -> None:
    """Twenty substeps with tool and ground equal a NumPy implementation that keeps F and decomposes it."""
    material = MATERIALS[name]
    engine = make(material, tool=True)
    state, tools = disturbed(engine), frames(engine)
    found = engine.step(state, tools)

    def stress_of(f: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return STRESS[name](f, *material.parameters.values())

    x, v, c = (tensor[0].numpy().copy() for tensor in state[:3])
    f = np.ones(len(x)) if name == "water" else np.tile(np.eye(3), (len(x), 1, 1))
    for s in range(engine.substeps):
        move = reference.node_move(engine.model, engine.dt, tools[0, s, 0].numpy())
        x, v, c, f = reference.substep(x, v, c, f, engine.model, engine.dt, stress_of, move)
    assert np.abs(found.x[0].numpy() - x).max() < 1e-9
    assert np.abs(found.v[0].numpy() - v).max() < 1e-7 * np.abs(v).max()


@pytest.mark.parametrize("name", MATERIALS)
def test_momentum_is_conserved(name: str) -> None:
    """Without contact linear momentum changes by gravity alone and angular momentum about the centre not at all."""
    engine = make(MATERIALS[name], gravity=-9.81)
    state = disturbed(engine, lift=0.05)
    after = engine.step(state)
    time = engine.dt * engine.substeps
    change = (after.v - state.v).mean(dim=1)[0]
    assert torch.allclose(change, torch.tensor([0.0, -9.81 * time, 0.0], dtype=torch.float64), atol=1e-12)

    def spin(s: MpmState) -> Tensor:
        arm = s.x - s.x.mean(dim=1, keepdim=True)
        axial = torch.stack(
            [s.c[..., 2, 1] - s.c[..., 1, 2], s.c[..., 0, 2] - s.c[..., 2, 0], s.c[..., 1, 0] - s.c[..., 0, 1]], dim=-1
        )
        affine = 0.25 * engine.model.spacing**2 * axial
        return (torch.linalg.cross(arm, s.v) + affine).mean(dim=1)

    size = torch.linalg.cross(state.x, state.v).abs().mean()
    assert (spin(after) - spin(state)).abs().max() < 1e-6 * size


def test_free_fall() -> None:
    """Undeformed matter falls as a point does, to round-off of the sum of substeps."""
    engine = make(MATERIALS["corotated"], gravity=-9.81)
    state = engine.at_rest(torch.as_tensor(lattice(COUNTS, SIZE))[None] + torch.tensor([0.0, 0.05, 0.0]))
    after = engine.step(state)
    n, dt = engine.substeps, engine.dt
    fallen = -9.81 * dt * dt * n * (n + 1) / 2  # semi-implicit Euler
    assert torch.allclose(after.x - state.x, torch.tensor([0.0, fallen, 0.0], dtype=torch.float64), atol=1e-12)


def test_mass_on_the_grid_is_exact() -> None:
    """The grid carries the particles' mass, whatever their places."""
    engine = make(MATERIALS["water"], store="control")
    state = disturbed(engine, lift=0.03)
    engine.step(state)
    workspace = next(iter(engine._simulation._cores.values()))[0].transient.workspace
    (grid,) = workspace._grids
    touched = grid["quads"].numpy()[0, : grid["box"].numpy()[0, 6]]
    nodes = grid["grid"].numpy()[0].reshape(-1, 4, 4)[touched]
    assert nodes[:, :, 3].sum() == pytest.approx(engine.model.mass * engine.model.particle_count, rel=1e-13)


@pytest.mark.parametrize("name", ["corotated", "neo_hookean"])
def test_stress_is_the_derivative_of_an_energy(name: str) -> None:
    """Along a path of deformations the stress power adds up to the change of the energy density."""
    material = MATERIALS[name]
    mu, lam = material.parameters.values()
    generator = np.random.default_rng(0)
    direction = 0.3 * generator.standard_normal((3, 3))

    def energy(f: NDArray[np.float64]) -> float:
        j = np.linalg.det(f)
        if name == "neo_hookean":
            return float(0.5 * mu * ((f * f).sum() - 3.0) - mu * np.log(j) + 0.5 * lam * np.log(j) ** 2)
        sigma = np.linalg.svd(f)[1]
        return float(mu * ((sigma - 1.0) ** 2).sum() + 0.5 * lam * (j - 1.0) ** 2)

    f, state, work, steps = np.eye(3), np.array(material.rest), 0.0, 2000
    for _ in range(steps):
        rate = direction / steps @ np.linalg.inv(f)
        response = material.update(0.5 * rate, state, (mu, lam))  # stress at the middle of the step
        tau = np.array([[response.stress[i] for i in row] for row in ([0, 3, 5], [3, 1, 4], [5, 4, 2])])
        middle = f + 0.5 * direction / steps
        work += (tau * (direction / steps @ np.linalg.inv(middle))).sum()
        state = material.update(rate, state, (mu, lam)).state
        f = f + direction / steps
    assert work == pytest.approx(energy(f), rel=1e-5)


def test_plasticine_keeps_its_yield_limit() -> None:
    """After a strong shear the deviatoric Hencky strain lies on the yield surface."""
    material = MATERIALS["plasticine"]
    shear = np.zeros((3, 3))
    shear[0, 1] = 1e-3
    state = np.zeros(6)
    for _ in range(40):
        state = material.update(shear, state, list(material.parameters.values())).state
    xx, yy, xy, yz, xz = state[:5]
    norm = np.sqrt(xx**2 + yy**2 + (xx + yy) ** 2 + 2 * (xy**2 + yz**2 + xz**2))
    assert norm == pytest.approx(50.0 / (2.0 * material.parameters["mu"]), rel=1e-9)


@pytest.mark.parametrize(("reach", "tolerance"), [(0.05, 2e-12), (0.1, 3e-10), (0.2, 7e-8)])
def test_series_against_eigenvalues(reach: float, tolerance: float) -> None:
    """Up to their limit the series are the matrix exponential and logarithm but for the truncation they admit."""
    material, generator = plasticine(5000.0, 0.2, 1e9), np.random.default_rng(5)

    def function(matrix: NDArray[np.float64], of: Callable[[Any], Any]) -> NDArray[np.float64]:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * of(values)) @ vectors.T

    for spread in (1.0, -1.0, 0.5):  # eigenvalues 1, 1, -2 and signs reversed, where truncation is largest, and others
        turn = np.linalg.qr(generator.standard_normal((3, 3)))[0]
        strain = turn @ np.diag([1.0, spread, -1.0 - spread] if spread > 0 else [-1.0, -1.0, 2.0]) @ turn.T
        rate = 0.1 * generator.standard_normal((3, 3))
        low, high = 0.0, 1.0
        for _ in range(60):  # scaled until the law finds itself where it is to be tested
            scale = 0.5 * (low + high)
            s = scale * strain
            state = np.array([s[0, 0], s[1, 1], s[0, 1], s[1, 2], s[0, 2], 0.0])
            response = material.update(scale * rate, state, list(material.parameters.values()))
            low, high = (scale, high) if response.reach < reach else (low, scale)
        assert response.reach == pytest.approx(reach, rel=1e-9)
        moved = np.eye(3) + scale * rate
        exact = 0.5 * function(moved @ function(2.0 * s, np.exp) @ moved.T, np.log)
        deviator = exact - np.trace(exact) / 3.0 * np.eye(3)
        xx, yy, xy, yz, xz, log_j = response.state
        found = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, -xx - yy]])
        assert np.linalg.norm(found - deviator) < tolerance * np.linalg.norm(deviator)
        assert log_j == pytest.approx(np.log(np.linalg.det(moved)), rel=2e-8)


def test_a_block_of_sand_spreads_and_comes_to_rest() -> None:
    """A column of sand without cohesion collapses, and rests on the ground afterwards."""
    engine = make(sand(2e4, 0.2, 0.5), substeps=100, dt=5e-5, gravity=-90.0, model={"ground": Ground(0.5)})
    state = engine.at_rest(torch.as_tensor(lattice(COUNTS, SIZE))[None])
    wide = float(state.x[..., 0].max())
    for _ in range(20):
        state = engine.step(state)
    assert float(state.x[..., 0].max()) > wide + 0.01
    assert float(state.x[..., 1].mean()) < 0.75 * 0.5 * SIZE[1]
    assert float(state.v.norm(dim=-1).mean()) < 0.1


def test_state_is_a_tuple_of_tensors() -> None:
    """A step keeps shapes and does not write into its inputs."""
    engine = make(MATERIALS["water"])
    state = disturbed(engine, lift=0.05, n=3)
    before = [tensor.clone() for tensor in state]
    after = engine.step(state)
    assert isinstance(after, MpmState)
    assert [t.shape for t in after] == [t.shape for t in state]
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
