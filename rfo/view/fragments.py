"""Triangles to fragments: which face is seen at each sample of a picture.

All triangles are processed together: first every (triangle, row) pair becomes a span of columns, then all spans become
one flat array of fragments, of which the nearest at each sample is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Fragments", "face_planes", "front", "frontmost", "merge", "rasterise", "signed_areas"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Fragments held at a time (about 50 bytes each): large triangles close to the camera cover every sample many times.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Fragments:
    """The visible samples of a picture.

    Attributes:
        sample: Flat index of each covered sample (row x width + column), shape [P].
        face: Face seen there, shape [P].
        nearness: The interpolated quantity that decided, shape [P].
    """

    sample: IntArray
    face: IntArray
    nearness: SingleArray

    def where(self, part: npt.NDArray[np.bool_]) -> Fragments:
        """Some of them, bool [P]."""
        return Fragments(self.sample[part], self.face[part], self.nearness[part])


def signed_areas(corners: FloatArray) -> FloatArray:
    """Returns twice the area of triangles in the plane, negative where clockwise with y up, shape [F].

    Args:
        corners: Coordinates, shape [F, 3, 2].
    """
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def face_planes(corners: FloatArray, values: FloatArray) -> FloatArray:
    """Returns value at corner 0 and its x and y slopes for quantities that are linear over each triangle.

    Args:
        corners: Coordinates in the plane, shape [F, 3, 2].
        values: Quantities at the corners, shape [F, 3, A].

    Returns:
        Shape [3, A, F]: value at corner 0, slope along x, slope along y.
    """
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = signed_areas(corners)
    area = np.where(area == 0.0, 1.0, area)[:, None]
    u, v = values[:, 1] - values[:, 0], values[:, 2] - values[:, 0]
    along_x = (u * b[:, 1:] - v * a[:, 1:]) / area
    along_y = (v * a[:, :1] - u * b[:, :1]) / area
    return np.asarray(np.stack([values[:, 0], along_x, along_y]).transpose(0, 2, 1))


def rasterise(corners: FloatArray, nearness: FloatArray, width: int, height: int) -> Fragments:
    """Finds the face with the largest `nearness` at each sample.

    Args:
        corners: Coordinates, x right and y down in samples, shape [F, 3, 2]; sample (i, j) lies at (j + .5, i + .5).
        nearness: A quantity linear over the picture, larger in front (the inverse depth), shape [F, 3].
        width: Samples per row.
        height: Rows.
    """
    # Far faces first: assignment in order then settles almost every sample at once.
    order = np.argsort(nearness.mean(axis=1), kind="stable")
    order = order[signed_areas(corners[order]) != 0.0]
    corners, nearness = corners[order], nearness[order]
    face, row, begin, count = _spans(corners, width, height)
    plane = face_planes(corners, nearness[:, :, None])[:, 0, :]
    slope = plane[1][face]
    start = plane[0][face] + slope * (begin + 0.5 - corners[face, 0, 0])
    start += plane[2][face] * (row + 0.5 - corners[face, 0, 1])
    first = row * width + begin
    total = np.cumsum(count)
    seen = Fragments(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    low = 0
    while low < len(count):
        # As many spans as fit in the memory allowed, and at least one.
        done = int(total[low - 1]) if low else 0
        high = max(int(np.searchsorted(total, done + _CHUNK, side="right")), low + 1)
        part = slice(low, high)
        sample, near, span = _fill(first[part], count[part], start[part], slope[part])
        kept = _nearest(sample, near, width * height)
        found = Fragments(sample[kept], order[face[low + span[kept]]], near[kept])
        seen = front(seen, found, width * height) if low else found
        low = high
    return seen


def front(a: Fragments, b: Fragments, size: int) -> Fragments:
    """Returns what is in front of two sets of fragments of the same picture of `size` samples."""
    sample, near = np.concatenate([a.sample, b.sample]), np.concatenate([a.nearness, b.nearness])
    return frontmost(sample, np.concatenate([a.face, b.face]), near, size)


def frontmost(sample: IntArray, face: IntArray, nearness: SingleArray, size: int) -> Fragments:
    """Returns the nearest of all fragments at each sample of a picture of `size` samples."""
    kept = _nearest(sample, nearness, size)
    return Fragments(sample[kept], face[kept], nearness[kept])


def _fill(
    first: IntArray, count: IntArray, start: FloatArray, slope: FloatArray
) -> tuple[IntArray, SingleArray, IntArray]:
    """Expands spans to fragments: their samples, nearness and spans, each of shape [sum of count]."""
    span = np.repeat(np.arange(len(count)), count)
    offset = np.arange(len(span)) - (np.cumsum(count) - count)[span]
    near = slope.astype(np.float32)[span] * offset.astype(np.float32)
    near += start.astype(np.float32)[span]
    return first[span] + offset, near, span


def merge(fragments: Fragments, normals: FloatArray, columns: int, rows: int, n: int) -> tuple[Fragments, IntArray]:
    """Keeps one sample of each pixel whose n x n samples look alike: those need to be lit only once.

    Alike: all covered, face normals within 18 degrees and depths within 2 % of the middle sample's.

    Args:
        fragments: Of a picture of `columns * n` times `rows * n` samples.
        normals: Unit normal of each face, shape [F, 3].
        columns: Pixels per row.
        rows: Rows of pixels.
        n: Samples per pixel along each axis.

    Returns:
        The remaining fragments, and for how many samples each of them stands.
    """
    index = np.full(rows * n * columns * n, -1, dtype=np.int32)
    index[fragments.sample] = np.arange(len(fragments.sample), dtype=np.int32)
    # One row per place in the pixel, the middle one apart.
    grid = index.reshape(rows, n, columns, n).transpose(1, 3, 0, 2).reshape(n * n, rows * columns)
    middle = grid[(n // 2) * (n + 1)]
    pixel = np.flatnonzero((grid >= 0).all(axis=0))
    for other in grid:
        a, b = other[pixel], middle[pixel]
        near = fragments.nearness[b]
        apart = np.abs(fragments.nearness[a] - near) > np.float32(0.02) * near
        fa, fb = fragments.face[a], fragments.face[b]
        differ = np.flatnonzero((fa != fb) & ~apart)
        apart[differ] = np.einsum("ij,ij->i", normals[fa[differ]], normals[fb[differ]]) < 0.95
        pixel = pixel[~apart]
    weight = np.ones(len(fragments.sample), dtype=np.int64)
    weight[grid[:, pixel].ravel()] = 0
    weight[middle[pixel]] = n * n
    kept = np.flatnonzero(weight)
    return Fragments(fragments.sample[kept], fragments.face[kept], fragments.nearness[kept]), weight[kept]


def _spans(corners: FloatArray, width: int, height: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Returns face, row, first column and number of columns of every non-empty span."""
    y = corners[:, :, 1]
    top = np.clip(np.ceil(y.min(axis=1) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.ceil(y.max(axis=1) - 0.5), 0, height).astype(np.int64)
    rows = np.maximum(bottom - top, 0)
    face = np.repeat(np.arange(len(corners)), rows)
    row = np.arange(len(face)) - np.repeat(np.cumsum(rows) - rows, rows) + top[face]
    left = np.full(len(face), -np.inf)
    right = np.full(len(face), np.inf)
    sign = np.sign(signed_areas(corners))
    for i, j in ((0, 1), (1, 2), (2, 0)):
        rise = corners[:, j, 1] - corners[:, i, 1]
        run = (corners[:, j, 0] - corners[:, i, 0]) / np.where(rise == 0.0, 1.0, rise)
        crossing = corners[face, i, 0] + (row + 0.5 - corners[face, i, 1]) * run[face]
        side = (rise * sign)[face]
        left = np.where(side < 0.0, np.maximum(left, crossing), left)
        right = np.where(side > 0.0, np.minimum(right, crossing), right)
    begin = np.clip(np.ceil(left - 0.5), 0, width).astype(np.int64)
    end = np.clip(np.ceil(right - 0.5), 0, width).astype(np.int64)
    filled = end > begin
    return face[filled], row[filled], begin[filled], (end - begin)[filled]


def _nearest(sample: IntArray, near: SingleArray, size: int) -> IntArray:
    """Returns the indices of the fragments that are in front, one per covered sample, in the order of samples."""
    owner = np.full(size, -1, dtype=np.int64)
    rest = np.arange(len(sample))
    owner[sample] = rest
    while len(rest):
        rest = rest[near[rest] > near[owner[sample[rest]]]]
        owner[sample[rest]] = rest
    return owner[owner >= 0]
