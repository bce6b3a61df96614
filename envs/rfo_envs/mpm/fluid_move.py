"""Carry water in an open box to a place without spilling it, full and quick.

Figures after Rewarped's FluidMove (arXiv 2412.12089), on which SAPO's return is 30.6; code is our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.colors import PROP, linear_from_srgb
from rfo.core.scene import SceneBalls, SceneMesh
from rfo.core.task import CheckSituation, Observation, State
from rfo.sim.mpm import Ground, box, box_shell, lattice, water
from rfo.sim.mpm.tools import quaternion_about, smooth_clamp
from rfo_envs.mpm.manipulation import SCALE, Manipulation, manipulation_spec
from rfo_envs.mpm.matter import Floats, particle_balls, state_of, tool_mesh

__all__ = ["FluidMove", "FluidMoveQuick"]

HOLLOW = (0.18, 0.16, 0.22)  # of the box [m]
START = (0.0, 0.28, 0.0)  # centre of the hollow [m]
REACH = (0.15, 0.1, 0.15)  # largest distance of a target from where the water starts [m]
SPILL_WIDTH = 0.006  # softness of the count [m]
BLUE = linear_from_srgb([0.29, 0.56, 0.78])


class FluidMove(Manipulation):
    """Bring the water's centre to a target: reward 0.1 (1 / (1 + d²))², doubled where d ≤ 0.02 m, less what is spilt.

    What is spilt is the share of the particles outside the box, each counted by a sigmoid some millimetres wide, so
    that a gradient says how to keep it in. The box moves along x, y and z by at most 0.01 m per control step.
    """

    spec = manipulation_spec("fluid-move", joints=3, points=250, control_dt=0.02, target=(3,))
    size = (0.165, 0.1, 0.205)
    density = 1000.0
    material = water(young=1e5, poisson=0.3)
    gravity = -9.8
    ground = Ground(friction=0.0)
    counts = (16, 9, 20)
    nodes = 48
    substeps = 40
    ball = 0.7
    view = ((0.0, 0.2, 0.0), 0.35)
    wall = 0.04  # two cells [m]: thinner walls let water through
    tools = (box_shell(HOLLOW, wall),)
    stride = 0.01  # largest motion of the box in a control step [m]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make, start, room = self._tensor, np.array(START), np.array([0.2, 0.15, 0.2])
        self._rest = make(lattice(self.counts, self.size) + start - [0.0, 0.5 * HOLLOW[1] - 0.003, 0.0])
        self._start, self._half, self._reach = make(start), make(0.5 * np.array(HOLLOW)), make(REACH)
        self._low, self._high, self._bend = make(start - room), make(start + room), make([0.005] * 3)

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Water at rest in the box, and a target drawn evenly from the places around it."""
        draw = self._uniform(generator, n, 3)
        matter = self.engine.at_rest(self._rest.expand(n, -1, -1))
        target = matter.x.mean(dim=1) + (2.0 * draw - 1.0) * self._reach
        return state_of(matter, joint=self._start.expand(n, -1).clone(), target=target)

    def moved(self, joint: Tensor, action: Tensor) -> Tensor:
        """The centre of the box's hollow [m], [N, 3]."""
        return smooth_clamp(joint + self.stride * action, self._low, self._high, self._bend)

    def poses(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Where the box is; it stays upright."""
        return joint[:, None], quaternion_about(2, torch.zeros_like(joint[:, :1]))

    def observe(self, state: State) -> Observation:
        """The box's place, the water's centre, the way from there to the target, some particles, in units of 0.2 m.

        The target is seen from the water: few of them are drawn in a training, and critics that saw where they lie
        learnt which of them are near the start and nothing of how to get there.
        """
        ahead = state["target"] - state["x"].mean(dim=1)
        return {**super().observe(state), "joint": SCALE * state["joint"], "target": SCALE * ahead}

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

    def colors(self, x: Floats) -> Floats:
        """Blue."""
        return BLUE

    def props(self, state: Mapping[str, Floats]) -> Sequence[SceneMesh]:
        """The box without its front."""
        return _box_meshes(state["joint"], 0.01)

    def marks(self, state: Mapping[str, Floats]) -> Sequence[SceneBalls]:
        """The target."""
        return [particle_balls(state["target"][None], 0.02, linear_from_srgb([0.9, 0.6, 0.2]))]

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """Water pressed against the moving box."""
        return self._worked(self.initial_state(generator, n), self._tensor([0.6, 0.3, -0.4]), steps=5)


class FluidMoveQuick(FluidMove):
    """The same with 400 particles on a grid twice as coarse, 64 of them observed, in a box half as fast."""

    spec = manipulation_spec("fluid-move-quick", joints=3, points=64, control_dt=0.02, target=(3,))
    counts = (8, 5, 10)
    nodes = 24
    substeps = 20
    wall = 0.08
    tools = (box_shell(HOLLOW, wall),)
    stride = 0.005


def _box_meshes(at: Floats, thick: float) -> list[SceneMesh]:
    """Bottom, back and sides of the box, drawn thin."""
    x, y, z = HOLLOW
    parts = [
        ((x + 2 * thick, thick, z + 2 * thick), (0.0, -0.5 * (y + thick), 0.0)),
        ((thick, y, z + 2 * thick), (-0.5 * (x + thick), 0.0, 0.0)),
        ((thick, y, z + 2 * thick), (0.5 * (x + thick), 0.0, 0.0)),
        ((x, y, thick), (0.0, 0.0, -0.5 * (z + thick))),
    ]
    return [tool_mesh(box(size), at + np.array(offset), np.eye(3), PROP) for size, offset in parts]
