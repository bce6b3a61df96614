"""What tasks with particles share: what a policy sees of them, and how people see them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import trimesh
from torch import Tensor

from rfo.core.colors import PROP
from rfo.core.scene import SceneBalls, SceneMesh
from rfo.core.task import State
from rfo.sim.mpm import MpmState, Shape

__all__ = ["Floats", "matter_of", "observed_points", "particle_balls", "state_of", "tool_mesh"]

Floats = npt.NDArray[np.float64]


def matter_of(state: State) -> MpmState:
    """The particles of a task's state."""
    return MpmState(state["x"], state["v"], state["c"], state["s"])


def state_of(matter: MpmState, **others: Tensor) -> State:
    """A task's state: particles and other tensors."""
    return {**matter._asdict(), **others}


def observed_points(particle_count: int, count: int, device: torch.device) -> Tensor:
    """Particles that a policy sees: `count` of them, spread evenly over the lattice, int64 [count]."""
    order = torch.randperm(particle_count, generator=torch.Generator().manual_seed(0))[:count]
    return order.sort().values.to(device)


def particle_balls(x: Floats, radius: float, color: Floats) -> SceneBalls:
    """Particles as balls.

    Args:
        x: Positions [m], shape [P, 3].
        radius: [m].
        color: Linear RGB, shape [3] or [P, 3].
    """
    return SceneBalls(x, radius, np.array(np.broadcast_to(color, (len(x), 3))))


def tool_mesh(shape: Shape, position: Floats, rotation: Floats, color: Floats = PROP) -> SceneMesh:
    """A sphere, capsule or box at a pose.

    Args:
        shape: What `rfo.sim.mpm` makes of rounded boxes with at most one length, or without a radius.
        position: [m], shape [3].
        rotation: Matrix [3, 3].
        color: Linear RGB, shape [3].
    """
    x, y, z, radius = shape.figures
    if max(x, y) == 0.0:
        mesh = trimesh.creation.capsule(height=2.0 * z, radius=radius, count=[24, 24])
    else:
        mesh = trimesh.creation.box(extents=2.0 * (np.array([x, y, z]) + radius))
    vertices = np.asarray(mesh.vertices, dtype=np.float64) @ rotation.T + position
    faces = np.asarray(mesh.faces, dtype=np.int64)
    return SceneMesh(vertices, faces, np.tile(color, (len(vertices), 1)), smooth=max(x, y) == 0.0)
