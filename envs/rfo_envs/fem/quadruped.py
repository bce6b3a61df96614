"""The soft quadruped of the public benchmark suite: 444 tetrahedra, 222 activations, 80 substeps.

Figures after Rewarped's SoftJumper (arXiv 2412.12089), on which SAPO's return is 1820.5; body and code are our own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.scene import Scene
from rfo.core.task import CheckSituation, Observation, State, TaskSpec
from rfo.sim.fem import FemContact, FemModel
from rfo.sim.fem.mesh import SoftBody
from rfo_envs.assets import asset_path
from rfo_envs.fem.body import SoftTask, soft_scene
from rfo_envs.fem.refine import refine

__all__ = ["SoftQuadruped"]

SCALE = 0.1  # of positions and velocities in observations and reward, as published
BODY = "bodies/soft_quadruped.npz"
EDGE = 0.2  # of the body's cubes [m]
CUTS = ((1, 1, 1), (2, 1, 1), (2, 1, 2), (2, 2, 2), (3, 2, 3), (3, 3, 3), (4, 3, 4))
"""Boxes that a cube becomes along x, y and z: 444 to 21,312 tetrahedra, all stable at the published substep."""


class SoftQuadruped(SoftTask):
    """Move forward and up: 10 v_x + 30 (height - start height) - 0.001 Σ a², positions and velocities scaled by 0.1.

    One volumetric activation for each two tetrahedra. An episode never terminates early.

    Unlike the published task, an action is filtered to first order into an activation (a time constant of 33 ms, as of
    muscle). Where actions act at once, RFO learns to alternate between -1 and 1 at every control step: the body stands
    still, trembles at 30 Hz and skates forward at 3 m/s.
    """

    spec = TaskSpec(
        id="soft-quadruped",
        engine="warp-fem",
        action_dim=222,
        episode_length=300,
        control_dt=1.0 / 60.0,
        observation_shapes={"phase": (8,), "com": (3,), "com_velocity": (3,), "muscle": (222,), "points": (204, 6)},
    )
    substeps = 80
    start_height = 0.2  # of the feet [m]
    phase_rate = 5.0  # [rad/s]
    activation_rate = 0.4  # share of the way to the commanded activation per control step

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        lifted = self.model.vertices + np.array([0.0, self.start_height, 0.0])
        centre = lifted.mean(axis=0) * [1.0, 0.0, 1.0]
        self._rest = torch.as_tensor(lifted - centre).to(self.device, self.dtype)

    @classmethod
    def refinements(cls) -> dict[int, type[SoftQuadruped]]:
        """The task on the same body cut finer, by number of tetrahedra: `rfo bench soft-quadruped --scaling`."""
        whole = SoftBody.load(asset_path(BODY))
        bodies = [refine(whole, EDGE, cuts) for cuts in CUTS]
        return {len(body.tets): _on(body) for body in bodies}

    def shape(self) -> SoftBody:
        """The body without its material."""
        return SoftBody.load(asset_path(BODY))

    def make_body(self) -> FemModel:
        """The body with the published figures."""
        return self.shape().model(
            mu=1000.0,
            lam=1000.0,
            eta=1.0,
            strength=0.3 * 1000.0,  # activations of 0.3 shift the volume ratio, which lambda turns into a stress
            contact=FemContact(stiffness=2e3, damping=1.0, friction=0.7, ramp=0.001),
            activation="volumetric",
            damping="viscous",
        )

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """At rest, moved by U(-0.8, 0.8) m sideways, U(0, 0.4) m up, and scaled by U(0.9, 1.1)."""
        draw = torch.rand(n, 4, generator=generator, dtype=torch.float64, device=self.device).to(self.dtype)
        low, size = self._rest.new_tensor([-0.8, 0.0, -0.8]), self._rest.new_tensor([1.6, 0.4, 1.6])
        offset, scale = low + size * draw[:, :3], 0.9 + 0.2 * draw[:, 3]
        x = self._rest * scale[:, None, None] + offset[:, None]
        zeros = self._rest.new_zeros
        return {"x": x, "v": torch.zeros_like(x), "muscle": zeros(n, 222), "time": zeros(n)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Filters the action into activations and advances the body."""
        muscle = torch.lerp(state["muscle"], action, self.activation_rate)
        x, v = self.engine.step(state["x"], state["v"], muscle)
        return {"x": x, "v": v, "muscle": muscle, "time": state["time"] + self.spec.control_dt}

    def observe(self, state: State) -> Observation:
        """A clock in eight phases, centre of mass, its velocity, the activations, every vertex with its velocity."""
        phases = torch.arange(8, device=self.device, dtype=self.dtype) * (torch.pi / 4.0)
        x, v = SCALE * state["x"], SCALE * state["v"]
        return {
            "phase": torch.sin(self.phase_rate * state["time"][:, None] + phases),
            "com": self._mean(x),
            "com_velocity": self._mean(v),
            "muscle": state["muscle"],
            "points": torch.cat([x, v], dim=2),
        }

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """The published reward."""
        speed, height = self._mean(next_state["v"])[:, 0], self._mean(next_state["x"])[:, 1]
        return SCALE * (10.0 * speed + 30.0 * (height - self._rest_height)) - 0.001 * action.square().sum(dim=1)

    def position(self, state: State) -> Tensor:
        """Centre of mass along x [m]."""
        return self._mean(state["x"])[:, 0]

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Height of the centre of mass [m]."""
        return {"height": self._mean(state["x"])[:, 1]}

    def scene(self, state: State, index: int) -> Scene:
        """The body's surface, lit up by its activations."""
        return soft_scene(self.model, state, index, state["muscle"])

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """In the air, and with the feet sliding over the ground."""
        state = self.initial_state(generator, n)
        air = {**state, "x": state["x"] + state["x"].new_tensor([0.0, 0.5, 0.0])}
        ground = self._rest - self._rest.new_tensor([0.0, self.start_height + 0.005, 0.0])
        sliding = {
            **state,
            "x": ground.expand(n, -1, -1).clone(),
            "v": state["v"] + state["v"].new_tensor([0.5, 0.0, 0.1]),
        }
        return {
            "air": CheckSituation(air, limit=1e-6, steps=4),
            "contact": CheckSituation(sliding, limit=1e-4, steps=4),
        }

    @cached_property
    def _rest_height(self) -> Tensor:
        return self._rest[:, 1] @ self._mass_share

    def _mean(self, vertices: Tensor) -> Tensor:
        """Mass-weighted mean of the vertices, [N, V, 3] → [N, 3]."""
        return (self._mass_share @ vertices.permute(1, 2, 0).reshape(len(self._rest), -1)).view(3, -1).T


def _on(body: SoftBody) -> type[SoftQuadruped]:
    """The task on another body."""
    shapes = {**SoftQuadruped.spec.observation_shapes, "points": (len(body.vertices), 6)}

    class Refined(SoftQuadruped):
        spec = replace(SoftQuadruped.spec, observation_shapes=shapes)

        def shape(self) -> SoftBody:
            return body

    return Refined
