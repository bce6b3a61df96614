"""Running with a floating base: what ant, ANYmal-like quadruped and humanoid have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rfo.core.task import CheckSituation, Observation, State
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

    def stance(self, joint: str) -> float:
        """Where a joint stands at reset [rad], by its name."""
        return 0.0

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Stands, with noise on position, attitude (by up to 7.5 degrees about each axis), joints and velocities."""
        like, joint_count = self._stance, len(self._stance) - 7
        noise = uniform(generator, like, n, 6 + joint_count)
        half = 0.5 * (torch.pi / 24.0) * noise[:, 3:6]
        quaternion = torch.cat([torch.ones_like(half[:, :1]), half], dim=1)
        quaternion = quaternion / quaternion.norm(dim=1, keepdim=True)
        position = like[:3] + self.spread * noise[:, :3]
        joints = like[7:] + self.joint_spread * noise[:, 6:]
        v = 0.25 * uniform(generator, like, n, self.model.v_count)
        return {
            "q": torch.cat([position, quaternion, joints], dim=1),
            "v": v,
            "action": torch.zeros(n, self.spec.action_dim, device=self.device, dtype=self.dtype),
        }

    def dynamics(self, state: State, action: Tensor) -> State:
        """Advances the bodies with the action as control."""
        q, v = self.engine.step(state["q"], state["v"], action)
        return {"q": q, "v": v, "action": action}

    def observe(self, state: State) -> Observation:
        """Everything but where it is along x and y."""
        q, v = state["q"], state["v"]
        quaternion = q[:, 3:7]
        directions = torch.stack([up_z(quaternion), forward_x(quaternion)], dim=1)
        return {"body": torch.cat([q[:, 2:7], v[:, :6], q[:, 7:], 0.1 * v[:, 6:], directions, state["action"]], dim=1)}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Forward velocity [m/s] + up + heading + height term - effort."""
        q, v = next_state["q"], next_state["v"]
        quaternion = q[:, 3:7]
        total = v[:, 0] + self.up_weight * up_z(quaternion) + forward_x(quaternion) + self.height_term(q[:, 2])
        return total - self.effort * action.square().sum(dim=1) if self.effort else total

    def height_term(self, height: Tensor) -> Tensor:
        """Reward for standing high, [N] → [N]."""
        return height - self.falling_height

    def terminated(self, state: State) -> Tensor:
        """The base is below its falling height."""
        return state["q"][:, 2] < self.falling_height

    def position(self, state: State) -> Tensor:
        """Base along x [m]."""
        return state["q"][:, 0]

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Height of the base and the vertical part of its up axis."""
        return {"height": state["q"][:, 2], "up": up_z(state["q"][:, 3:7])}

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
