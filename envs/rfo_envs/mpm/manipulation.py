"""What tasks share in which tools work a block of matter: building, moving, observing and drawing it.

A task is a subclass that names its block and tools, says how an action moves them, and rewards what becomes of it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rfo.core.colors import BODY
from rfo.core.scene import Scene, SceneBalls, SceneMesh
from rfo.core.task import CheckSituation, Observation, State, Task, TaskSpec
from rfo.sim.mpm import Ground, Material, MpmEngine, MpmModel, MpmState, Shape, lattice
from rfo.sim.mpm.tools import tool_frames
from rfo_envs.mpm.matter import Floats, matter_of, observed_points, particle_balls, state_of

__all__ = ["SCALE", "Manipulation", "manipulation_spec"]

SCALE = 5.0  # of positions in observations [1/m]
Point = tuple[float, float, float]


def manipulation_spec(
    name: str, *, joints: int, points: int, control_dt: float = 2e-3, **others: tuple[int, ...]
) -> TaskSpec:
    """The spec of a task that observes its joints, the centre of mass, `others`, and some of the particles."""
    return TaskSpec(
        id=name,
        engine="warp-mpm",
        action_dim=joints,
        episode_length=300,
        control_dt=control_dt,
        observation_shapes={"joint": (joints,), "com": (3,), **others, "points": (points, 3)},
    )


class Manipulation(Task):
    """A block of particles, and tools placed by joints that an action moves."""

    size: ClassVar[Point]  # of the block at rest [m]
    density: ClassVar[float]  # at rest [kg/m³]
    material: ClassVar[Material]
    gravity: ClassVar[float]  # along y [m/s²]
    ground: ClassVar[Ground] = Ground()
    tools: ClassVar[tuple[Shape, ...]]
    tool_friction: ClassVar[float] = 0.5
    counts: ClassVar[tuple[int, int, int]]  # particles along x, y, z
    nodes: ClassVar[int]  # per metre and side
    substeps: ClassVar[int]
    ball: ClassVar[float] = 0.6  # radius of a drawn particle over the cube root of its volume
    view: ClassVar[tuple[Point, float]]  # centre and extent of the picture [m]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        points = lattice(self.counts, self.size)
        self.model = MpmModel(
            particle_count=len(points),
            volume=math.prod(self.size) / len(points),
            density=self.density,
            material=self.material,
            spacing=1.0 / self.nodes,
            nodes=(self.nodes,) * 3,
            gravity=self.gravity,
            ground=self.ground,
            tools=self.tools,
            tool_friction=self.tool_friction,
        )
        self.engine = MpmEngine(
            self.model,
            dt=self.spec.control_dt / self.substeps,
            substeps=self.substeps,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
        )
        self._rest = self._tensor(points)  # on the floor; a task that wants it elsewhere sets it anew
        self._seen = observed_points(len(points), self.spec.observation_shapes["points"][0], self.device)

    @abstractmethod
    def poses(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [N, tool_count, 3] [m] and unit quaternions [N, tool_count, 4] of the tools."""

    @abstractmethod
    def moved(self, joint: Tensor, action: Tensor) -> Tensor:
        """The joints after a control step, both [N, joints]."""

    def dynamics(self, state: State, action: Tensor) -> State:
        """Moves the tools and works the block."""
        joint, frames = self._moves(state, action)
        kept = {key: value for key, value in state.items() if key not in MpmState._fields}
        return state_of(self.engine.step(matter_of(state), frames), **{**kept, "joint": joint})

    def physics_replays(
        self, state: State, action: Tensor, steps: int
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """The recorded substeps, with the tools moved by an action."""
        return self.engine.replays(matter_of(state), self._moves(state, action)[1], steps)

    def observe(self, state: State) -> Observation:
        """What the spec names, from the state: the centre of mass and the particles in units of 0.2 m, others as is."""
        x = SCALE * state["x"]
        seen = {**state, "com": x.mean(dim=1), "points": x[:, self._seen]}
        return {key: seen[key] for key in self.spec.observation_shapes}

    def scene(self, state: State, index: int) -> Scene:
        """Particles as balls, and what stands around them."""
        alone = {key: value[index].detach().cpu().double().numpy() for key, value in state.items()}
        radius = self.ball * self.model.volume ** (1.0 / 3.0)
        centre, extent = self.view
        matter = particle_balls(alone["x"], radius, self.colors(alone["x"]))
        return Scene(tuple(self.props(alone)), np.array(centre), extent, (matter, *self.marks(alone)))

    @abstractmethod
    def props(self, state: Mapping[str, Floats]) -> Sequence[SceneMesh]:
        """What is drawn besides the particles, from the state of one environment."""

    def marks(self, state: Mapping[str, Floats]) -> Sequence[SceneBalls]:
        """What is marked by balls, from the state of one environment."""
        return ()

    def colors(self, x: Floats) -> Floats:
        """Linear RGB of the particles, [3] or [P, 3]."""
        return BODY

    def _moves(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """The joints after a control step, and the tools' frames in each of its substeps."""
        joint, n = self.moved(state["joint"], action), len(action)
        x, q = self.poses(torch.cat([state["joint"], joint]))
        dt = self.spec.control_dt / self.substeps
        return joint, tool_frames((x[:n], q[:n]), (x[n:], q[n:]), self.substeps, dt)

    def _laid(self, draw: Tensor, width: float) -> MpmState:
        """Matter at rest, moved by `width` (draw - 0.5) along x and z, `draw` [N, 2] from U(0, 1)."""
        across, along = (draw - 0.5).unbind(dim=1)
        shift = width * torch.stack([across, torch.zeros_like(across), along], dim=1)
        return self.engine.at_rest(self._rest + shift[:, None])

    def _worked(self, state: State, action: Tensor, steps: int) -> dict[str, CheckSituation]:
        """The situation after some steps of one action, [action_dim]."""
        with torch.no_grad():
            for _ in range(steps):
                state = self.dynamics(state, action.expand(len(state["x"]), -1))
        return {"contact": CheckSituation(state, limit=1e-3, steps=2)}

    def _uniform(self, generator: torch.Generator, *shape: int) -> Tensor:
        # Drawn in float64 whatever the simulation's type, so that both types start alike.
        return torch.rand(*shape, generator=generator, dtype=torch.float64, device=self.device).to(self.dtype)

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values)).to(self.device, self.dtype)
