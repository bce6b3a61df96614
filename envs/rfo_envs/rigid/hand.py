"""A hand of sixteen joints that turns a cube to given attitudes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.task import CheckSituation, Observation, State, TaskSpec
from rfo.sim.rigid.kinematics import Kinematics
from rfo_envs.rigid.body import RigidTask, uniform

__all__ = ["HandReorient", "attitude_error"]


class HandReorient(RigidTask):
    """Turn the cube to its goal; when it is within 0.1 rad, the next goal of the episode begins.

    State: `q` (sixteen joints, cube position 3 and quaternion 4), `v`, the last `action`, the episode's `goals`
    [N, 8, 4], and how many were reached, `successes` [N].
    Reward: -10 distance + 1 / (angle + 0.1) - 0.0002 Σ a², and 250 for a goal reached.
    """

    spec = TaskSpec("hand-reorient", "warp-rigid", 16, 600, 1.0 / 120.0, {"hand": (72,)})
    file = "hand"
    substeps = 64
    extent = 0.2
    goal_count = 8
    reached_angle = 0.1  # [rad]
    lost_distance = 0.24  # [m]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cube = self.model.joint["cube"].q_start
        self._cube_v = self.model.joint["cube"].v_start
        self._home = self.q_rest[self._cube : self._cube + 3]
        self._grasp = self.q_rest.clone()
        for joint in self.model.joints[:16]:
            self._grasp[joint.q_start] = self.grasp(joint.name)

    def grasp(self, joint: str) -> float:
        """Where a joint stands at reset [rad], by its name: fingers upright before the cube, the thumb bent over it.

        Fingers that touch the cube move it at once, and feel it: gradients are five times as large as with fingers
        half open.
        """
        finger, part = joint.split("_")
        angles = {"spread": 0.0, "curl": 1.3, "bend": 0.2, "tip": 0.2}
        return ({**angles, "curl": 1.5, "bend": 1.4} if finger == "thumb" else angles)[part]

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """The cube lies level on the palm before raised fingers, turned about the vertical, within a centimetre."""
        noise = uniform(generator, self.q_rest, n, len(self.q_rest))
        q = self._grasp + 0.05 * noise
        q[:, self._cube : self._cube + 3] = self._home + 0.01 * noise[:, self._cube : self._cube + 3]
        turn = 0.25 * torch.pi * noise[:, -1]
        q[:, self._cube + 3 :] = torch.stack([turn.cos(), 0 * turn, 0 * turn, turn.sin()], dim=1)
        goals = torch.randn(n, self.goal_count, 4, generator=generator, dtype=torch.float64, device=self.device)
        return {
            "q": q,
            "v": torch.zeros(n, self.model.v_count, device=self.device, dtype=self.dtype),
            "action": torch.zeros(n, self.spec.action_dim, device=self.device, dtype=self.dtype),
            "goals": (goals / goals.norm(dim=2, keepdim=True)).to(self.dtype),
            "successes": torch.zeros(n, dtype=torch.int64, device=self.device),
        }

    def dynamics(self, state: State, action: Tensor) -> State:
        """Advances the bodies, and moves on to the next goal where one is reached."""
        q, v = self.engine.step(state["q"], state["v"], action)
        reached = attitude_error(q[:, self._cube + 3 :].detach(), self.goal(state)) <= self.reached_angle
        return {**state, "q": q, "v": v, "action": action, "successes": state["successes"] + reached}

    def goal(self, state: State) -> Tensor:
        """The attitude to reach, as a quaternion [N, 4]."""
        index = (state["successes"] % self.goal_count)[:, None, None].expand(-1, 1, 4)
        return state["goals"].gather(1, index)[:, 0]

    def observe(self, state: State) -> Observation:
        """Joints and rates, the cube's pose and velocities, the goal's pose, the turn between them, the last action.

        The turn is the quaternion of its shorter way: of both signs that mean the same, one is the way to go.
        """
        q, v, goal = state["q"], state["v"], self.goal(state)
        between = _relative(q[:, self._cube + 3 :], goal)
        between = torch.where(between[:, :1] < 0.0, -between, between)
        home = self._home.expand(len(q), 3)
        return {
            "hand": torch.cat([q[:, :16], v[:, :16], q[:, 16:], v[:, 16:], home, goal, between, state["action"]], 1)
        }

    def distance(self, state: State) -> Tensor:
        """From the cube to its place [m], [N]."""
        offset = state["q"][:, self._cube : self._cube + 3] - self._home
        return (offset.square().sum(dim=1) + 1e-12).sqrt()

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Towards the goal that the step began with."""
        angle = attitude_error(next_state["q"][:, self._cube + 3 :], self.goal(state))
        reached = (next_state["successes"] > state["successes"]).to(angle.dtype)
        effort = action.square().sum(dim=1)
        return -10.0 * self.distance(next_state) + 1.0 / (angle + 0.1) - 0.0002 * effort + 250.0 * reached

    def terminated(self, state: State) -> Tensor:
        """The cube is lost."""
        return self.distance(state) >= self.lost_distance

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Goals reached, and the angle left [rad]."""
        angle = attitude_error(state["q"][:, self._cube + 3 :], self.goal(state))
        return {"successes": state["successes"].to(angle.dtype), "angle": angle}

    def focus(self, kinematics: Kinematics) -> Any:
        """The palm."""
        return np.array([0.03, 0.0, 0.52])

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """The cube in the air, and resting in the hand."""
        state = self.initial_state(generator, n)
        lift = torch.zeros_like(self.q_rest)
        lift[self._cube + 2] = 0.2
        resting = state
        for _ in range(60):
            resting = self.dynamics(resting, torch.zeros_like(state["action"]))
        return {
            "air": CheckSituation({**state, "q": state["q"] + lift}, limit=1e-6, steps=2),
            "resting": CheckSituation(resting, limit=1e-3, steps=2),
        }


def attitude_error(a: Tensor, b: Tensor) -> Tensor:
    """Angle between two attitudes given as quaternions [rad], [N, 4], [N, 4] → [N]; smooth but at the far side."""
    between = _relative(a, b)
    return 2.0 * torch.atan2((between[:, 1:].square().sum(dim=1) + 1e-8).sqrt(), between[:, 0].abs())


def _relative(a: Tensor, b: Tensor) -> Tensor:
    """Product a b⁻¹ of unit quaternions, [N, 4]."""
    w = (a * b).sum(dim=1, keepdim=True)
    vector = b[:, :1] * a[:, 1:] - a[:, :1] * b[:, 1:] - torch.linalg.cross(a[:, 1:], b[:, 1:])
    return torch.cat([w, vector], dim=1)
