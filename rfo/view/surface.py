"""Surfaces prepared for shading: normals that respect creases, and edges rounded for the eye."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rfo.core.scene import SceneMesh

__all__ = ["bevel", "corner_normals", "face_normals", "is_closed"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Between these angles of two faces the edge turns from smooth to sharp. A ramp, not a step: a deforming body
# passes through any threshold, and a step would flicker.
_SMOOTH_BELOW = np.cos(np.radians(50.0))
_SHARP_ABOVE = np.cos(np.radians(75.0))


def face_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Returns outward normals whose length is twice the area [m^2], shape [face_count, 3]."""
    p = vertices[faces]
    return np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])


def corner_normals(mesh: SceneMesh) -> FloatArray:
    """Returns the unit normal at each corner of each face, shape [face_count, 3, 3].

    A smooth mesh averages over the faces around a vertex, weighted by area, faces beyond a crease left out.
    """
    weighted = face_normals(mesh.vertices, mesh.faces)
    unit = weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-20)
    if not mesh.smooth:
        return np.repeat(unit[:, None, :], 3, axis=1)
    corner, neighbour = _corner_neighbours(*_key(mesh.faces), len(mesh.vertices))
    cosine = np.einsum("ij,ij->i", unit[corner // 3], unit[neighbour])
    weight = np.clip((cosine - _SHARP_ABOVE) / (_SMOOTH_BELOW - _SHARP_ABOVE), 0.0, 1.0)
    total = np.stack(
        [np.bincount(corner, weight * weighted[neighbour, k], minlength=3 * len(unit)) for k in range(3)], axis=1
    )
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)
    return total.reshape(-1, 3, 3)


def is_closed(faces: IntArray) -> bool:
    """Returns whether every edge is shared by two faces of the same orientation: back faces are never seen then."""
    return _is_closed(*_key(faces))


def bevel(mesh: SceneMesh, *, levels: int = 2, passes: int = 3) -> SceneMesh:
    """Rounds the edges of a coarse mesh without moving its flat parts.

    Faces are split in four at their edges' midpoints, `levels` times; then every vertex moves half-way to the mean of
    its neighbours, `passes` times, weighted by cotangents (Pinkall and Polthier 1993). These weights vanish on the
    diagonal of a rectangle, so the result does not show how a cube's sides were cut into triangles, and they are
    continuous in the shape, so a deforming body does not flicker. The edge radius is about passes / 2^(levels + 1)
    of an edge length. Colours are interpolated along.
    """
    vertices = np.concatenate([mesh.vertices, mesh.colors], axis=1).astype(np.float64)
    faces = np.asarray(mesh.faces, dtype=np.int64)
    for _ in range(levels):
        edges, faces = _split(*_key(faces), len(vertices))
        vertices = np.concatenate([vertices, 0.5 * (vertices[edges[:, 0]] + vertices[edges[:, 1]])])
    positions = vertices[:, :3]
    if passes:
        start, end, weight = _cotangents(positions, faces)
        total = np.maximum(np.bincount(start, weight, minlength=len(positions)), 1e-12)
        for _ in range(passes):
            moves = weight[:, None] * (positions[end] - positions[start])
            mean = [np.bincount(start, moves[:, k], minlength=len(positions)) / total for k in range(3)]
            positions = positions + 0.5 * np.stack(mean, axis=1)
    return replace(mesh, vertices=positions, faces=faces, colors=vertices[:, 3:])


def _cotangents(positions: FloatArray, faces: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Returns both directions of every face's edges and half the cotangent of the angle opposite, at least 0."""
    starts, ends, weights = [], [], []
    for k in range(3):
        i, j, corner = faces[:, k], faces[:, (k + 1) % 3], faces[:, (k + 2) % 3]
        a, b = positions[i] - positions[corner], positions[j] - positions[corner]
        sine = np.linalg.norm(np.cross(a, b), axis=1)
        weight = np.clip(0.5 * np.einsum("ij,ij->i", a, b) / np.maximum(sine, 1e-20), 0.0, 10.0)
        starts += [i, j]
        ends += [j, i]
        weights += [weight, weight]
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(weights)


def _key(faces: IntArray) -> tuple[bytes, int]:
    """A film shows the same topology many times: what depends on it alone is cached under this key."""
    data = np.ascontiguousarray(faces, dtype=np.int64)
    return data.tobytes(), len(data)


def _faces(data: bytes, count: int) -> IntArray:
    return np.frombuffer(data, dtype=np.int64).reshape(count, 3)


@lru_cache(maxsize=64)
def _is_closed(data: bytes, count: int) -> bool:
    faces = _faces(data, count)
    size = int(faces.max(initial=0)) + 1
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    return bool(np.array_equal(np.sort(start * size + end), np.sort(end * size + start)))


@lru_cache(maxsize=64)
def _corner_neighbours(data: bytes, count: int, vertex_count: int) -> tuple[IntArray, IntArray]:
    """Returns all pairs of a corner and a face around the same vertex."""
    flat = _faces(data, count).ravel()
    by_vertex = np.argsort(flat, kind="stable")
    valence = np.bincount(flat, minlength=vertex_count)
    first = np.cumsum(valence) - valence
    repeats = valence[flat]
    corner = np.repeat(np.arange(len(flat)), repeats)
    within = np.arange(len(corner)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return corner, by_vertex[first[flat[corner]] + within] // 3


@lru_cache(maxsize=64)
def _split(data: bytes, count: int, vertex_count: int) -> tuple[IntArray, IntArray]:
    """Returns the edges, in the order of their midpoints appended to the vertices, and the four times as many faces."""
    faces = _faces(data, count)
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    edges, inverse = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
    a, b, c = faces.T
    ab, bc, ca = (vertex_count + inverse.reshape(-1, 3)).T
    fine = np.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], axis=1).reshape(-1, 3)
    return edges, fine
