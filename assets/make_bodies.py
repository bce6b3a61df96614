"""Builds the soft bodies in assets/bodies/: `python assets/make_bodies.py`.

Most are sets of cubes cut into tetrahedra; the starfish comes from a surface, which is written to assets/meshes/ first.
The files hold `vertices` [m], `tets`, `mass` [kg], `muscle_of` (muscle of each tetrahedron, -1 where passive) and
`fiber` (unit direction at rest). Coordinates: x forward, y up, z sideways, feet on y = 0. Own work, Apache-2.0 like the
rest of the project.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import trimesh

from rfo.sim.fem.mesh import SoftBody, body_from_surface, split_cells

ASSETS = Path(__file__).parent
FORWARD, UP = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
SIZE = 0.1  # edge of the cubes [m]
Cell = tuple[int, int, int]


def block(x: range, y: range, z: range) -> list[Cell]:
    """The cubes of a box."""
    return list(product(x, y, z))


def split_in_five(cells: list[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """A central tetrahedron (listed first) and four at corners, mirrored from cube to cube so that they conform."""
    corners, _ = split_cells(np.array(cells))
    index = {tuple(corner): i for i, corner in enumerate(corners.tolist())}
    even = [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
    odd = [(1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0)]

    def tet(points: list[tuple[int, ...]]) -> list[int]:
        edges = np.array(points)
        if np.linalg.det(edges[1:] - edges[0]) < 0:
            points[2], points[3] = points[3], points[2]
        return [index[tuple(int(x) for x in point)] for point in points]

    tets = []
    for cell in cells:
        inner, outer = (even, odd) if sum(cell) % 2 == 0 else (odd, even)
        place = [tuple(np.add(cell, d)) for d in inner]
        tets.append(tet(list(place)))
        for tip in outer:
            near = [p for p, d in zip(place, inner, strict=True) if np.abs(np.subtract(d, tip)).sum() == 1]
            tets.append(tet([tuple(np.add(cell, tip)), *near]))
    return corners, np.array(tets)


def soft_quadruped() -> SoftBody:
    """A table of 74 cubes: 204 vertices, 444 tetrahedra, one muscle for each two tetrahedra in sequence."""
    top = [(i, 3, k) for i in range(10) for k in range(5)]
    legs = [(i, j, k) for i in (0, 1, 8, 9) for j in range(3) for k in (0, 4)]
    corners, tets = split_cells(np.array(top + legs))
    vertices = 0.2 * corners
    volumes = np.linalg.det(vertices[tets][:, 1:] - vertices[tets][:, :1]) / 6.0
    mass = np.zeros(len(vertices))
    np.add.at(mass, tets, np.repeat(1.0 * volumes[:, None] / 4.0, 4, axis=1))  # density 1 kg/m³
    return SoftBody(vertices, tets, mass, np.arange(len(tets)) // 2, np.tile(UP, (len(tets), 1)))


def from_cubes(cells: list[Cell], muscle: Callable[[Cell, np.ndarray], int], fiber: np.ndarray) -> SoftBody:
    """A body of 0.1 m cubes at 1000 kg/m³, cut in five.

    Args:
        cells: Its cubes.
        muscle: (cube, centroid of a corner tetrahedron within it, in [0, 1]) → muscle, -1 for none. The central
            tetrahedron stays passive.
        fiber: Direction of all muscles.
    """
    corners, tets = split_in_five(cells)
    muscle_of = np.full(len(tets), -1)
    centroid = corners[tets].mean(axis=1)
    for c, cell in enumerate(cells):
        for t in range(5 * c + 1, 5 * c + 5):
            muscle_of[t] = muscle(cell, centroid[t] - cell)
    index = {tuple(corner): i for i, corner in enumerate(corners.tolist())}
    mass = np.zeros(len(corners))
    for cell in cells:  # an eighth of a cube's mass to each corner: a foot's tip is as heavy as its other corners
        for d in product((0, 1), repeat=3):
            mass[index[tuple(np.add(cell, d).tolist())]] += 1000.0 * SIZE**3 / 8.0
    return SoftBody(SIZE * corners, tets, mass, muscle_of, np.tile(fiber, (len(tets), 1)))


def soft_quadruped_quick() -> SoftBody:
    """A flat torso on four legs, 32 cubes: 102 vertices, 160 tetrahedra, a front and a back muscle in each leg."""
    feet = [(i, k) for i in (0, 5) for k in (0, 3)]
    legs = [(i, j, k) for i, k in feet for j in range(2)]

    def muscle(cell: Cell, within: np.ndarray) -> int:
        return 2 * feet.index((cell[0], cell[2])) + int(within[0] < 0.5) if cell[1] < 2 else -1

    return from_cubes(block(range(6), range(2, 3), range(4)) + legs, muscle, UP)


def soft_crawler() -> SoftBody:
    """A flat worm of 60 cubes, 300 tetrahedra: upper, lower, left and right muscles along each of four segments."""

    def muscle(cell: Cell, within: np.ndarray) -> int:
        i, j, k = cell
        if k == 1:
            return 4 * (i * 4 // 10) + (0 if j else 1)  # along the middle: upper and lower
        return 4 * (i * 4 // 10) + (2 if k == 0 else 3)

    return from_cubes(block(range(10), range(2), range(3)), muscle, FORWARD)


def soft_jumper() -> SoftBody:
    """A dumbbell of 44 cubes, 220 tetrahedra: a stem with four upright muscles between a foot and a head."""
    foot, stem, head = (
        block(range(4), range(1), range(4)),
        block(range(1, 3), range(1, 4), range(1, 3)),
        block(range(4), range(4, 5), range(4)),
    )

    def muscle(cell: Cell, within: np.ndarray) -> int:
        return 2 * (cell[0] - 1) + (cell[2] - 1) if cell in stem else -1

    return from_cubes(foot + stem + head, muscle, UP)


def soft_biped() -> SoftBody:
    """A torso on two legs with long feet, 74 cubes, 370 tetrahedra: front and back muscles in thigh and shank."""
    torso = block(range(1, 4), range(4, 6), range(5))
    legs = [cell for k in (0, 3) for cell in block(range(1, 3), range(1, 4), range(k, k + 2))]
    feet = [cell for k in (0, 3) for cell in block(range(5), range(1), range(k, k + 2))]

    def muscle(cell: Cell, within: np.ndarray) -> int:
        i, j, k = cell
        return 4 * (k >= 3) + 2 * (j >= 2) + (i == 1) if cell in legs else -1

    return from_cubes(torso + legs + feet, muscle, UP)


ARMS = 5


def starfish_surface() -> trimesh.Trimesh:
    """A five-armed star, 1.5 m across: an icosphere whose radius follows the direction, so that it is closed."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    x, y, z = ball.vertices.T
    angle, flat = np.arctan2(z, x), np.hypot(x, z)
    arm = np.cos(0.5 * ARMS * angle) ** 2  # 1 along an arm, 0 between two; one arm points forward
    reach = 0.2 + 0.55 * arm**1.5
    thick = 0.11
    # A superellipsoid across: flat below and above, steep at the sides.
    scale = 1.0 / ((flat / reach) ** 3 + (np.abs(y) / thick) ** 3) ** (1.0 / 3.0)
    vertices = ball.vertices * scale[:, None]
    vertices[:, 1] -= vertices[:, 1].min()
    return trimesh.Trimesh(vertices, ball.faces)


