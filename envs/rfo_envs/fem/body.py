"""Soft bodies read from assets/, and what tasks share about them."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfo.core.colors import activation_color
from rfo.core.scene import Scene, SceneMesh
from rfo.core.task import State, Task
from rfo.sim.fem import FemContact, FemEngine, FemModel, SelfContact
from rfo.sim.fem.engine import FemPhysics
from rfo.sim.fem.laws import Activation, Damping
from rfo.sim.fem.mesh import SoftBody
from rfo_envs.assets import asset_path

__all__ = ["Probes", "SoftTask", "load_body", "muscle_colors", "soft_scene"]


def load_body(
    name: str,
    *,
    mu: float,
    lam: float,
    eta: float,
    strength: float,
    contact: FemContact,
    activation: Activation,
    damping: Damping,
    material: str = "stable-neo-hookean",
    self_contact: SelfContact | None = None,
) -> FemModel:
    """Reads assets/bodies/<name>.npz and gives every tetrahedron the same material.

    Args:
        name: File name without its suffix.
        mu: Shear modulus [Pa].
        lam: First Lamé parameter [Pa].
        eta: Viscosity [Pa s].
        strength: Active stress at full activation [Pa].
        contact: Contact with the ground.
        activation: How muscles act.
        damping: Damping law.
        material: Constitutive law.
        self_contact: How parts of its surface keep out of each other, if they do.
    """
    body = SoftBody.load(asset_path(f"bodies/{name}.npz"))
    return body.model(
        mu=mu,
        lam=lam,
        eta=eta,
        strength=strength,
        contact=contact,
        activation=activation,
        damping=damping,
        material=material,
        self_contact=self_contact,
    )


class SoftTask(Task):
    """A task with one soft body: its model, its engine, and where its mass is."""

    substeps: ClassVar[int]
    integrator: ClassVar[type[FemPhysics]] = FemEngine
    """What advances the body: `FemEngine`, or `ImplicitFemEngine` where its stiffness would need tiny substeps."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.model = self.make_body()
        self.engine = self.integrator(
            self.model,
            dt=self.spec.control_dt / self.substeps,
            substeps=self.substeps,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
        )
        self._rest = torch.as_tensor(self.model.vertices).to(self.device, self.dtype)

    @abstractmethod
    def make_body(self) -> FemModel:
        """Builds the body."""

    def physics_operations(self) -> tuple[float, float] | None:
        """The engine's arithmetic."""
        return self.engine.operations()

    @cached_property
    def _mass_share(self) -> Tensor:
        return torch.as_tensor(self.model.mass / self.model.mass.sum()).to(self._rest)


class Probes:
    """Named points of a body: weighted means of its vertices.

    Args:
        weights: For each probe the vertices' weights, shape [vertex_count], summing to one.
        like: Tensor whose dtype and device the probes take.
    """

    def __init__(self, weights: dict[str, npt.NDArray[np.float64]], like: Tensor) -> None:
        self._rows = {name: row for row, name in enumerate(weights)}
        self._matrix = torch.as_tensor(np.stack(list(weights.values()))).to(like)

    def __call__(self, vertices: Tensor) -> Tensor:
        """Positions (or velocities) of all probes, [N, vertex_count, 3] → [N, probe_count, 3]."""
        n, vertex_count, _ = vertices.shape
        flat = vertices.permute(1, 2, 0).reshape(vertex_count, 3 * n)  # a view: the engine's memory ends with N
        return (self._matrix @ flat).view(-1, 3, n).permute(2, 0, 1)

    def rows(self, *names: str) -> list[int]:
        """Where probes stand in the result."""
        return [self._rows[name] for name in names]


def muscle_colors(model: FemModel, activation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Activation that each vertex shows: the mean of its tetrahedra, passive ones counting as zero, shape [V]."""
    of_tet = np.where(model.muscle_of < 0, 0.0, activation[model.muscle_of])
    total, count = np.zeros(len(model.vertices)), np.zeros(len(model.vertices))
    np.add.at(total, model.tets, np.repeat(of_tet[:, None], 4, axis=1))
    np.add.at(count, model.tets, 1.0)
    return total / count


def soft_scene(model: FemModel, state: State, index: int, activation: Tensor) -> Scene:
    """The picture of a soft body: its surface, lit up where muscles are active."""
    x = state["x"][index].detach().cpu().double().numpy()
    shown = muscle_colors(model, activation[index].detach().cpu().double().numpy())
    extent = 0.5 * float(np.linalg.norm(np.ptp(model.vertices, axis=0)))
    mesh = SceneMesh(x, model.surface(), activation_color(shown), smooth=True)
    return Scene((mesh,), model.mass @ x / model.mass.sum(), extent)
