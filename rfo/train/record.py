"""Films of a policy: one picture per frame of what a task shows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rfo.core.scene import Scene
from rfo.core.shell import VectorEnv
from rfo.core.task import Task
from rfo.train.evaluate import Policy

__all__ = ["scenes"]


@torch.no_grad()
def scenes(task: Task, policy: Policy, *, seconds: float, fps: float, seed: int) -> Iterator[Scene]:
    """Yields what one environment looks like, `fps` times per simulated second.

    The film goes on past the time limit and begins a new episode only where one terminates.

    Args:
        task: The task.
        policy: What acts.
        seconds: Simulated time to show [s].
        fps: Pictures per simulated second; at most one per control step is new.
        seed: Seed of the initial state.
    """
    env = VectorEnv(task, 1, seed=seed)
    observation = env.reset()
    step = 0
    for frame in range(max(1, round(seconds * fps))):
        while step < round(frame / fps / task.spec.control_dt):
            env.elapsed.zero_()
            observation = env.step(policy(observation)).observation
            step += 1
        yield task.scene(env.state, 0)
