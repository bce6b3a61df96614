"""Carry water in an open box to a place without spilling it, full and quick.

Figures after Rewarped's FluidMove (arXiv 2412.12089), on which SAPO's return is 30.6; code is our own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.colors import PROP, linear_from_srgb
from rfo.core.scene import Scene, SceneMesh
from rfo.core.task import CheckSituation, Observation, State, Task, TaskSpec
from rfo.sim.mpm import Ground, MpmEngine, MpmModel, box, box_shell, lattice, water
from rfo.sim.mpm.tools import quaternion_about, smooth_clamp, tool_frames
from rfo_envs.mpm.matter import matter_of, observed_points, particle_mesh, state_of, tool_mesh

__all__ = ["FluidMove", "FluidMoveQuick"]

HOLLOW = (0.18, 0.16, 0.22)  # of the box [m]
WATER = (0.165, 0.1, 0.205)  # block at the beginning of an episode [m]
START = (0.0, 0.28, 0.0)  # centre of the hollow [m]
REACH = (0.15, 0.1, 0.15)  # largest distance of a target from where the water starts [m]
SCALE = 5.0  # of positions in observations [1/m]
SPILL_WIDTH = 0.006  # softness of the count [m]
BLUE = linear_from_srgb([0.29, 0.56, 0.78])


class FluidMove(Task):
    """Bring the water's centre to a target: reward 0.1 (1 / (1 + d²))², doubled where d ≤ 0.02 m, less what is spilt.

    What is spilt is the share of the particles outside the box, each counted by a sigmoid some millimetres wide, so
    that a gradient says how to keep it in. The box moves along x, y and z by at most 0.01 m per control step.
    """

    spec = TaskSpec(
        id="fluid-move",
        engine="warp-mpm",
        action_dim=3,
        episode_length=300,
        control_dt=0.02,
        observation_shapes={"joint": (3,), "com": (3,), "target": (3,), "points": (250, 3)},
    )
    counts = (16, 9, 20)  # particles along x, y, z
    nodes = 48  # per metre and side
    substeps = 40
    wall = 0.04  # two cells [m]: thinner walls let water through

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        points = lattice(self.counts, WATER)
        self.model = MpmModel(
            particle_count=len(points),
            volume=math.prod(WATER) / len(points),
            density=1000.0,
            material=water(young=1e5, poisson=0.3),
            spacing=1.0 / self.nodes,
            nodes=(self.nodes,) * 3,
            gravity=-9.8,
            ground=Ground(friction=0.0),
            tools=(box_shell(HOLLOW, self.wall),),
            tool_friction=0.5,
        )
        self.engine = MpmEngine(
            self.model,
            dt=self.spec.control_dt / self.substeps,
            substeps=self.substeps,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
        )
        make = self._tensor
        start = np.array(START)
        self._rest = make(points + start - [0.0, 0.5 * HOLLOW[1] - 0.003, 0.0])
        self._start, self._half, self._reach = make(start), make(0.5 * np.array(HOLLOW)), make(REACH)
        room = np.array([0.2, 0.15, 0.2])
        self._low, self._high, self._bend = make(start - room), make(start + room), make([0.005] * 3)
        self._seen = observed_points(len(points), self.spec.observation_shapes["points"][0], self.device)

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Water at rest in the box, and a target drawn evenly from the places around it."""
        draw = torch.rand(n, 3, generator=generator, dtype=torch.float64, device=self.device).to(self.dtype)
        matter = self.engine.at_rest(self._rest.expand(n, -1, -1))
        target = matter.x.mean(dim=1) + (2.0 * draw - 1.0) * self._reach
        return state_of(matter, joint=self._start.expand(n, -1).clone(), target=target)

    def dynamics(self, state: State, action: Tensor) -> State:
        """Moves the box and the water in it."""
        joint = smooth_clamp(state["joint"] + 0.01 * action, self._low, self._high, self._bend)
        dt = self.spec.control_dt / self.substeps
        frames = tool_frames(self._pose(state["joint"]), self._pose(joint), self.substeps, dt)
        return state_of(self.engine.step(matter_of(state), frames), joint=joint, target=state["target"])

    def observe(self, state: State) -> Observation:
        """The box's place, the water's centre, the target and some of the particles, in units of 0.2 m."""
        x = SCALE * state["x"]
        return {
            "joint": SCALE * state["joint"],
            "com": x.mean(dim=1),
            "target": SCALE * state["target"],
            "points": x[:, self._seen],
        }

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Closeness of the water's centre to the target, less the share that was spilt."""
        squared = (next_state["x"].mean(dim=1) - next_state["target"]).square().sum(dim=1)
        close = 0.1 * (1.0 / (1.0 + squared)).square()
        return torch.where(squared <= 0.02**2, 2.0 * close, close) - self.spilt(next_state)

    def spilt(self, state: State) -> Tensor:
        """Share of the particles outside the box, softly counted, [N].

        A particle counts half where three quarters of the wall lie behind it: the grid lets water sink into a wall by
        up to a cell.
        """
        beyond = (state["x"] - state["joint"][:, None]).abs() - self._half
        outside = beyond.amax(dim=2)
        return torch.sigmoid((outside - 0.75 * self.wall) / SPILL_WIDTH).mean(dim=1)

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Distance of the water's centre from the target [m] and the share spilt."""
        away = (state["x"].mean(dim=1) - state["target"]).norm(dim=1)
        return {"distance": away, "spilt": self.spilt(state)}

    def scene(self, state: State, index: int) -> Scene:
        """Particles as balls, the box without its front, and the target."""
        x = state["x"][index].detach().cpu().double().numpy()
        at = state["joint"][index].detach().cpu().double().numpy()
        target = state["target"][index].detach().cpu().double().numpy()
        radius = 0.7 * self.model.volume ** (1.0 / 3.0)
        mark = particle_mesh(target[None], 0.02, linear_from_srgb([0.9, 0.6, 0.2]))
        meshes = (particle_mesh(x, radius, BLUE), mark, *_box_meshes(at, 0.01))
        return Scene(meshes, np.array([0.0, 0.2, 0.0]), 0.35)

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """Water pressed against the moving box."""
        state = self.initial_state(generator, n)
        push = state["joint"].new_tensor([0.6, 0.3, -0.4]).expand(n, -1)
        with torch.no_grad():
            for _ in range(5):
                state = self.dynamics(state, push)
        return {"contact": CheckSituation(state, limit=1e-3, steps=2)}

    def _pose(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        return joint[:, None], quaternion_about(2, torch.zeros_like(joint[:, :1]))

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values)).to(self.device, self.dtype)


class FluidMoveQuick(FluidMove):
    """The same with 400 particles on a grid twice as coarse, 64 of them observed."""

    spec = TaskSpec(
        id="fluid-move-quick",
        engine="warp-mpm",
        action_dim=3,
        episode_length=300,
        control_dt=0.02,
        observation_shapes={"joint": (3,), "com": (3,), "target": (3,), "points": (64, 3)},
    )
    counts = (8, 5, 10)
    nodes = 24
    substeps = 20
    wall = 0.08


def _box_meshes(at: np.ndarray[Any, np.dtype[np.float64]], thick: float) -> list[SceneMesh]:
    """Bottom, back and sides of the box, drawn thin."""
    x, y, z = HOLLOW
    parts = [
        ((x + 2 * thick, thick, z + 2 * thick), (0.0, -0.5 * (y + thick), 0.0)),
        ((thick, y, z + 2 * thick), (-0.5 * (x + thick), 0.0, 0.0)),
        ((thick, y, z + 2 * thick), (0.5 * (x + thick), 0.0, 0.0)),
        ((x, y, thick), (0.0, 0.0, -0.5 * (z + thick))),
    ]
    return [tool_mesh(box(size), at + np.array(offset), np.eye(3), PROP) for size, offset in parts]
