"""Builds the soft bodies in assets/bodies/: `python assets/make_bodies.py`.

A body is a set of cubes cut into tetrahedra. The files hold `vertices` [m], `tets`, `mass` [kg], `muscle_of` (muscle of
each tetrahedron, -1 where passive) and `fiber` (unit direction at rest). Coordinates: x forward, y up, z sideways, feet
on y = 0. Own work, Apache-2.0 like the rest of the project.
"""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np

BODIES = Path(__file__).parent / "bodies"
UP = np.array([0.0, 1.0, 0.0])
Cell = tuple[int, int, int]


class Cubes:
    """Corner indices of a set of unit cubes."""

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = cells
        corners = sorted({tuple(np.add(cell, d)) for cell in cells for d in product((0, 1), repeat=3)})
        self.index = {corner: i for i, corner in enumerate(corners)}
        self.corners = np.array(corners)

    def tet(self, corners: list[tuple[int, ...]]) -> list[int]:
        """Vertex indices of a tetrahedron, ordered so that its volume is positive."""
        points = np.array(corners)
        if np.linalg.det(points[1:] - points[0]) < 0:
            corners[2], corners[3] = corners[3], corners[2]
        return [self.index[tuple(corner)] for corner in corners]


def split_in_six(cubes: Cubes) -> np.ndarray:
    """Freudenthal's split: one tetrahedron for each order of the axes, conforming without alternation."""
    tets = []
    for cell in cubes.cells:
        for order in permutations(range(3)):
            path = [np.array(cell)]
            for axis in order:
                path.append(path[-1] + np.eye(3, dtype=int)[axis])
            tets.append(cubes.tet([tuple(p) for p in path]))
    return np.array(tets)


def split_in_five(cubes: Cubes) -> np.ndarray:
    """A central tetrahedron (listed first) and four at corners, mirrored from cube to cube so that they conform."""
    even = [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
    odd = [(1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    tets = []
    for cell in cubes.cells:
        inner, outer = (even, odd) if sum(cell) % 2 == 0 else (odd, even)
        place = [tuple(np.add(cell, d)) for d in inner]
        tets.append(cubes.tet(list(place)))
        for tip in outer:
            near = [p for p, d in zip(place, inner, strict=True) if np.abs(np.subtract(d, tip)).sum() == 1]
            tets.append(cubes.tet([tuple(np.add(cell, tip)), *near]))
    return np.array(tets)


def soft_quadruped() -> dict[str, np.ndarray]:
    """A table of 74 cubes: 204 vertices, 444 tetrahedra, one muscle for each two tetrahedra in sequence."""
    top = [(i, 3, k) for i in range(10) for k in range(5)]
    legs = [(i, j, k) for i in (0, 1, 8, 9) for j in range(3) for k in (0, 4)]
    cubes = Cubes(top + legs)
    vertices, tets = 0.2 * cubes.corners, split_in_six(cubes)
    volumes = np.linalg.det(vertices[tets][:, 1:] - vertices[tets][:, :1]) / 6.0
    mass = np.zeros(len(vertices))
    np.add.at(mass, tets, np.repeat(1.0 * volumes[:, None] / 4.0, 4, axis=1))  # density 1 kg/m³
    return {
        "vertices": vertices,
        "tets": tets,
        "mass": mass,
        "muscle_of": np.arange(len(tets)) // 2,
        "fiber": np.tile(UP, (len(tets), 1)),
    }


def soft_quadruped_quick() -> dict[str, np.ndarray]:
    """A flat torso on four legs, 32 cubes: 102 vertices, 160 tetrahedra, a front and a back muscle in each leg."""
    torso = [(i, 2, k) for i in range(6) for k in range(4)]
    feet = [(i, k) for i in (0, 5) for k in (0, 3)]
    cubes = Cubes(torso + [(i, j, k) for i, k in feet for j in range(2)])
    size = 0.1
    tets = split_in_five(cubes)
    muscle_of = np.full(len(tets), -1)
    centroid = cubes.corners[tets].mean(axis=1)
    for c, (i, j, k) in enumerate(cubes.cells):
        if j < 2:
            for t in range(5 * c + 1, 5 * c + 5):  # the central tetrahedron stays passive
                muscle_of[t] = 2 * feet.index((i, k)) + (centroid[t, 0] < i + 0.5)
    mass = np.zeros(len(cubes.corners))
    for cell in cubes.cells:  # an eighth of a cube's mass to each corner: a foot's tip is as heavy as its other corners
        for d in product((0, 1), repeat=3):
            mass[cubes.index[tuple(np.add(cell, d))]] += 1000.0 * size**3 / 8.0
    return {
        "vertices": size * cubes.corners,
        "tets": tets,
        "mass": mass,
        "muscle_of": muscle_of,
        "fiber": np.tile(UP, (len(tets), 1)),
    }


def main() -> None:
    """Writes every body and says what it holds."""
    BODIES.mkdir(exist_ok=True)
    for name, make in {"soft_quadruped": soft_quadruped, "soft_quadruped_quick": soft_quadruped_quick}.items():
        body = make()
        np.savez_compressed(BODIES / f"{name}.npz", **body)
        muscles = body["muscle_of"].max() + 1
        print(
            f"{name}: {len(body['vertices'])} vertices, {len(body['tets'])} tets, {muscles} muscles, "
            f"{body['mass'].sum():.3f} kg"
        )


if __name__ == "__main__":
    main()
