"""What an MPM world is made of, as plain figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rfo.core.errors import UsageError
from rfo.sim.mpm.material import Material
from rfo.sim.mpm.shapes import Shape

__all__ = ["Ground", "MpmModel", "lattice"]


@dataclass(frozen=True)
class Ground:
    """The floor of the domain.

    Attributes:
        friction: Coulomb coefficient; None for a floor to which matter sticks.
        release_speed: Rising speed around which a sticking floor lets go sideways [m/s].
    """

    friction: float | None = None
    release_speed: float = 0.02


@dataclass(frozen=True)
class MpmModel:
    """Particles of one material, kinematic tools and a box of grid nodes around them.

    Attributes:
        particle_count: Number of particles.
        volume: Of a particle at rest [m³].
        density: At rest [kg/m³].
        material: Constitutive law.
        spacing: Grid spacing [m].
        nodes: Grid nodes along x, y, z.
        origin: Position of the first node [m]; None puts the ground, `margin` nodes up, at y = 0 and x = z = 0 in the
            middle.
        margin: Layers of nodes at each face that act as its wall. Matter is stopped where no free node reaches it, one
            and a half spacings beyond the first free node: a column that is to fill a vessel must begin there.
        gravity: Acceleration along y [m/s²].
        ground: Floor.
        tools: Shapes of the tools.
        tool_friction: Coulomb coefficient between tools and matter.
    """

    particle_count: int
    volume: float
    density: float
    material: Material
    spacing: float
    nodes: tuple[int, int, int]
    origin: tuple[float, float, float] | None = None
    margin: int = 3
    gravity: float = -9.81
    ground: Ground = Ground()
    tools: tuple[Shape, ...] = ()
    tool_friction: float = 0.5

    def __post_init__(self) -> None:
        if self.origin is None:
            x, z = (-0.5 * (self.nodes[axis] - 1) * self.spacing for axis in (0, 2))
            object.__setattr__(self, "origin", (x, -self.margin * self.spacing, z))
        if min(self.nodes) < 2 * self.margin + 4:
            raise UsageError(
                f"a grid of {self.nodes} nodes has no room between walls of {self.margin}; take more nodes"
            )
        if len({shape.distance for shape in self.tools}) > 1:
            raise UsageError("the tools of one engine must share a distance function; describe all as rounded boxes")

    @property
    def mass(self) -> float:
        """Of a particle [kg]."""
        return self.volume * self.density

    @property
    def least_mass(self) -> float:
        """A node's mass below which its velocity is no longer the quotient of its momentum [kg]."""
        return 1e-12 * self.mass

    @property
    def node_count(self) -> int:
        """Nodes of the whole grid."""
        return self.nodes[0] * self.nodes[1] * self.nodes[2]


def lattice(counts: tuple[int, int, int], size: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Cell centres of a block standing on y = 0 around x = z = 0 [m], shape [particle_count, 3], y fastest.

    Neighbours in memory then scatter to other rows of the grid, which do not wait for each other.
    """
    axes = [(np.arange(n) + 0.5) / n * extent for n, extent in zip(counts, size, strict=True)]
    x, z, y = np.meshgrid(axes[0] - 0.5 * size[0], axes[2] - 0.5 * size[2], axes[1], indexing="ij")
    return np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)
