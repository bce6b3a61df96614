"""Ant: a round body on four legs of two joints each."""

from __future__ import annotations

from rfo.core.task import TaskSpec
from rfo_envs.rigid.locomotion import Locomotion

__all__ = ["Ant"]


class Ant(Locomotion):
    """Reward: v_x + 0.1 up + heading + (height - 0.27)."""

    spec = TaskSpec("ant", "warp-rigid", 8, 1000, 1.0 / 60.0, {"body": (37,)})
    file = "ant"
    substeps = 16
    extent = 1.0
    standing_height = 0.62
    falling_height = 0.27

    def stance(self, joint: str) -> float:
        """Knees bent, feet below."""
        return 1.0 if joint.startswith("knee") else 0.0