def soft_starfish() -> SoftBody:
    """The star, filled: in each arm an upper and a lower muscle along it."""
    path = ASSETS / "meshes" / "starfish.ply"
    path.parent.mkdir(exist_ok=True)
    starfish_surface().export(path)

    def paint(centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = centroids.T
        arm = np.round(np.arctan2(z, x) / (2.0 * np.pi / ARMS)).astype(int) % ARMS
        heading = 2.0 * np.pi / ARMS * arm
        fiber = np.stack([np.cos(heading), 0.0 * heading, np.sin(heading)], axis=1)
        return np.where(np.hypot(x, z) > 0.15, 2 * arm + (y < 0.11), -1), fiber

    return body_from_surface(trimesh.load(path), pitch=0.0525, density=1000.0, paint=paint, smoothing=4)


BODIES: dict[str, Callable[[], SoftBody]] = {
    "soft_quadruped": soft_quadruped,
    "soft_quadruped_quick": soft_quadruped_quick,
    "soft_crawler": soft_crawler,
    "soft_jumper": soft_jumper,
    "soft_biped": soft_biped,
    "soft_starfish": soft_starfish,
}


def main() -> None:
    """Writes every body and says what it holds."""
    (ASSETS / "bodies").mkdir(exist_ok=True)
    for name, make in BODIES.items():
        body = make()
        body.save(ASSETS / "bodies" / f"{name}.npz")
        print(
            f"{name}: {len(body.vertices)} vertices, {len(body.tets)} tets, {body.muscle_of.max() + 1} muscles, "
            f"{body.mass.sum():.3f} kg"
        )


if __name__ == "__main__":
    main()
