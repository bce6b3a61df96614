"""Films of a policy: one picture per frame of what a task shows, seen by a camera that follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.core.scene import Scene
from rfo.core.shell import VectorEnv
from rfo.core.task import Task
from rfo.train.evaluate import Policy, random_policy, trained_policy, zero_policy
from rfo.train.loop import load_run
from rfo.train.progress import ProgressLine

__all__ = ["Film", "record", "record_environment", "record_run", "scenes"]


@dataclass(frozen=True)
class Film:
    """What is recorded.

    Attributes:
        path: File to write, .mp4 or .gif.
        seconds: Simulated time to show [s].
        fps: Pictures per simulated second.
        width: Picture width [px].
        height: Picture height [px].
        seed: Seed of the initial state and of random actions.
    """

    path: Path
    seconds: float = 5.0
    fps: float = 30.0
    width: int = 960
    height: int = 540
    seed: int = 0

    def __post_init__(self) -> None:
        # Found out before anything is simulated rather than after.
        if self.path.suffix not in (".mp4", ".gif"):
            raise UsageError(f"cannot write {self.path}: a film is a .mp4 or a .gif file")
        if not self.path.parent.is_dir():
            raise UsageError(f"cannot write {self.path}: the folder {self.path.parent} does not exist")


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


def record(task: Task, policy: Policy, film: Film) -> None:
    """Simulates, draws and writes a film."""
    from rfo.view import FollowCamera, render, write_video

    camera = FollowCamera()
    count = max(1, round(film.seconds * film.fps))
    frames = []
    with ProgressLine(f"recording {film.path.name}", count) as progress:
        shown = scenes(task, policy, seconds=film.seconds, fps=film.fps, seed=film.seed)
        for scene in shown:
            frames.append(render(scene, camera.update(scene, 1.0 / film.fps), film.width, film.height))
            progress.update(len(frames))
    write_video(film.path, frames, film.fps)


def record_run(run_dir: Path, film: Film, policy: str, machine: dict[str, Any]) -> None:
    """Records a run's environment under its trained policy or under a baseline.

    Args:
        run_dir: Folder of the run.
        film: What is recorded.
        policy: "trained", "zero" or "random".
        machine: Config keys to replace, such as threads and device.
    """
    experiment, task, algorithm = load_run(run_dir, machine)
    if policy == "trained":
        seed = experiment.config.seed
        record(task, trained_policy(algorithm, deterministic=True, device=task.device, seed=seed), film)
    else:
        record(task, _baseline(task, policy, film.seed), film)


def record_environment(env: str, film: Film, policy: str, machine: dict[str, Any]) -> None:
    """Records a registered environment under a baseline policy, "zero" or "random"."""
    task = registry.make(env, device=machine.get("device", "cpu"), threads=machine.get("threads"))
    record(task, _baseline(task, policy, film.seed), film)


def _baseline(task: Task, policy: str, seed: int) -> Policy:
    return zero_policy(task) if policy == "zero" else random_policy(task, seed)
