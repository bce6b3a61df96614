"""Soft bodies from surfaces: a triangle mesh in, tetrahedra with masses, muscles and fibres out.

A surface is filled with cubes of one size, each cut into six tetrahedra (Freudenthal's split: one for each order of the
axes, conforming without alternation), and the steps of its boundary are rounded off. All tetrahedra are of one size,
which is what an explicit integrator wants: its substep follows the smallest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rfo.core.errors import UsageError
from rfo.sim.fem.contact import FemContact
from rfo.sim.fem.model import FemModel

__all__ = ["Paint", "SoftBody", "body_from_surface", "inside", "painted", "split_cells"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Paint = Callable[[Floats], tuple[Ints, Floats]]
"""Centroids of tetrahedra [m], shape [T, 3] → muscle of each (-1 where passive) [T] and unit fibre direction [T, 3]."""

LEAST_SHARE = 0.5
"""Rounding off leaves every tetrahedron at least this share of its volume in the lattice."""


@dataclass(frozen=True)
class SoftBody:
    """A body without its material: what the files in assets/bodies/ hold.

    Attributes:
        vertices: Rest positions [m], shape [V, 3].
        tets: Vertex indices, positively oriented, shape [T, 4].
        mass: Vertex masses [kg], shape [V].
        muscle_of: Muscle of each tetrahedron, -1 where passive, shape [T].
        fiber: Unit fibre direction of each tetrahedron at rest, shape [T, 3].
    """

    vertices: Floats
    tets: Ints
    mass: Floats
    muscle_of: Ints
    fiber: Floats

    def save(self, path: Path) -> None:
        """Writes an npz file."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> SoftBody:
        """Reads an npz file.

        Raises:
            UsageError: The file lacks an array.
        """
        with np.load(path) as file:
            missing = [name for name in cls.__dataclass_fields__ if name not in file]
            if missing:
                raise UsageError(f"{path} is not a soft body: it lacks {', '.join(missing)}")
            return cls(**{name: file[name] for name in cls.__dataclass_fields__})

    def model(
        self, *, mu: float, lam: float, eta: float, strength: float, contact: FemContact, **options: Any
    ) -> FemModel:
        """The body with the same material everywhere; options are those of `FemModel`.

        Args:
            mu: Shear modulus [Pa].
            lam: First Lamé parameter [Pa].
            eta: Viscosity [Pa s].
            strength: Active stress at full activation [Pa].
            contact: How ground and obstacles respond.
            options: Further fields of `FemModel`.
        """
        ones = np.ones(len(self.tets))
        figures: dict[str, Any] = {"mu": mu * ones, "lam": lam * ones, "eta": eta * ones, "strength": strength * ones}
        return FemModel(**vars(self), **figures, contact=contact, **options)


def body_from_surface(
    surface: Any, *, pitch: float, density: float, paint: Paint, smoothing: int = 2, tolerance: float = 0.15
) -> SoftBody:
    """Fills a closed surface with tetrahedra.

    Args:
        surface: A `trimesh.Trimesh` in metres, y up; small holes do not matter.
        pitch: Edge of the cubes [m].
        density: [kg/m³].
        paint: Which tetrahedra contract, and along what (`painted` reads it from a file).
        smoothing: Rounds that move boundary vertices half-way to the mean of their neighbours.
        tolerance: Largest accepted difference between the volumes of surface and tetrahedra, relative.

    Raises:
        UsageError: The surface is empty at this pitch, encloses another volume, or falls into pieces.
    """
    cells, origin = _occupied(surface, pitch)
    corners, tets = split_cells(cells)
    vertices = _rounded(origin + pitch * corners, tets, smoothing)
    volumes = np.linalg.det(vertices[tets][:, 1:] - vertices[tets][:, :1]) / 6.0
    enclosed = abs(float(surface.volume))
    if abs(volumes.sum() - enclosed) > tolerance * enclosed:
        raise UsageError(
            f"the tetrahedra fill {volumes.sum():.4g} m³, the surface encloses {enclosed:.4g} m³ (more than "
            f"{tolerance:.0%} apart); try a pitch below {pitch:g} m, or close the surface"
        )
    muscle_of, fiber = paint(vertices[tets].mean(axis=1))
    mass = np.zeros(len(vertices))
    np.add.at(mass, tets, np.repeat(density * volumes[:, None] / 4.0, 4, axis=1))
    return SoftBody(vertices, tets, mass, np.asarray(muscle_of, dtype=np.int64), np.asarray(fiber, dtype=np.float64))


