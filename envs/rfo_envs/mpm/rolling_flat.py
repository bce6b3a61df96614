"""Flatten a block of plasticine with a rolling pin, full and quick.

Figures after Rewarped's RollingFlat (arXiv 2412.12089), on which SAPO's return is 100.4; code is our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.colors import BODY
from rfo.core.scene import SceneMesh
from rfo.core.task import CheckSituation, Observation, State
from rfo.sim.mpm import capsule, plasticine
from rfo.sim.mpm.tools import quaternion_about, smooth_clamp
from rfo_envs.mpm.manipulation import SCALE, Manipulation, manipulation_spec
from rfo_envs.mpm.matter import Floats, state_of, tool_mesh

__all__ = ["RollingFlat", "RollingFlatQuick"]

FLOOR = 0.0625  # height of the floor in the reward's measure [m]: three cells of the full grid lie below it


class RollingFlat(Manipulation):
    """Roll a block flat: reward (1 / (1 + d))², doubled where d ≤ 0.33, less the variance of the heights.

    d is the mean height over 0.125 m, counted from the bottom of the grid: an untouched block then earns 75 in an
    episode, and the published returns fit. The pin moves along x and y and rolls about z, by at most 0.01 m and 3° per
    control step; its limits bend the motion instead of ending its gradient.
    """

    spec = manipulation_spec("rolling-flat", joints=3, points=250)
    size = (0.3, 0.125, 0.3)
    density = 1.0
    material = plasticine(young=5000.0, poisson=0.2, yield_stress=50.0)
    gravity = -90.0
    tool_friction = 0.9
    counts = (18, 8, 18)
    nodes = 48
    substeps = 40
    view = ((0.0, 0.06, 0.0), 0.3)
    pin = capsule(radius=0.03, length=0.4)
    tools = (pin,)
    stride = (0.01, math.pi / 60.0)  # largest motion [m] and turn [rad] of the pin in a control step
    gap = 0.02  # between block and pin at the start [m]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make, radius = self._tensor, self.pin.figures[3]
        self._scale = make([self.stride[0], *self.stride])
        self._low, self._high, self._bend = make([-0.3, radius + 0.01]), make([0.3, 0.3]), make([0.005, 0.005])

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """A block at rest, moved by U(-0.02, 0.02) m along x and z, and the pin above it."""
        draw = self._uniform(generator, n, 4)
        x, y = (draw[:, 2:] - 0.5).unbind(dim=1)
        above = self.size[1] + self.pin.figures[3] + self.gap
        joint = torch.stack([0.04 * x, above + self.gap * y, torch.zeros_like(x)], dim=1)
        return state_of(self._laid(draw[:, :2], 0.04), joint=joint)

    def moved(self, joint: Tensor, action: Tensor) -> Tensor:
        """The pin's place along x and y [m] and its turn about z, [N, 3]."""
        joint = joint + self._scale * action
        return torch.cat([smooth_clamp(joint[:, :2], self._low, self._high, self._bend), joint[:, 2:]], dim=1)

    def poses(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Where the pin is."""
        position = torch.cat([joint[:, :2], torch.zeros_like(joint[:, :1])], dim=1)
        return position[:, None], quaternion_about(2, joint[:, 2:])

    def observe(self, state: State) -> Observation:
        """The pin's joints, the centre of mass and some of the particles, positions in units of 0.2 m."""
        joint = state["joint"]
        return {**super().observe(state), "joint": torch.cat([SCALE * joint[:, :2], joint[:, 2:]], dim=1)}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """The published reward."""
        height = next_state["x"][:, :, 1] + FLOOR
        d = height.mean(dim=1) / 0.125
        flat = (1.0 / (1.0 + d)).square()
        return torch.where(d <= 0.33, 2.0 * flat, flat) - height.var(dim=1, correction=0)

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Mean height over the floor [m]."""
        return {"height": state["x"][:, :, 1].mean(dim=1)}

    def colors(self, x: Floats) -> Floats:
        """Lighter the higher a particle lies."""
        return (0.75 + 0.25 * np.clip(x[:, 1:2] / self.size[1], 0.0, 1.0)) * BODY

    def props(self, state: Mapping[str, Floats]) -> Sequence[SceneMesh]:
        """The pin."""
        return [tool_mesh(self.pin, np.array([*state["joint"][:2], 0.0]), np.eye(3))]

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """The pin pressed into the block."""
        state = self.initial_state(generator, n)
        pressed = {**state, "joint": state["joint"] - self._tensor([0.0, 0.03, 0.0])}
        return self._worked(pressed, self._tensor([0.3, -0.5, 0.5]), steps=3)


class RollingFlatQuick(RollingFlat):
    """The same block of 500 particles on a grid twice as coarse, under a thicker pin, 64 of them observed.

    The pin starts closer, moves more slowly and turns as far as it rolls: a policy that begins with random actions then
    touches the block, and does not shake it.
    """

    spec = manipulation_spec("rolling-flat-quick", joints=3, points=64)
    counts = (10, 5, 10)
    nodes = 24
    substeps = 20
    pin = capsule(radius=0.05, length=0.4)
    tools = (pin,)
    stride = (0.004, 0.08)
    gap = 0.005
