"""The tetrahedron's law: forces are the energy's gradient, and respect the symmetries of space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fem_bodies import block
from law_runner import run_law

from rfo.sim.fem.laws import ACTIVATIONS, tetrahedron_law
from rfo.sim.fem.material import MATERIALS
from rfo.sim.fem.model import FemModel

N = 3


def forces(model: FemModel, x: np.ndarray, v: np.ndarray, muscle: np.ndarray) -> np.ndarray:
    """Forces on every vertex [N], shape [n, V, 3]."""
    law = tetrahedron_law(model.energy, model.activation, model.damping)
    passive = np.concatenate([muscle, np.zeros((len(x), 1))], axis=1)
    values = {"x": x, "v": v, "muscle": passive[..., None], **model.constants()}
    values["tets"] = model.tets
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
