"""Pendulum swing-up: a task in plain torch, as small as a task can be.

A rod with a bob at its end hangs from a motor too weak to lift it straight up, so it has to be swung.
"""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from torch import Tensor

from rfo.core.scene import Scene, SceneMesh
from rfo.core.task import Observation, State, Task, TaskSpec

__all__ = ["PendulumSwingup"]

GRAVITY, LENGTH, MASS, DAMPING, MAX_TORQUE = 9.81, 1.0, 1.0, 0.1, 5.0  # [m/s^2, m, kg, N m s/rad, N m]


class PendulumSwingup(Task):
    """State: angle from upright [rad] and its rate [rad/s], each of shape [N]; one action, the torque."""

    spec = TaskSpec("pendulum-swingup", "torch", 1, 120, 0.05, {"state": (3,)})

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Hangs down, a little aside."""
        noise = 0.1 * torch.randn(2, n, generator=generator, device=self.device, dtype=self.dtype)
        return {"angle": torch.pi + noise[0], "rate": noise[1]}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Semi-implicit Euler in five substeps."""
        angle, rate, dt = state["angle"], state["rate"], self.spec.control_dt / 5
        for _ in range(5):
            torque = MASS * GRAVITY * LENGTH * angle.sin() - DAMPING * rate + MAX_TORQUE * action[:, 0]
            rate = rate + dt * torque / (MASS * LENGTH**2)
            angle = angle + dt * rate
        return {"angle": angle, "rate": rate}

    def observe(self, state: State) -> Observation:
        """Height and side of the bob relative to the length, and the rate."""
        return {"state": torch.stack([state["angle"].cos(), state["angle"].sin(), state["rate"]], dim=1)}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """At most 1, for standing upright at rest."""
        return next_state["angle"].cos() - 0.02 * next_state["rate"] ** 2 - 0.01 * action[:, 0] ** 2

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Height of the bob over the pivot relative to the length: 1 when upright."""
        return {"height": state["angle"].cos()}

    def scene(self, state: State, index: int) -> Scene:
        """A rod and a bob."""
        pivot, angle = np.array([0.0, 1.4, 0.0]), float(state["angle"][index])
        bob = pivot + LENGTH * np.array([np.sin(angle), np.cos(angle), 0.0])
        rod = trimesh.creation.cylinder(radius=0.03, segment=np.stack([pivot, bob]))
        ball = trimesh.creation.icosphere(radius=0.12).apply_translation(bob)
        colored = ((rod, (0.5, 0.5, 0.5)), (ball, (0.8, 0.1, 0.1)))
        meshes = (SceneMesh(m.vertices, m.faces, np.tile(color, (len(m.vertices), 1)), True) for m, color in colored)
        return Scene(tuple(meshes), focus=pivot, extent=1.4)
