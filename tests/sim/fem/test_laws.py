"""The tetrahedron's law: forces are the energy's gradient, and respect the symmetries of space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fem_bodies import block
from law_runner import run_law

from rfo.core.errors import UsageError
from rfo.sim.fem.laws import tetrahedron_law
from rfo.sim.fem.material import MATERIALS, Strain, stretch_trace
from rfo.sim.fem.model import FemModel
from rfo.sim.trace import log

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
    c = f.T @ f
    return model.energy(Strain(np.trace(c), np.trace(c @ c), np.linalg.det(f), f), model.mu[t], model.lam[t])


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


def general(strain: Strain, mu: Any, lam: Any) -> Any:
    """An energy of the deformation gradient itself: compressible neo-Hookean, its C from F."""
    i_c = (strain.f * strain.f).sum()
    return 0.5 * mu * (i_c - 3.0 - 2.0 * log(strain.j)) + 0.5 * lam * log(strain.j) * log(strain.j)


ENERGIES = pytest.mark.parametrize("material", [*MATERIALS, general])


@ENERGIES
def test_elastic_force_is_the_energy_gradient(material: Any) -> None:
    """F = -dE/dx for the passive, undamped body, by differences of an energy computed from F directly."""
    model = block(eta=np.zeros(12), material=material)
    x, _, muscle = moved(model)
    direction = np.random.default_rng(1).standard_normal(x.shape)
    step = 1e-6
    slope = (energy(model, x + step * direction) - energy(model, x - step * direction)) / (2.0 * step)
    work = (forces(model, x, 0.0 * x, 0.0 * muscle) * direction).sum(axis=(1, 2))
    assert work == pytest.approx(-slope, rel=1e-7)


@ENERGIES
def test_no_force_at_rest_or_after_a_rigid_motion(material: Any) -> None:
    """The undeformed body, turned and shifted, feels no elastic force."""
    model = block(material=material)
    x = np.stack([model.vertices @ rotation(seed).T + [0.1, seed, 0.3] for seed in range(N)])
    scale = np.abs(forces(model, moved(model)[0], 0.0 * x, np.zeros((N, 2)))).max()
    assert np.abs(forces(model, x, 0.0 * x, np.zeros((N, 2)))).max() < 1e-11 * scale


@pytest.mark.parametrize(("damping", "indifferent"), [("objective", True), ("viscous", False)])
def test_damping_under_rotation(damping: Any, indifferent: bool) -> None:
    """Objective damping ignores a turning body; viscous damping brakes it."""
    model = block(damping=damping)
    turn = rotation(3)
    x = np.stack([model.vertices @ turn.T] * N)
    v = np.cross(np.array([1.0, -2.0, 0.5]), x) + np.array([0.3, 0.0, 0.1])
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


@ENERGIES
def test_all_materials_agree_on_small_strains(material: Any) -> None:
    """Every law linearises to the same Lamé parameters, but for stable neo-Hookean's own definition of them."""
    if material == "stable-neo-hookean":
        pytest.skip("its mu and lambda are not Lamé's: mu (1 - 1/4) and lambda + ... at rest")
    x = np.stack([block().vertices] * N) + 1e-6 * np.random.default_rng(5).standard_normal((N, *block().vertices.shape))
    still = 0.0 * x, np.zeros((N, 2))
    found, reference = (forces(block(material=m), x, *still) for m in (material, "st-venant-kirchhoff"))
    assert np.abs(found - reference).max() < 1e-3 * np.abs(reference).max()


def test_stretch_trace_equals_the_polar_decomposition() -> None:
    """Tr S from the invariants is the sum of signed singular values, far from rest and inverted as well."""
    rng = np.random.default_rng(6)
    for _ in range(200):
        f = np.eye(3) + 0.35 * rng.standard_normal((3, 3))
        sigma = np.linalg.svd(f, compute_uv=False) * [1.0, 1.0, np.sign(np.linalg.det(f))]
        if sigma[1] + sigma[2] < 0.2:
            continue  # near where no rotation is nearest
        c = f.T @ f
        assert stretch_trace(Strain(np.trace(c), np.trace(c @ c), np.linalg.det(f), f)) == pytest.approx(sigma.sum())


def test_an_unknown_material_is_named() -> None:
    """A misspelt material says what was meant."""
    with pytest.raises(UsageError, match="did you mean 'corotated'"):
        _ = block(material="corotatd").energy
