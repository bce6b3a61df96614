from itertools import pairwise

import numpy as np
import pytest
import trimesh

from rfo.core.scene import SceneMesh
from rfo.view.fragments import merge, rasterise
from rfo.view.surface import bevel, corner_normals, is_closed


def mesh_of(shape: trimesh.Trimesh, *, smooth: bool = True) -> SceneMesh:
    """Returns a grey mesh."""
    vertices, faces = np.asarray(shape.vertices), np.asarray(shape.faces)
    return SceneMesh(vertices, faces, np.full((len(vertices), 3), 0.5), smooth)


def test_cube_keeps_its_creases() -> None:
    """Normals of a smooth cube are those of its faces: right angles are creases."""
    mesh = mesh_of(trimesh.creation.box())
    flat = corner_normals(mesh_of(trimesh.creation.box(), smooth=False))
    np.testing.assert_allclose(corner_normals(mesh), flat, atol=1e-12)


def test_sphere_normals_point_outward_smoothly() -> None:
    """Normals of a finely meshed sphere are its radii."""
    mesh = mesh_of(trimesh.creation.icosphere(subdivisions=3))
    radial = np.einsum("fcj,fcj->fc", corner_normals(mesh), mesh.vertices[mesh.faces])
    assert radial.min() > 0.999


def test_bevel_moves_edges_and_not_flats() -> None:
    """A bevelled cube stays inside the cube, keeps the middles of its sides, and loses its corners."""
    cube = trimesh.creation.box()
    mesh = bevel(mesh_of(cube.subdivide().subdivide()), levels=1, passes=2)
    assert np.abs(mesh.vertices).max() <= 0.5 + 1e-12
    middle = np.linalg.norm(mesh.vertices - [0.5, 0.0, 0.0], axis=1).min()
    corner = np.linalg.norm(mesh.vertices - [0.5, 0.5, 0.5], axis=1).min()
    assert middle < 1e-9
    assert corner > 0.01
    assert is_closed(mesh.faces)
    assert len(mesh.faces) == 4 * 16 * len(cube.faces)


def test_bevel_interpolates_colours() -> None:
    """New vertices take colours between those of the edge they split."""
    cube = mesh_of(trimesh.creation.box())
    colors = np.random.default_rng(0).uniform(size=(8, 3))
    fine = bevel(SceneMesh(cube.vertices, cube.faces, colors, True))
    assert (fine.colors >= colors.min(axis=0)).all()
    assert (fine.colors <= colors.max(axis=0)).all()
    np.testing.assert_array_equal(fine.colors[:8], colors)


def test_open_surfaces_are_not_closed() -> None:
    """A cube without one triangle, or with one turned round, is not closed."""
    faces = np.asarray(trimesh.creation.box().faces)
    turned = faces.copy()
    turned[0] = turned[0, ::-1]
    assert is_closed(faces)
    assert not is_closed(faces[1:])
    assert not is_closed(turned)


def test_neighbouring_triangles_cover_each_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fan that fills the picture covers every sample, in whatever portions the fragments are made."""
    rng = np.random.default_rng(1)
    rim = np.array([(-1, -1), (41, -1), (41, 31), (-1, 31), (-1, -1)], dtype=float)
    hub = np.array([17.3, 11.9])
    corners = np.stack([np.stack([hub, a, b]) for a, b in pairwise(rim)])
    near = rng.uniform(1.0, 2.0, (4, 3))
    whole = rasterise(corners, near, 40, 30)
    np.testing.assert_array_equal(whole.sample, np.arange(40 * 30))
    monkeypatch.setattr("rfo.view.fragments._CHUNK", 100)
    parts = rasterise(corners, near, 40, 30)
    np.testing.assert_array_equal(parts.face, whole.face)
    np.testing.assert_array_equal(parts.nearness, whole.nearness)


def brute_force(corners: np.ndarray, near: np.ndarray, width: int, height: int) -> np.ndarray:
    """Returns the nearest face at each sample, one triangle at a time, -1 for none."""
    best = np.full((height, width), -np.inf)
    face = np.full((height, width), -1)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for index, triangle in enumerate(corners):
        matrix = np.linalg.inv(np.concatenate([triangle.T, np.ones((1, 3))]))
        weights = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
        value = np.where((weights > 0).all(axis=0), np.einsum("i,ihw->hw", near[index], weights), -np.inf)
        face = np.where(value > best, index, face)
        best = np.maximum(best, value)
    return face.ravel()


def test_nearest_face_wins_at_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random intersecting triangles give the same picture as one triangle at a time, also in small portions."""
    rng = np.random.default_rng(2)
    corners, near = rng.uniform(-10, 50, (40, 3, 2)), rng.uniform(0.5, 2.0, (40, 3))
    expected = brute_force(corners, near, 40, 30)
    for chunk in (10**6, 500):
        monkeypatch.setattr("rfo.view.fragments._CHUNK", chunk)
        fragments = rasterise(corners, near, 40, 30)
        face = np.full(40 * 30, -1)
        face[fragments.sample] = fragments.face
        np.testing.assert_array_equal(face, expected)


def test_merged_samples_stand_for_all() -> None:
    """Merging leaves as much weight as there were samples, and merges inside a flat face."""
    corners = np.array([[(3.0, 3.0), (90.0, 9.0), (20.0, 80.0)]])
    fragments = rasterise(corners, np.ones((1, 3)), 90, 90)
    merged, weight = merge(fragments, np.array([[0.0, 0.0, 1.0]]), 30, 30, 3)
    assert weight.sum() == len(fragments.sample)
    assert len(merged.sample) < 0.4 * len(fragments.sample)
