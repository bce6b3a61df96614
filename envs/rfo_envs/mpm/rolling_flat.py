"""Flatten a block of plasticine with a rolling pin, full and quick.

Figures after Rewarped's RollingFlat (arXiv 2412.12089), on which SAPO's return is 100.4; code is our own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.colors import BODY
from rfo.core.scene import Scene
from rfo.core.task import CheckSituation, Observation, State, Task, TaskSpec
from rfo.sim.mpm import MpmEngine, MpmModel, capsule, lattice, plasticine
from rfo.sim.mpm.tools import quaternion_about, smooth_clamp, tool_frames
from rfo_envs.mpm.matter import matter_of, observed_points, particle_mesh, state_of, tool_mesh

__all__ = ["RollingFlat", "RollingFlatQuick"]

BLOCK = (0.3, 0.125, 0.3)  # [m]
SCALE = 5.0  # of positions in observations [1/m]
FLOOR = 0.0625  # height of the floor in the reward's measure [m]: three cells of the full grid lie below it


class RollingFlat(Task):
    """Roll a block flat: reward (1 / (1 + d))², doubled where d ≤ 0.33, less the variance of the heights.

    d is the mean height over 0.125 m, counted from the bottom of the grid: an untouched block then earns 75 in an
    episode, and the published returns fit. The pin moves along x and y and rolls about z, by at most 0.01 m and 3° per
    control step; its limits bend the motion instead of ending its gradient.
    """

    spec = TaskSpec(
        id="rolling-flat",
        engine="warp-mpm",
        action_dim=3,
        episode_length=300,
        control_dt=2e-3,
        observation_shapes={"joint": (3,), "com": (3,), "points": (250, 3)},
    )
    counts = (18, 8, 18)  # particles along x, y, z
    nodes = 48  # per metre and side
    substeps = 40
    pin = capsule(radius=0.03, length=0.4)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        points = lattice(self.counts, BLOCK)
        self.model = MpmModel(
            particle_count=len(points),
            volume=math.prod(BLOCK) / len(points),
            density=1.0,
            material=plasticine(young=5000.0, poisson=0.2, yield_stress=50.0),
            spacing=1.0 / self.nodes,
            nodes=(self.nodes,) * 3,
            gravity=-90.0,
            tools=(self.pin,),
            tool_friction=0.9,
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
        radius = self.pin.figures[3]
        self._rest, self._scale = make(points), make([0.01, 0.01, math.pi / 60.0])
        self._low, self._high = make([-0.3, radius + 0.01]), make([0.3, 0.3])
        self._bend = make([0.005, 0.005])
        self._seen = observed_points(len(points), self.spec.observation_shapes["points"][0], self.device)

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """A block at rest, moved by U(-0.02, 0.02) m along x and z, and the pin above it."""
        draw = torch.rand(n, 4, generator=generator, dtype=torch.float64, device=self.device).to(self.dtype) - 0.5
        shift = torch.stack([draw[:, 0], torch.zeros_like(draw[:, 0]), draw[:, 1]], dim=1) * 0.04
        matter = self.engine.at_rest(self._rest + shift[:, None])
        above = BLOCK[1] + self.pin.figures[3] + 0.02
        joint = torch.stack([0.04 * draw[:, 2], above + 0.02 * draw[:, 3], torch.zeros_like(draw[:, 0])], dim=1)
        return state_of(matter, joint=joint)

    def dynamics(self, state: State, action: Tensor) -> State:
        """Moves the pin and works the block."""
        joint = state["joint"] + self._scale * action
        joint = torch.cat([smooth_clamp(joint[:, :2], self._low, self._high, self._bend), joint[:, 2:]], dim=1)
        dt = self.spec.control_dt / self.substeps
        frames = tool_frames(self._pose(state["joint"]), self._pose(joint), self.substeps, dt)
        return state_of(self.engine.step(matter_of(state), frames), joint=joint)

    def observe(self, state: State) -> Observation:
        """The pin's joints, the centre of mass and some of the particles, positions in units of 0.2 m."""
        x, joint = SCALE * state["x"], state["joint"]
        joint = torch.cat([SCALE * joint[:, :2], joint[:, 2:]], dim=1)
        return {"joint": joint, "com": x.mean(dim=1), "points": x[:, self._seen]}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """The published reward."""
        height = next_state["x"][:, :, 1] + FLOOR
        d = height.mean(dim=1) / 0.125
        flat = (1.0 / (1.0 + d)).square()
        return torch.where(d <= 0.33, 2.0 * flat, flat) - height.var(dim=1, correction=0)

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Mean height over the floor [m]."""
        return {"height": state["x"][:, :, 1].mean(dim=1)}

    def scene(self, state: State, index: int) -> Scene:
        """Particles as balls, lighter the higher they lie, and the pin."""
        x = state["x"][index].detach().cpu().double().numpy()
        position, _ = self._pose(state["joint"][index : index + 1])
        pin = tool_mesh(self.pin, position[0, 0].detach().cpu().double().numpy(), np.eye(3))
        shade = 0.75 + 0.25 * np.clip(x[:, 1:2] / BLOCK[1], 0.0, 1.0)
        radius = 0.6 * self.model.volume ** (1.0 / 3.0)
        return Scene((particle_mesh(x, radius, shade * BODY), pin), np.array([0.0, 0.06, 0.0]), 0.3)

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """With the pin in the air, and pressed into the block."""
        state = self.initial_state(generator, n)
        down = state["joint"].new_tensor([0.3, -0.5, 0.5]).expand(n, -1)
        pressed = {**state, "joint": state["joint"] - state["joint"].new_tensor([0.0, 0.03, 0.0])}
        with torch.no_grad():
            for _ in range(3):
                pressed = self.dynamics(pressed, down)
        return {
            "contact": CheckSituation(pressed, limit=1e-3, steps=2),
        }

    def _pose(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        position = torch.cat([joint[:, :2], torch.zeros_like(joint[:, :1])], dim=1)
        return position[:, None], quaternion_about(2, joint[:, 2:])

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values)).to(self.device, self.dtype)


class RollingFlatQuick(RollingFlat):
    """The same block of 500 particles on a grid twice as coarse, under a thicker pin, 64 of them observed."""

    spec = TaskSpec(
        id="rolling-flat-quick",
        engine="warp-mpm",
        action_dim=3,
        episode_length=300,
        control_dt=2e-3,
        observation_shapes={"joint": (3,), "com": (3,), "points": (64, 3)},
    )
    counts = (10, 5, 10)
    nodes = 24
    substeps = 20
    pin = capsule(radius=0.05, length=0.4)
