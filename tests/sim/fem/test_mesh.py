"""Bodies from surfaces: the right volume and mass, one piece, muscles where they were painted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from rfo.core.errors import UsageError
from rfo.sim.fem import FemContact
from rfo.sim.fem.mesh import SoftBody, body_from_surface, inside, painted, split_cells

CONTACT = FemContact(stiffness=1e3, damping=1.0, friction=0.5)


def halves(centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two muscles along z, left and right."""
    return (centroids[:, 0] > 0.0).astype(int), np.tile([0.0, 0.0, 1.0], (len(centroids), 1))


def test_a_ball_keeps_its_volume_and_mass() -> None:
    """An icosphere becomes tetrahedra of its volume, within what cubes can do."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    body = body_from_surface(ball, pitch=0.1, density=900.0, paint=halves)
    assert body.mass.sum() == pytest.approx(900.0 * ball.volume, rel=0.1)
    model = body.model(mu=1e4, lam=1e4, eta=1.0, strength=1e3, contact=CONTACT)
    assert model.mass.sum() == pytest.approx(900.0 * model.volumes().sum())
    radius = np.linalg.norm(body.vertices[np.unique(model.surface())], axis=1)
    assert radius.min() > 0.38
    assert radius.max() < 0.5 + 0.1 * np.sqrt(3.0) / 2.0  # half a cube's diagonal
    assert set(body.muscle_of) == {0, 1}


def test_winding_number_tells_inside_from_outside() -> None:
    """A torus: its hole is outside, its tube inside, even with a triangle missing."""
    torus = trimesh.creation.torus(1.0, 0.3)
    points = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.2, 0.0], [0.0, 1.4, 0.0], [1.0, 0.0, 0.29]])
    expected = [False, True, True, False, True]
    assert inside(torus, points).tolist() == expected
    torus.update_faces(np.arange(len(torus.faces)) > 0)
    assert inside(torus, points[:4]).tolist() == expected[:4]


def test_cells_are_filled_without_gaps() -> None:
    """Six positively oriented tetrahedra fill each cube, and neighbours share their faces."""
    cells = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    corners, tets = split_cells(cells)
    edges = corners[tets].astype(float)
    assert np.linalg.det(edges[:, 1:] - edges[:, :1]) / 6.0 == pytest.approx(np.full(24, 1.0 / 6.0))
    faces = np.sort(tets[:, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]].reshape(-1, 3), axis=1)
    _, count = np.unique(faces, axis=0, return_counts=True)
    assert (count == 1).sum() == 12 * 4 - 2 * 2 * 3  # each of three shared squares hides two triangles on both sides


def test_a_pitch_too_coarse_is_refused() -> None:
    """A body that a lattice cannot hold says so, and what to try."""
    ball = trimesh.creation.icosphere(radius=0.5)
    with pytest.raises(UsageError, match=r"try a pitch below 0\.4 m"):
        body_from_surface(ball, pitch=0.4, density=1.0, paint=halves)
    thin = trimesh.creation.box((1.0, 1.0, 0.01))
    thin.apply_translation([0.0, 0.0, 0.02])
    with pytest.raises(UsageError, match=r"more than|no cube"):
        body_from_surface(thin, pitch=0.3, density=1.0, paint=halves)


def test_pieces_are_refused() -> None:
    """Two balls that do not touch are no body."""
    balls = trimesh.util.concatenate(
        [trimesh.creation.icosphere(radius=0.3), trimesh.creation.icosphere(radius=0.3).apply_translation([1.0, 0, 0])]
    )
    with pytest.raises(UsageError, match="2 pieces"):
        body_from_surface(balls, pitch=0.1, density=1.0, paint=halves)


def test_painted_muscles_and_files(tmp_path: Path) -> None:
    """The nearest painted point decides, directions are normalised, and a saved body is read back."""
    paint = tmp_path / "paint.npz"
    np.savez(paint, points=[[-1.0, 0, 0], [1.0, 0, 0]], muscle_of=[-1, 0], fiber=[[1.0, 0, 0], [0, 2.0, 0]])
    box = trimesh.creation.box((1.0, 0.4, 0.4))
    body = body_from_surface(box, pitch=0.1, density=1000.0, paint=painted(paint), smoothing=0)
    centroids = body.vertices[body.tets].mean(axis=1)
    assert ((body.muscle_of == 0) == (centroids[:, 0] > 0)).all()
    assert np.linalg.norm(body.fiber, axis=1) == pytest.approx(np.ones(len(body.tets)))
    assert body.mass.sum() == pytest.approx(160.0)
    body.save(tmp_path / "body.npz")
    again = SoftBody.load(tmp_path / "body.npz")
    assert all((getattr(again, name) == value).all() for name, value in vars(body).items())
    with pytest.raises(UsageError, match="lacks vertices"):
        SoftBody.load(paint)


def test_flat_tetrahedra_are_named() -> None:
    """A tetrahedron without volume is refused as well as one inside out."""
    body = body_from_surface(trimesh.creation.box((1.0, 1.0, 1.0)), pitch=0.5, density=1.0, paint=halves, smoothing=0)
    vertices = body.vertices.copy()
    a, b, c, d = body.tets[7]
    vertices[a] = (vertices[b] + vertices[c] + vertices[d]) / 3.0
    flat = SoftBody(vertices, body.tets, body.mass, body.muscle_of, body.fiber)
    with pytest.raises(UsageError, match="inverted or flat"):
        flat.model(mu=1.0, lam=1.0, eta=0.0, strength=0.0, contact=CONTACT)
