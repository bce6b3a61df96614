"""What tasks of articulated bodies share: the engine, the picture, and axes of bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import trimesh
from torch import Tensor

from rfo.core.colors import linear_from_srgb
from rfo.core.scene import Scene, SceneMesh
from rfo.core.task import Renderer, State, Task
from rfo.sim.formula import Formula
from rfo.sim.rigid import RigidEngine, RigidModel
from rfo.sim.rigid.kinematics import Kinematics
from rfo.sim.rigid.model import Geom
from rfo_envs.assets import asset_path

__all__ = ["RigidTask", "forward_x", "uniform", "up_z"]

Floats = npt.NDArray[np.float64]


class RigidTask(Task):
    """A task on one MJCF file whose state holds positions `q` and velocities `v` and whose actions are the controls.

    The file's time step is a hint to other simulators; here it is the control step over `substeps`.
    """

    file: ClassVar[str]
    substeps: ClassVar[int]
    extent: ClassVar[float]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.path = asset_path(f"mjcf/{self.file}.xml")
        self.model = RigidModel.from_mjcf(self.path)
        self.engine = RigidEngine(
            self.model,
            dt=self.spec.control_dt / self.substeps,
            substeps=self.substeps,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
        )

    def formula(
        self,
        function: Callable[..., Mapping[str, Any]],
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
    ) -> Formula:
        """What one environment sees or is rewarded, written for numbers, as a function of the batch."""
        return Formula(function, inputs, outputs, device=self.device, dtype=self.dtype, threads=self.threads)

    def scene(self, state: State, index: int) -> Scene:
        """All geoms, turned from z up to y up."""
        q = state["q"][index].detach().cpu().double().numpy()
        kinematics = Kinematics(self.model, q)
        meshes = []
        for i, geom in enumerate(self.model.geoms):
            rotation, origin = _world_pose(kinematics, geom)
            vertices, faces = self._shapes[i]
            color = np.tile(linear_from_srgb(geom.color), (len(vertices), 1))
            meshes.append(SceneMesh(_y_up(vertices @ rotation.T + origin), faces, color, smooth=geom.kind != "box"))
        return Scene(tuple(meshes), _y_up(self.focus(kinematics)), self.extent)

    def renderer(self, name: str, width: int, height: int) -> Renderer:
        """MuJoCo's renderer, as "mujoco"; see `Task.renderer`."""
        if name != "mujoco":
            return super().renderer(name, width, height)
        from rfo_envs.rigid.mujoco_renderer import MujocoRenderer  # only recording needs it

        def focus(q: Floats) -> Floats:
            return self.focus(Kinematics(self.model, q))

        draw = MujocoRenderer(self.path, width, height, extent=self.extent, focus=focus)
        return lambda state, index: draw(state["q"][index].detach().cpu().double().numpy())

    def physics_operations(self) -> tuple[float, float]:
        """Counted in the kernels of a substep."""
        forward, adjoint = self.engine.substep.operation_count, self.engine.substep_adjoint.operation_count
        return float(self.substeps * forward), float(self.substeps * adjoint)

    def physics_replays(
        self, state: State, action: Tensor, steps: int
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """The recorded substeps, with actions as controls."""
        return self.engine.replays(state["q"], state["v"], action, steps)

    def focus(self, kinematics: Kinematics) -> Floats:
        """What the camera follows, z up: the first link [m], shape [3]."""
        return np.asarray(kinematics.world[0].origin, dtype=np.float64)

    @cached_property
    def _shapes(self) -> list[tuple[Floats, Any]]:
        return [_shape(geom.kind, *map(float, geom.size)) for geom in self.model.geoms]

    @cached_property
    def q_rest(self) -> Tensor:
        """Pose the model was drawn in, shape [q_count]."""
        return torch.as_tensor(self.model.q_rest).to(self.device, self.dtype)


def up_z(quaternion: Any) -> Any:
    """Vertical part of a body's z axis: 1 upright, -1 upside down; of four numbers, expressions or tensors [N]."""
    _, x, y, _ = quaternion
    return 1.0 - 2.0 * (x * x + y * y)


def forward_x(quaternion: Any) -> Any:
    """Part along the world's x of a body's x axis, likewise."""
    _, _, y, z = quaternion
    return 1.0 - 2.0 * (y * y + z * z)


def uniform(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    """Draws from [-1, 1] in float64, whatever the simulation's type, so that both types start alike."""
    drawn = torch.rand(*shape, generator=generator, dtype=torch.float64, device=like.device)
    return (2.0 * drawn - 1.0).to(like.dtype)


def _world_pose(kinematics: Kinematics, geom: Geom) -> tuple[Floats, Floats]:
    pose, root = kinematics.place(geom.frame), kinematics.world[kinematics.model.root(geom.frame.link)]
    return np.asarray(root.rotation @ pose.rotation, dtype=np.float64), np.asarray(
        root.point(pose.origin), dtype=np.float64
    )


def _y_up(points: Floats) -> Floats:
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


@lru_cache(maxsize=256)
def _shape(kind: str, a: float, b: float, c: float) -> tuple[Floats, Any]:
    """Vertices and faces of a geom in its own frame."""
    if kind == "sphere":
        mesh = trimesh.creation.icosphere(subdivisions=3, radius=a)
    elif kind == "capsule":
        mesh = trimesh.creation.capsule(height=2.0 * b, radius=a, count=[16, 24])
        mesh.apply_translation([0.0, 0.0, -mesh.bounds.mean(axis=0)[2]])
    else:
        mesh = trimesh.creation.box(extents=[2.0 * a, 2.0 * b, 2.0 * c])
    return np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces, dtype=np.int64)
