"""Surfaces prepared for shading: normals that respect creases, and edges rounded for the eye."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rfo.core.scene import SceneMesh

__all__ = ["bevel", "corner_normals", "face_normals", "is_closed"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Between these angles of two faces the edge turns from smooth to sharp. A ramp, not a step: a deforming body
# passes through any threshold, and a step would flicker.
_SMOOTH_BELOW = np.cos(np.radians(35.0))
_SHARP_ABOVE = np.cos(np.radians(60.0))


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


def bevel(mesh: SceneMesh, *, flat_levels: int = 1, round_levels: int = 1) -> SceneMesh:
    """Rounds the edges of a coarse mesh without moving its flat parts.

    Faces are split at their edges' midpoints: first `flat_levels` times as they are, then `round_levels` times with
    Loop's weights (Loop 1987; Warren's vertex weights), which act within one face of the last flat level. Every face
    becomes 4^(flat_levels + round_levels) faces; colours are interpolated along. Open borders shrink slightly.
    """
    vertices = np.concatenate([mesh.vertices, mesh.colors], axis=1).astype(np.float64)
    faces = np.asarray(mesh.faces, dtype=np.int64)
    for level in range(flat_levels + round_levels):
        split = _split(*_key(faces), len(vertices))
        vertices, faces = split.refine(vertices, loop=level >= flat_levels), split.faces
    return replace(mesh, vertices=vertices[:, :3], faces=faces, colors=np.clip(vertices[:, 3:], 0.0, 1.0))


@dataclass(frozen=True)
class _Split:
    """Topology of one subdivision: unique edges [E, 2], the vertices facing them [E, 2], and the new faces."""

    edges: IntArray
    opposite: IntArray
    valence: FloatArray
    faces: IntArray

    def refine(self, vertices: FloatArray, *, loop: bool) -> FloatArray:
        """Returns the old vertices followed by one per edge."""
        ends = vertices[self.edges].sum(axis=1)
        if not loop:
            return np.concatenate([vertices, 0.5 * ends])
        middle = 0.375 * ends + 0.125 * vertices[self.opposite].sum(axis=1)
        ring = np.zeros_like(vertices)
        for k in range(vertices.shape[1]):
            for a, b in ((0, 1), (1, 0)):
                ring[:, k] += np.bincount(self.edges[:, a], vertices[self.edges[:, b], k], minlength=len(vertices))
        beta = np.where(self.valence == 3, 3.0 / 16.0, 3.0 / (8.0 * np.maximum(self.valence, 1.0)))[:, None]
        return np.concatenate([(1.0 - self.valence[:, None] * beta) * vertices + beta * ring, middle])


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
def _split(data: bytes, count: int, vertex_count: int) -> _Split:
    faces = _faces(data, count)
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    edges, inverse = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    facing = np.roll(faces, 1, axis=1).ravel()
    # First and last face at an edge; at a border both are the same, and beyond two the rest is ignored.
    opposite = np.zeros((len(edges), 2), dtype=np.int64)
    opposite[inverse, 0] = facing
    opposite[inverse[::-1], 1] = facing[::-1]
    middle = vertex_count + inverse.reshape(-1, 3)
    a, b, c = faces.T
    ab, bc, ca = middle.T
    fine = np.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], axis=1).reshape(-1, 3)
    valence = np.bincount(edges.ravel(), minlength=vertex_count).astype(np.float64)
    return _Split(edges, opposite, valence, fine)
