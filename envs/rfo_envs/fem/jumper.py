"""A dumbbell that jumps by shortening and releasing its stem."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rfo.core.scene import Scene
from rfo.core.task import State
from rfo_envs.fem.locomotion import SoftLocomotion, locomotion_spec

__all__ = ["SoftJumper"]

LANDMARKS = {
    f"{level}_{i}": (x, y, z)
    for level, y in {"foot": 0.0, "head": 0.5}.items()
    for i, (x, z) in enumerate([(0.4, 0.4), (0.4, 0.0), (0.0, 0.4), (0.0, 0.0)])
}


class SoftJumper(SoftLocomotion):
    """Jump, and forward where possible: 118 vertices, 220 tetrahedra, 44 kg, four upright muscles in the stem."""

    spec = locomotion_spec("soft-jumper", muscles=4, landmarks=LANDMARKS)
    body = "soft_jumper"
    landmarks = LANDMARKS

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """The reward of locomotion, and for every metre 5 of the centre of mass and 20 of the lowest point above rest.

        The centre of mass alone pays a body that merely stretches; the lowest point, one that is in the air.
        """
        up, rest = next_state["x"][..., 1], self._settled[:, 1]
        jump = 5.0 * (up - rest) @ self._mass_share + 20.0 * (up.amin(dim=1) - rest.amin())
        return super().reward(state, action, next_state) + jump

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Uprightness, and heights of the centre of mass and of the lowest point above where they rest [m]."""
        up, rest = state["x"][..., 1], self._settled[:, 1]
        height = (up - rest) @ self._mass_share
        return {**super().metrics(state), "height": height, "clearance": up.amin(dim=1) - rest.amin()}

    def scene(self, state: State, index: int) -> Scene:
        """The body's surface, with room for its jumps."""
        seen = super().scene(state, index)
        return replace(seen, extent=1.5 * seen.extent)
