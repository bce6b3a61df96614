"""Cart-pole swing-up: a hanging pole is to be swung up and held by pushing its cart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.task import CheckSituation, Observation, State, TaskSpec
from rfo.sim.rigid.kinematics import Kinematics
from rfo_envs.rigid.body import RigidTask, uniform

__all__ = ["CartpoleSwingup"]


class CartpoleSwingup(RigidTask):
    """State: `q` (cart position [m], pole angle from upright [rad]) and `v`; the action is a push of up to 1 kN.

    Reward: -(angle² + 0.1 rate² + 0.05 position² + 0.1 velocity²), the angle wrapped to half a turn each way.
    """

    spec = TaskSpec("cartpole-swingup", "warp-rigid", 1, 240, 1.0 / 60.0, {"state": (5,)})
    file = "cartpole"
    substeps = 4
    extent = 2.0

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Hangs, up to a quarter turn aside; the cart anywhere within half pi metres, both slow."""
        noise = uniform(generator, self.q_rest, n, 4)
        hanging = torch.tensor([0.0, torch.pi]).to(noise)
        return {"q": hanging + 0.5 * torch.pi * noise[:, :2], "v": 0.25 * noise[:, 2:]}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Pushes the cart."""
        q, v = self.engine.step(state["q"], state["v"], action)
        return {"q": q, "v": v}

    def observe(self, state: State) -> Observation:
        """Cart position and velocity, sine and cosine of the angle, its rate."""
        (x, angle), (speed, rate) = state["q"].unbind(1), state["v"].unbind(1)
        return {"state": torch.stack([x, speed, angle.sin(), angle.cos(), rate], dim=1)}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """At most 0, for standing upright at rest in the middle."""
        (x, angle), (speed, rate) = next_state["q"].unbind(1), next_state["v"].unbind(1)
        wrapped = torch.atan2(angle.sin(), angle.cos())
        return -(wrapped.square() + 0.1 * rate.square() + 0.05 * x.square() + 0.1 * speed.square())

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Height of the pole's tip over its hinge relative to its length: 1 when upright."""
        return {"height": state["q"][:, 1].cos()}

    def focus(self, kinematics: Kinematics) -> Any:
        """The middle of the rail."""
        return np.array([0.0, 0.0, 1.4])

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """At reset."""
        return {"reset": CheckSituation(self.initial_state(generator, n), limit=1e-6, steps=4)}
