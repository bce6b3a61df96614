"""Humanoid: a person of 21 joints, kept upright only by what it does."""

from __future__ import annotations

from typing import Any

from rfo.core.task import TaskSpec
from rfo.sim.trace import clamp, select
from rfo_envs.rigid.locomotion import Locomotion

__all__ = ["Humanoid"]


class Humanoid(Locomotion):
    """Reward: v_x + 0.1 up + heading + height term - 0.002 Σ a².

    The height term is 10 times the torso's height above 0.84 m, at most 1, and -200 times its square below.
    """

    spec = TaskSpec("humanoid", "warp-rigid", 21, 1000, 1.0 / 60.0, {"body": (76,)})
    file = "humanoid"
    substeps = 16
    extent = 1.2
    standing_height = 1.33
    falling_height = 0.74
    low_height = 0.84
    effort = 0.002
    joint_spread = 0.1
    spread = 0.02

    def stance(self, joint: str) -> float:
        """Knees slightly bent, arms half raised."""
        bends = {"knee": -0.3, "hip_y": -0.15, "ankle_y": -0.15}
        return next((angle for name, angle in bends.items() if name in joint), 0.0)

    def height_term(self, height: Any) -> Any:
        """Reward for standing high."""
        above = clamp(height - self.low_height, -1.0, 0.1)
        return select(-above, -200.0 * above * above, 10.0 * above)
