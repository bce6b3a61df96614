"""What a soft body is made of: vertices, tetrahedra, muscles and figures, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rfo.core.errors import UsageError
from rfo.sim.fem.contact import FemContact, Ground, HeightField, Plane, Shape
from rfo.sim.fem.laws import Activation, Damping
from rfo.sim.fem.material import Energy, material
from rfo.sim.fem.self_contact import SelfContact

__all__ = ["FemModel"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FemModel:
    """A soft body.

    Attributes:
        vertices: Rest positions [m], shape [vertex_count, 3], y up.
        tets: Vertex indices, positively oriented, shape [tet_count, 4].
        mass: Vertex masses [kg], shape [vertex_count].
        muscle_of: Muscle of each tetrahedron, -1 for passive ones, shape [tet_count].
        fiber: Unit fibre direction of each tetrahedron at rest, shape [tet_count, 3].
        mu: Shear modulus of each tetrahedron [Pa], shape [tet_count].
        lam: First Lamé parameter of each tetrahedron [Pa], shape [tet_count].
        eta: Viscosity of each tetrahedron [Pa s], shape [tet_count].
        strength: Active stress at full activation [Pa], shape [tet_count].
        contact: How the ground and obstacles respond.
        material: Constitutive law: a name in `rfo.sim.fem.material.MATERIALS`, or a function of one's own.
        activation: Whether muscles pull along their fibre or press on the volume.
        damping: Damping law.
        gravity: Acceleration along y [m/s²].
        ground: What the body stands on.
        obstacles: Shapes that move as the caller of a step says.
        self_contact: How parts of the surface keep out of each other; None for parts that pass through each other, at
            no cost.
    """

    vertices: Floats
    tets: Ints
    mass: Floats
    muscle_of: Ints
    fiber: Floats
    mu: Floats
    lam: Floats
    eta: Floats
    strength: Floats
    contact: FemContact
    material: str | Energy = "stable-neo-hookean"
    activation: Activation = "fiber"
    damping: Damping = "objective"
    gravity: float = -9.81
    ground: Ground = field(default_factory=Plane)
    obstacles: tuple[Shape, ...] = ()
    self_contact: SelfContact | None = None

    def __post_init__(self) -> None:
        edges = self.edges()
        # Six volumes over the longest edge cubed: 0.7 for a regular tetrahedron, zero to rounding for a flat one.
        quality = np.linalg.det(edges) / np.linalg.norm(edges, axis=2).max(axis=1, initial=1e-300) ** 3
        bad = np.flatnonzero(~(quality > 1e-6))
        if len(bad):
            raise UsageError(
                f"{len(bad)} of {len(self.tets)} tetrahedra are inverted or flat, the first is tetrahedron {bad[0]} "
                f"with vertices {self.tets[bad[0]].tolist()}; reorder or repair the mesh"
            )

    @property
    def energy(self) -> Energy:
        """The constitutive law."""
        return material(self.material) if isinstance(self.material, str) else self.material

    @property
    def muscle_count(self) -> int:
        """Number of muscles."""
        return int(self.muscle_of.max(initial=-1)) + 1

    def edges(self) -> Floats:
        """Reference edge matrices, row i from vertex 0 to vertex i + 1 [m], shape [tet_count, 3, 3]."""
        corners = self.vertices[self.tets]
        return np.asarray(corners[:, 1:] - corners[:, :1])

    def volumes(self) -> Floats:
        """Rest volumes [m³], shape [tet_count]."""
        return np.asarray(np.linalg.det(self.edges()) / 6.0)

    def constants(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that the laws of a substep read, by the laws' names."""
        inverse = np.linalg.inv(
            self.edges()
        )  # F = Dᵀ B with edges as the rows of D, so B is its transpose and G = B Bᵀ
        gram = np.einsum("tki,tkj->tij", inverse, inverse)
        i, j = np.array([0, 1, 2, 0, 1, 0]), np.array([0, 1, 2, 1, 2, 2])
        extra: dict[str, npt.NDArray[Any]] = {}
        if isinstance(self.ground, HeightField):
            extra["heights"] = self.ground.heights
        if self.obstacles:
            extra["obstacle_index"] = np.tile(np.arange(len(self.obstacles)), len(self.vertices))
        return {
            **extra,
            "corners": self.tets,
            # Passive tetrahedra are driven by one muscle more, which never contracts.
            "muscles": np.where(self.muscle_of < 0, self.muscle_count, self.muscle_of),
            "rest": np.swapaxes(inverse, 1, 2),
            "gram": gram[:, i, j],
            "volume": self.volumes(),
            "inverse_det": 1.0 / np.linalg.det(self.edges()),
            "fiber": np.einsum("tki,tk->ti", inverse, self.fiber),
            "strength": np.where(self.muscle_of < 0, 0.0, self.strength),
            "mu": self.mu,
            "lam": self.lam,
            "eta": self.eta,
            "mass": self.mass,
            "gravity": np.array([0.0, self.gravity, 0.0]),
            "contact": np.array(
                [self.contact.stiffness, self.contact.damping, self.contact.friction, self.contact.slip_speed]
            ),
        }

    def surface(self) -> Ints:
        """Outward triangles of the boundary, shape [face_count, 3]."""
        faces = self.tets[:, [[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]]].reshape(-1, 3)
        _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
        return np.asarray(faces[np.sort(first[count == 1])])

    def with_mass_from(self, density: float) -> FemModel:
        """The same body with masses from its tetrahedra, a quarter of each to every corner.

        Args:
            density: [kg/m³].
        """
        mass = np.zeros(len(self.vertices))
        np.add.at(mass, self.tets, np.repeat(density * self.volumes()[:, None] / 4.0, 4, axis=1))
        return replace(self, mass=mass)
