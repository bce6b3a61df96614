"""The tetrahedron's law: forces are the energy's gradient, and respect the symmetries of space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fem_bodies import block
from law_runner import run_law

from rfo.sim.fem.laws import tetrahedron_law
from rfo.sim.fem.model import FemModel

N = 3


def forces(model: FemModel, x: np.ndarray, v: np.ndarray, muscle: np.ndarray) -> np.ndarray:
    """Forces on every vertex [N], shape [n, V, 3]."""
    law = tetrahedron_law(model.energy, model.activation, model.damping)
    passive = np.concatenate([muscle, np.zeros((len(x), 1))], axis=1)
    values = {"x": x, "v": v, "muscle": passive[..., None], **model.constants()}
    return run_law(law, values, {"f": model.vertices.shape})["f"]


def energy(model: FemModel, x: np.ndarray) -> np.ndarray:
    """Elastic energy [J] from the deformation gradients, shape [n]."""
    corners = x[:, model.tets]
    deformed = np.swapaxes(corners[:, :, 1:] - corners[:, :, :1], 2, 3)
    rest = np.swapaxes(model.edges(), 1, 2)
    f = deformed @ np.linalg.inv(rest)
    density = np.array(
        [[float(_density(model, f[n, t], t)) for t in range(len(model.tets))] for n in range(len(x))], dtype=float
    )
    return density @ model.volumes()


def _density(model: FemModel, f: np.ndarray, t: int) -> Any:
    return model.energy(np.trace(f.T @ f), np.linalg.det(f), model.mu[t], model.lam[t])


def moved(model: FemModel, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random deformed states."""
    rng = np.random.default_rng(seed)
    shape = (N, *model.vertices.shape)
    return (
        model.vertices + 0.01 * rng.standard_normal(shape),
        rng.standard_normal(shape),
        rng.uniform(-1, 1, (N, model.muscle_count)),
    )


def rotation(seed: int) -> np.ndarray:
    """A random rotation matrix."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def test_elastic_force_is_the_energy_gradient() -> None:
    """f = -dE/dx for the passive, undamped body, by differences of an energy computed from F directly."""
    model = block(eta=np.zeros(12))
    x, _, muscle = moved(model)
    direction = np.random.default_rng(1).standard_normal(x.shape)
    step = 1e-6
    slope = (energy(model, x + step * direction) - energy(model, x - step * direction)) / (2.0 * step)
    work = (forces(model, x, 0.0 * x, 0.0 * muscle) * direction).sum(axis=(1, 2))
    assert work == pytest.approx(-slope, rel=1e-7)


def test_no_force_at_rest_or_after_a_rigid_motion() -> None:
    """The undeformed body, turned and shifted, feels no elastic force."""
    model = block()
    x = np.stack([model.vertices @ rotation(seed).T + [0.1, seed, 0.3] for seed in range(N)])
    scale = np.abs(forces(model, moved(model)[0], 0.0 * x, np.zeros((N, 2)))).max()
    assert np.abs(forces(model, x, 0.0 * x, np.zeros((N, 2)))).max() < 1e-11 * scale


@pytest.mark.parametrize(("damping", "indifferent"), [("objective", True), ("viscous", False)])
def test_damping_under_rotation(damping: Any, indifferent: bool) -> None:
    """Objective damping ignores a turning body; viscous damping brakes it."""
    model = block(damping=damping)
    turn = rotation(3)
    x = np.stack([model.vertices @ turn.T] * N)
    v = np.cross(np.array([1.0, -2.0, 0.5]), x) + [0.3, 0.0, 0.1]
    found = np.abs(forces(model, x, v, np.zeros((N, 2)))).max()
    squashed = np.abs(forces(model, x, -x, np.zeros((N, 2)))).max()
    assert (found < 1e-11 * squashed) == indifferent


@pytest.mark.parametrize("damping", ["objective", "viscous"])
def test_damping_takes_energy(damping: Any) -> None:
    """Damping does negative work on any deformation rate."""
    model = block(damping=damping)
    x, v, muscle = moved(model)
    power = ((forces(model, x, v, 0.0 * muscle) - forces(model, x, 0.0 * v, 0.0 * muscle)) * v).sum(axis=(1, 2))
    assert (power < 0.0).all()


@pytest.mark.parametrize("activation", ["fiber", "volumetric"])
def test_internal_forces_and_moments_vanish(activation: Any) -> None:
    """Elastic, damping and muscle forces add up to nothing, and so do their moments."""
    model = block(activation=activation)
    x, v, muscle = moved(model)
    f = forces(model, x, v, muscle)
    assert np.abs(f.sum(axis=1)).max() < 1e-11 * np.abs(f).max()
    assert np.abs(np.cross(x, f).sum(axis=1)).max() < 1e-11 * np.abs(f).max()


def test_a_contracting_fibre_pulls_its_ends_together() -> None:
    """Positive activation shortens the body along its fibre."""
    model = block(fiber=np.tile([1.0, 0.0, 0.0], (12, 1)), eta=np.zeros(12))
    rest = np.stack([model.vertices] * N)
    f = forces(model, rest, 0.0 * rest, np.ones((N, 2)))
    assert ((f[..., 0] * (model.vertices[:, 0] - 0.1)).sum(axis=1) < 0.0).all()
