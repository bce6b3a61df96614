"""A quadruped of twelve joints with ANYmal's proportions, whose actions are joint angles to hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rfo.core.task import State, TaskSpec
from rfo_envs.rigid.locomotion import Locomotion

__all__ = ["Anymal"]


class Anymal(Locomotion):
    """Reward: v_x + 0.1 up + heading + (height - 0.3) - 0.01 Σ a².

    An action moves a joint's target by up to 0.5 rad from the stance.
    """

    spec = TaskSpec("anymal", "warp-rigid", 12, 1000, 1.0 / 60.0, {"body": (49,)})
    file = "anymal"
    substeps = 16
    extent = 0.9
    standing_height = 0.54
    falling_height = 0.3
    effort = 0.01
    spread = 0.02
    joint_spread = 0.1
    action_scale = 0.5

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        joints = self.model.joint
        stance = [self._stance[joints[actuator.name].q_start] for actuator in self.model.actuators]
        self._targets = torch.stack(stance)

    def stance(self, joint: str) -> float:
        """Fore knees back, hind knees forward."""
        side = 1.0 if joint.startswith("front") else -1.0
        return side * {"haa": 0.0, "hfe": 0.45, "kfe": -0.9}[joint[-3:]]

    def dynamics(self, state: State, action: Tensor) -> State:
        """Advances the bodies with position control about the stance."""
        q, v = self.engine.step(state["q"], state["v"], self._targets + self.action_scale * action)
        return {"q": q, "v": v, "action": action}
