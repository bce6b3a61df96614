"""Bodies cut finer are the same bodies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rfo.core.shell import VectorEnv
from rfo.sim.fem.mesh import SoftBody
from rfo_envs.assets import asset_path
from rfo_envs.fem.quadruped import SoftQuadruped
from rfo_envs.fem.refine import refine


@pytest.fixture(scope="module")
def whole() -> SoftBody:
    """The published body."""
    return SoftBody.load(asset_path("bodies/soft_quadruped.npz"))


def _volumes(body: SoftBody) -> np.ndarray:
    corners = body.vertices[body.tets]
    return np.linalg.det(corners[:, 1:] - corners[:, :1]) / 6.0


def test_one_cut_changes_nothing(whole: SoftBody) -> None:
    """The same vertices, tetrahedra, masses and muscles."""
    same = refine(whole, 0.2, (1, 1, 1))
    for name, value in vars(whole).items():
        assert getattr(same, name) == pytest.approx(value)


def test_shape_mass_and_muscles_stay(whole: SoftBody) -> None:
    """Twelve times the tetrahedra fill the same volume with the same mass; every muscle keeps about its share."""
    fine = refine(whole, 0.2, (3, 2, 2))
    assert len(fine.tets) == 12 * len(whole.tets)
    assert fine.vertices.min(axis=0) == pytest.approx(whole.vertices.min(axis=0))
    assert fine.vertices.max(axis=0) == pytest.approx(whole.vertices.max(axis=0))
    assert _volumes(fine).sum() == pytest.approx(_volumes(whole).sum())
    assert _volumes(fine).min() > 0
    assert fine.mass.sum() == pytest.approx(whole.mass.sum())
    assert np.unique(fine.muscle_of).tolist() == np.unique(whole.muscle_of).tolist()


def test_finer_tasks_run(whole: SoftBody) -> None:
    """The task on a finer body observes its vertices and stays finite under random actions."""
    tasks = SoftQuadruped.refinements()
    assert min(tasks) == 444 and max(tasks) > 20_000
    task = tasks[888](threads=1)
    env = VectorEnv(task, 2)
    generator = torch.Generator().manual_seed(0)
    env.reset()
    with torch.no_grad():
        for _ in range(20):
            seen = env.step(2.0 * torch.rand(2, 222, generator=generator) - 1.0).observation
    assert seen["points"].shape == (2, *task.spec.observation_shapes["points"])
