"""Hopper: a torso on one leg of three joints, in a plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.task import CheckSituation, Observation, State, TaskSpec
from rfo.sim.trace import clamp, select
from rfo_envs.rigid.body import RigidTask, uniform

__all__ = ["Hopper"]


class Hopper(RigidTask):
    """Hop along x.

    State: `q` (x, z, pitch, hip, knee, ankle) and `v`. Heights are relative to the torso's when the leg is straight.
    Reward: v_x + height term + 1 - (pitch / 30 degrees)² - 0.1 Σ a².
    """

    spec = TaskSpec("hopper", "warp-rigid", 3, 1000, 1.0 / 60.0, {"body": (11,)})
    file = "hopper"
    substeps = 16
    extent = 1.3
    standing_height = 1.25
    falling_height = -0.45
    low_height = -0.3
    pitch_scale = torch.pi / 6.0
    effort = 0.1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        state = {"q": (self.model.q_count,), "v": (self.model.v_count,)}
        self._see = self.formula(self.see, state, self.spec.observation_shapes)
        self._value = self.formula(self.value, {**state, "action": (self.spec.action_dim,)}, {"reward": ()})

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Stands on a slightly bent leg, with noise."""
        noise = uniform(generator, self.q_rest, n, 12)
        bent = torch.tensor([0.0, self.standing_height, 0.0, -0.1, -0.2, 0.1]).to(noise)
        spread = torch.tensor([0.05, 0.02, 0.05, 0.05, 0.05, 0.05]).to(noise)
        return {"q": bent + spread * noise[:, :6], "v": 0.05 * noise[:, 6:]}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Advances with torques of up to 200 N m."""
        q, v = self.engine.step(state["q"], state["v"], action)
        return {"q": q, "v": v}

    def observe(self, state: State) -> Observation:
        """Relative height, pitch, three joints, and all six velocities."""
        return self._see(q=state["q"], v=state["v"])

    def see(self, q: Any, v: Any) -> dict[str, Any]:
        """What one hopper observes."""
        return {"body": np.concatenate([[q[1] - self.standing_height], q[2:], v])}

    def height(self, state: State) -> Tensor:
        """Height of the torso above its height on a straight leg [m], [N]."""
        return state["q"][:, 1] - self.standing_height

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Forward velocity, height above -0.3 m (up to 0.3, steeply punished below), upright pitch, less effort."""
        return self._value(q=next_state["q"], v=next_state["v"], action=action)["reward"]

    def value(self, q: Any, v: Any, action: Any) -> dict[str, Any]:
        """What a step to positions q and velocities v is worth to one hopper."""
        above = clamp(q[1] - self.standing_height - self.low_height, -1.0, 0.3)
        height = select(-above, -200.0 * above * above, above)
        pitch = 1.0 - (q[2] / self.pitch_scale) ** 2
        return {"reward": v[0] + height + pitch - self.effort * sum(a * a for a in action)}

    def terminated(self, state: State) -> Tensor:
        """The torso has fallen by 0.45 m."""
        return self.height(state) < self.falling_height

    def position(self, state: State) -> Tensor:
        """Torso along x [m]."""
        return state["q"][:, 0]

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Relative height and pitch."""
        return {"height": self.height(state), "pitch": state["q"][:, 2]}

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """In the air, and sliding on its foot."""
        state = self.initial_state(generator, n)
        air = {**state, "q": state["q"] + torch.tensor([0.0, 10.0, 0.0, 0.0, 0.0, 0.0]).to(state["q"])}
        landed = state
        for _ in range(10):
            landed = self.dynamics(landed, torch.zeros(n, 3).to(state["q"]))
        push = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).to(state["q"])
        return {
            "air": CheckSituation(air, limit=1e-6, steps=4),
            "standing": CheckSituation(landed, limit=1e-3, steps=4),
            "sliding": CheckSituation({**landed, "v": landed["v"] + push}, limit=1e-3, steps=4),
        }
