"""A small soft quadruped with eight muscles that learns to gallop in minutes on two cores."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.task import Observation, State, TaskSpec
from rfo_envs.fem.body import Probes
from rfo_envs.fem.locomotion import SoftLocomotion

__all__ = ["SoftQuadrupedQuick"]


class SoftQuadrupedQuick(SoftLocomotion):
    """Gallop forward: reward is the centre of mass's speed along x, less effort, tilting and turning.

    The body has 102 vertices, 160 tetrahedra and 32 kg; each leg has a front and a back muscle along its length.
    """

    spec = TaskSpec(
        id="soft-quadruped-quick",
        engine="warp-fem",
        action_dim=8,
        episode_length=300,
        control_dt=1.0 / 60.0,
        observation_shapes={"body": (74,)},
    )
    body = "soft_quadruped_quick"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._feet = self._probes.rows(*(f"foot_{i}" for i in range(4)))
        self._corners = self._probes.rows(*(f"corner_{i}" for i in range(4)))

    def observe(self, state: State) -> Observation:
        """74 figures: height, velocities, body axes, feet and corners about the centre of mass, muscles, clock."""
        x, v = self._probes(state["x"]), self._probes(state["v"])
        com, com_v = x[:, :1], v[:, :1]
        feet, corners = self._feet, self._corners
        axes, axes_v = self._axes(x), self._axes(v)
        parts = [
            5.0 * com[..., 1],
            com_v,
            axes,
            4.0 * (x[:, feet + corners] - com),
            axes_v[:, 0],
            0.5 * (v[:, feet] - com_v),
            10.0 * x[:, feet, 1],
            0.5 * (v[:, corners] - com_v)[..., :2],
            state["muscle"],
            torch.stack([state["phase"].sin(), state["phase"].cos()], dim=1),
        ]
        return {"body": torch.cat([part.flatten(1) for part in parts], dim=1)}

    def _axes(self, probes: Tensor) -> Tensor:
        """Up, forward and side vectors of the torso over their rest lengths, [N, probe, 3] → [N, 3, 3]."""
        plus, minus = self._probes.rows("top", "front", "left"), self._probes.rows("bottom", "back", "right")
        return (probes[:, plus] - probes[:, minus]) / self._axis_lengths[:, None]

    @cached_property
    def _axis_lengths(self) -> Tensor:
        torso = self._rest[self._rest[:, 1] > 0.15]
        extent = torso.amax(dim=0) - torso.amin(dim=0)
        return extent[[1, 0, 2]]

    def _make_probes(self) -> Probes:
        rest = self.model.vertices
        torso = rest[:, 1] > 0.15
        low, high = rest[torso].min(axis=0), rest[torso].max(axis=0)

        def mean(chosen: Any) -> Any:
            return chosen / chosen.sum()

        sides = {
            "top": (1, high),
            "bottom": (1, low),
            "front": (0, high),
            "back": (0, low),
            "left": (2, high),
            "right": (2, low),
        }
        weights = {"com": self.model.mass / self.model.mass.sum()}
        for name, (axis, end) in sides.items():
            weights[name] = mean(torso & np.isclose(rest[:, axis], end[axis]))
        for i, (front, left) in enumerate([(1, 1), (1, 0), (0, 1), (0, 0)]):
            half = (rest[:, 0] > 0.3) == front
            quarter = half & ((rest[:, 2] > 0.2) == left)
            weights[f"foot_{i}"] = mean(quarter & np.isclose(rest[:, 1], 0.0))
            tip = [(high if front else low)[0], high[1], (high if left else low)[2]]
            weights[f"corner_{i}"] = mean(np.isclose(rest, tip).all(axis=1))
        return Probes(weights, self._rest)
