"""Running with a floating base: what ant, ANYmal-like quadruped and humanoid have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rfo.core.task import CheckSituation, Observation, State
from rfo.sim.rigid.spatial import dot
from rfo.sim.trace import rsqrt
from rfo_envs.rigid.body import RigidTask, forward_x, uniform, up_z

__all__ = ["Locomotion"]


class Locomotion(RigidTask):
    """Run along x without falling.

    State: `q` (position 3, quaternion 4, joints), `v` (velocity 3 in world axes, angular velocity 3 in the body's,
    joint rates) and the last `action`. Observation `body`: height, quaternion 4, velocity 3, angular velocity 3,
    joints, joint rates x 0.1, up, heading, last action.

    Attributes:
        standing_height: Height of the base at reset [m].
        falling_height: Height of the base below which an episode ends [m].
        up_weight: Reward per vertical part of the base's up axis.
        effort: Cost per squared action.
        spread: Reset noise of the position [m].
        joint_spread: Reset noise of joints [rad].
    """

    standing_height: ClassVar[float]
    falling_height: ClassVar[float]
    up_weight: ClassVar[float] = 0.1
    effort: ClassVar[float] = 0.0
    spread: ClassVar[float] = 0.1
    joint_spread: ClassVar[float] = 0.2

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stance = self.q_rest.clone()
        self._stance[2] = self.standing_height
        for joint in self.model.joints[1:]:
            self._stance[joint.q_start] = self.stance(joint.name)
        state = {"q": (self.model.q_count,), "v": (self.model.v_count,)}
        action = {"action": (self.spec.action_dim,)}
        drawn = dict.fromkeys(("at", "speed"), state["v"])
        self._start = self.formula(self.start, drawn, state)
        self._see = self.formula(self.see, {**state, **action}, self.spec.observation_shapes)
        self._value = self.formula(self.value, {**state, **(action if self.effort else {})}, {"reward": ()})

    def stance(self, joint: str) -> float:
        """Where a joint stands at reset [rad], by its name."""
        return 0.0

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Stands, with noise on position, attitude (by up to 7.5 degrees about each axis), joints and velocities."""
        like, count = self._stance, self.model.v_count
        drawn = {name: uniform(generator, like, n, count) for name in ("at", "speed")}
        action = torch.zeros(n, self.spec.action_dim, device=self.device, dtype=self.dtype)
        return {**self._start(**drawn), "action": action}

    def start(self, at: Any, speed: Any) -> dict[str, Any]:
        """Where one body starts, given numbers from [-1, 1] for each of its degrees of freedom."""
        stance = self._stance.double().numpy(force=True)
        half = 0.5 * (np.pi / 24.0) * at[3:6]
        quaternion = np.array([1.0, *half]) * rsqrt(1.0 + dot(half, half))
        position, joints = stance[:3] + self.spread * at[:3], stance[7:] + self.joint_spread * at[6:]
        return {"q": np.concatenate([position, quaternion, joints]), "v": 0.25 * speed}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Advances the bodies with the action as control."""
        q, v = self.engine.step(state["q"], state["v"], action)
        return {"q": q, "v": v, "action": action}

    def observe(self, state: State) -> Observation:
        """Everything but where it is along x and y; see `see`."""
        return self._see(q=state["q"], v=state["v"], action=state["action"])

    def see(self, q: Any, v: Any, action: Any) -> dict[str, Any]:
        """What one body observes."""
        directions = [up_z(q[3:7]), forward_x(q[3:7])]
        return {"body": np.concatenate([q[2:7], v[:6], q[7:], 0.1 * v[6:], directions, action])}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Forward velocity [m/s] + up + heading + height term - effort; see `value`."""
        effort = {"action": action} if self.effort else {}
        return self._value(q=next_state["q"], v=next_state["v"], **effort)["reward"]

    def value(self, q: Any, v: Any, action: Any = ()) -> dict[str, Any]:
        """What a step to positions q and velocities v is worth to one body."""
        total = v[0] + self.up_weight * up_z(q[3:7]) + forward_x(q[3:7]) + self.height_term(q[2])
        return {"reward": total - self.effort * sum(a * a for a in action)}

    def height_term(self, height: Any) -> Any:
        """Reward for standing high."""
        return height - self.falling_height

    def terminated(self, state: State) -> Tensor:
        """The base is below its falling height."""
        return state["q"][:, 2] < self.falling_height

    def position(self, state: State) -> Tensor:
        """Base along x [m]."""
        return state["q"][:, 0]

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Height of the base and the vertical part of its up axis."""
        return {"height": state["q"][:, 2], "up": up_z(state["q"][:, 3:7].unbind(1))}

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """In the air, standing, and sliding on the ground."""
        state = self.initial_state(generator, n)
        air = {**state, "q": state["q"] + torch.eye(len(self._stance)).to(state["q"])[2] * 10.0}
        standing = state
        for _ in range(20):
            standing = self.dynamics(standing, torch.zeros_like(state["action"]))
        fast = torch.eye(self.model.v_count).to(state["v"])[0] * 2.0
        sliding = {**standing, "v": standing["v"] + fast}
        return {
            "air": CheckSituation(air, limit=1e-6, steps=4),
            "standing": CheckSituation(standing, limit=1e-3, steps=4),
            "sliding": CheckSituation(sliding, limit=1e-3, steps=4),
        }