def painted(path: Path) -> Paint:
    """Muscles from an npz file with `points` [M, 3], `muscle_of` [M] and `fiber` [M, 3]: the nearest point decides."""
    with np.load(path) as file:
        missing = [name for name in ("points", "muscle_of", "fiber") if name not in file]
        if missing:
            raise UsageError(f"{path} paints no muscles: it lacks {', '.join(missing)}")
        points, muscle_of, fiber = file["points"], file["muscle_of"], file["fiber"]
    fiber = fiber / np.linalg.norm(fiber, axis=1, keepdims=True)

    def paint(centroids: Floats) -> tuple[Ints, Floats]:
        nearest = np.concatenate(
            [
                ((part[:, None] - points) ** 2).sum(axis=2).argmin(axis=1)
                for part in np.array_split(centroids, 1 + len(centroids) // 1000)
            ]
        )
        return muscle_of[nearest], fiber[nearest]

    return paint


def split_cells(cells: Ints) -> tuple[Ints, Ints]:
    """Cuts unit cubes into six tetrahedra each.

    Args:
        cells: Lowest corner of each cube, shape [C, 3].

    Returns:
        The corners in use, sorted, shape [V, 3]; positively oriented tetrahedra, shape [6 C, 4].
    """
    paths = []
    for order in permutations(range(3)):
        path = np.concatenate([np.zeros((1, 3), dtype=np.int64), np.cumsum(np.eye(3, dtype=np.int64)[list(order)], 0)])
        if np.linalg.det(path[1:].astype(float)) < 0:
            path[[2, 3]] = path[[3, 2]]
        paths.append(path)
    points = np.asarray(cells)[:, None, None] + np.array(paths)
    corners, index = np.unique(points.reshape(-1, 3), axis=0, return_inverse=True)
    return corners, index.reshape(-1, 4)


def inside(surface: Any, points: Floats) -> npt.NDArray[np.bool_]:
    """Where points lie inside a surface, by its winding number (Van Oosterom and Strackee 1983), bool [M].

    Half a turn decides, so that small holes and overlaps do no harm.
    """
    triangles = np.asarray(surface.triangles, dtype=np.float64)
    found = []
    for part in np.array_split(points, 1 + len(points) * len(triangles) // 2_000_000):
        a, b, c = (triangles[:, i] - part[:, None] for i in range(3))
        la, lb, lc = (np.linalg.norm(x, axis=2) for x in (a, b, c))
        volume = np.einsum("pti,pti->pt", a, np.cross(b, c))
        dot_ab, dot_bc, dot_ca = (np.einsum("pti,pti->pt", x, y) for x, y in ((a, b), (b, c), (c, a)))
        angle = 2.0 * np.arctan2(volume, la * lb * lc + dot_ab * lc + dot_bc * la + dot_ca * lb)
        found.append(np.abs(angle.sum(axis=1)) > 2.0 * np.pi)
    return np.concatenate(found)


def _occupied(surface: Any, pitch: float) -> tuple[Ints, Floats]:
    """Cubes whose centre lies inside, as lattice coordinates, and where the lattice begins [m]."""
    low, high = np.asarray(surface.bounds, dtype=np.float64)
    count = np.maximum(np.ceil((high - low) / pitch).astype(int), 1)
    origin = 0.5 * (low + high) - 0.5 * pitch * count
    origin[1] = low[1]  # what stands on the ground goes on standing on it
    cells = np.array(list(product(*map(range, count))))
    cells = cells[inside(surface, origin + pitch * (cells + 0.5))]
    if len(cells) == 0:
        raise UsageError(f"no cube of {pitch:g} m fits into the surface ({(high - low).round(3).tolist()} m); try less")
    pieces = _piece_of(cells)
    if pieces.max() > 0:
        raise UsageError(
            f"at a pitch of {pitch:g} m the body falls into {pieces.max() + 1} pieces (the second near "
            f"{(origin + pitch * cells[pieces == 1][0]).round(3).tolist()} m); try less, or join the surface"
        )
    return cells, origin


def _piece_of(cells: Ints) -> Ints:
    """Number of the face-connected piece that each cube belongs to, in order of appearance."""
    row = {tuple(cell): i for i, cell in enumerate(cells.tolist())}
    piece = np.full(len(cells), -1)
    steps = [*np.eye(3, dtype=int).tolist(), *(-np.eye(3, dtype=int)).tolist()]
    for start in range(len(cells)):
        if piece[start] >= 0:
            continue
        piece[start], stack = piece.max() + 1, [start]
        while stack:
            here = stack.pop()
            for step in steps:
                near = row.get(tuple((cells[here] + step).tolist()))
                if near is not None and piece[near] < 0:
                    piece[near] = piece[here]
                    stack.append(near)
    return piece


def _rounded(vertices: Floats, tets: Ints, rounds: int) -> Floats:
    """Rounds off the boundary's steps; vertices of tetrahedra that would lose too much volume move less."""
    faces = tets[:, [[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]]].reshape(-1, 3)
    _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    boundary = faces[first[count == 1]]
    outer = np.zeros(len(vertices), dtype=bool)
    outer[boundary] = True
    # Boundary vertices follow their neighbours on the boundary, inner ones all: the lattice gives way evenly.
    edges = np.concatenate(
        [boundary[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), tets[:, list(combinations(range(4), 2))].reshape(-1, 2)]
    )
    edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    on_boundary = {tuple(edge) for edge in np.sort(boundary[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)).tolist()}
    follows = [not outer[a] or tuple(sorted((a, b))) in on_boundary for a, b in edges.tolist()]
    edges = edges[follows]
    degree = np.bincount(edges[:, 0], minlength=len(vertices))[:, None]
    least = LEAST_SHARE * np.linalg.det(vertices[tets][:, 1:] - vertices[tets][:, :1]).min()
    for _ in range(rounds):
        total = np.zeros_like(vertices)
        np.add.at(total, edges[:, 0], vertices[edges[:, 1]])
        step, share = 0.5 * (total / np.maximum(degree, 1) - vertices), np.ones_like(degree, dtype=np.float64)
        while len(bad := _below(vertices + share * step, tets, least)):
            share[tets[bad]] = np.where(share[tets[bad]] > 0.1, 0.5 * share[tets[bad]], 0.0)
        vertices = vertices + share * step
    return vertices


def _below(vertices: Floats, tets: Ints, least: float) -> Ints:
    """Tetrahedra whose determinant is less than the least allowed."""
    return np.flatnonzero(np.linalg.det(vertices[tets][:, 1:] - vertices[tets][:, :1]) < least)
