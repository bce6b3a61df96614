"""A body of cubes cut finer: the same shape, mass and muscles in more tetrahedra."""

from __future__ import annotations

from itertools import product

import numpy as np

from rfo.sim.fem.mesh import SoftBody, split_cells

__all__ = ["refine"]


def refine(body: SoftBody, edge: float, cuts: tuple[int, int, int]) -> SoftBody:
    """Cuts every cube of a body into smaller boxes, and these into six tetrahedra each.

    A tetrahedron takes muscle and fibre of the old one whose centroid is nearest.

    Args:
        body: A body of cubes that `split_cells` has cut, density the same everywhere.
        edge: Edge of its cubes [m].
        cuts: Boxes that a cube becomes along x, y and z.
    """
    corners = body.vertices[body.tets].reshape(-1, 24, 3).min(axis=1) / edge
    boxes = np.array(list(product(*map(range, cuts))))
    cells = np.round(corners).astype(np.int64)[:, None] * np.array(cuts) + boxes
    points, tets = split_cells(cells.reshape(-1, 3))
    vertices = edge * points / np.array(cuts)
    old, new = (v[t].mean(axis=1) for v, t in ((body.vertices, body.tets), (vertices, tets)))
    nearest = np.concatenate(
        [((part[:, None] - old) ** 2).sum(axis=2).argmin(axis=1) for part in np.array_split(new, 1 + len(new) // 1000)]
    )
    mass = np.zeros(len(vertices))
    np.add.at(mass, tets, body.mass.sum() / (4.0 * len(tets)))  # all tetrahedra are of one size
    return SoftBody(vertices, tets, mass, body.muscle_of[nearest], body.fiber[nearest])
