"""OGBench's scripted pick and place, acting on observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfo.core.task import Observation
from rfo_envs.suites.stepped import Array

__all__ = ["IN_PLACE", "CubeOracle", "cube_positions"]

CENTER = (0.425, 0.0, 0.0)
SCALE = 10.0
"""Positions are observed relative to the centre of the table and enlarged."""

EFFECTOR, CUBE = 19, 9
"""Entries of an observation that tell of the arm, and of each cube."""

IN_PLACE = 0.04
"""Largest distance of a cube from its goal [m]."""


def cube_positions(observation: Tensor) -> Tensor:
    """Returns where the cubes are [m], [N, O] to [N, cubes, 3]."""
    cubes = observation[:, EFFECTOR:].reshape(len(observation), -1, CUBE)
    return cubes[..., :3] / SCALE + observation.new_tensor(CENTER)


@dataclass
class _Errand:
    """What the script does in one environment: a cube and where it goes."""

    script: Any
    cube: int = 0
    place: Array | None = None
    yaw: float = 0.0


class CubeOracle:
    """Runs the suite's own script, which knows the cube to move and where to, in several environments.

    Args:
        env: The suite's environment; only its constants are read.
        goals: Where each cube belongs [m], shape [cubes, 3].
        n: Number N of environments.
        seed: Seed of where the arm goes when it is done, and of the random places.
        play: Move random cubes to random places instead of every cube to its goal.
    """

    def __init__(self, env: Any, goals: Array, n: int, seed: int, *, play: bool) -> None:
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

        self._goals = goals
        self._arm_bounds, self._place_bounds = env._arm_sampling_bounds, env._target_sampling_bounds
        self._rng = np.random.default_rng(seed)
        self._play = play
        self._errands = [_Errand(CubeMarkovOracle(env=env)) for _ in range(n)]

    def __call__(self, observation: Observation, began: Tensor) -> Tensor:
        """Returns actions, shape [N, 5]."""
        state = observation["state"]
        rows = state.detach().cpu().numpy().astype(np.float64)
        actions = [self._act(*one) for one in zip(self._errands, rows, began.tolist(), strict=True)]
        return torch.from_numpy(np.stack(actions)).to(state)

    def _act(self, errand: _Errand, row: Array, began: bool) -> Array:
        cubes = row[EFFECTOR:].reshape(-1, CUBE)
        positions = cubes[:, :3] / SCALE + np.array(CENTER)
        if began or errand.place is None or errand.script.done or self._goal_reached(errand, positions):
            self._begin(errand, positions)
        cube = errand.cube
        info = {
            "proprio/effector_pos": row[12:15] / SCALE + np.array(CENTER),
            "proprio/effector_yaw": np.array([np.arctan2(row[16], row[15])]),
            "proprio/gripper_opening": row[17:18] / 3.0,
            "proprio/gripper_contact": row[18],
            "privileged/target_block": cube,
            f"privileged/block_{cube}_pos": positions[cube],
            f"privileged/block_{cube}_yaw": np.array([np.arctan2(cubes[cube, 8], cubes[cube, 7])]),
            "privileged/target_block_pos": errand.place,
            "privileged/target_block_yaw": np.array([errand.yaw]),
        }
        action: Array = errand.script.select_action(None, info)
        return action

    def _goal_reached(self, errand: _Errand, positions: Array) -> bool:
        return not self._play and len(positions) > 1 and self._missing(positions)[0] != errand.cube

    def _missing(self, positions: Array) -> list[int]:
        """Returns the cubes that are not in place, or the last one where all are."""
        far = np.linalg.norm(positions - self._goals, axis=1) > IN_PLACE
        return np.flatnonzero(far).tolist() or [len(positions) - 1]

    def _begin(self, errand: _Errand, positions: Array) -> None:
        errand.script.reset(None, None)
        errand.script._final_pos = self._rng.uniform(*self._arm_bounds)  # the script draws it without a seed
        errand.script._final_yaw = self._rng.uniform(-np.pi, np.pi)
        if self._play:
            errand.cube = int(self._rng.integers(len(positions)))
            errand.place = np.array([*self._rng.uniform(*self._place_bounds), 0.02])
            errand.yaw = self._rng.uniform(0.0, 2.0 * np.pi)
        else:
            errand.cube = self._missing(positions)[0]
            errand.place = self._goals[errand.cube]
