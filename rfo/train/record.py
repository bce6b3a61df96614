"""Films of a policy: one picture per frame of what a task shows, seen by a camera that follows."""

from __future__ import annotations

import math
import os
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
from rfo.train.config import SEED_LIMIT
from rfo.train.evaluate import Policy, random_policy, trained_policy, zero_policy
from rfo.train.loop import load_run
from rfo.train.progress import ProgressLine

__all__ = ["Film", "record", "record_environment", "record_run", "scenes"]


STRIP_FRAMES = 16
"""Frames on a sheet."""

STRIP_STRIDE = 2
"""Every second frame of the film goes on the sheet: a stride of a fast gait is about eight frames."""


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
        if not os.access(self.path.parent, os.W_OK):
            raise UsageError(f"cannot write {self.path}: the folder {self.path.parent} is not open to you")
        for name in ("seconds", "fps", "width", "height"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(f"--{name} is {value}; it must be positive and finite")
        if not 0 <= self.seed < SEED_LIMIT:
            raise UsageError(f"--seed is {self.seed}; it must not be negative, and less than 2**62")


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


def record(task: Task, policy: Policy, film: Film, strip: Path | None = None) -> None:
    """Simulates, draws and writes a film.

    Args:
        task: The task.
        policy: What acts.
        film: What is recorded.
        strip: Also writes frames of the film's first seconds onto one sheet, to read a gait from (.png).
    """
    from rfo.view import video

    shown = scenes(task, policy, seconds=film.seconds, fps=film.fps, seed=film.seed)
    frames = video.record(shown, film.fps, width=film.width, height=film.height)
    kept: list[Any] = []
    with ProgressLine(f"recording {film.path.name}", max(1, round(film.seconds * film.fps))) as progress:
        video.write_video(film.path, _keep(frames, kept if strip else None), film.fps, progress=progress.update)
    if strip is not None:
        video.write_image(
            strip, video.film_strip(kept, times=[index * STRIP_STRIDE / film.fps for index in range(len(kept))])
        )


def _keep(frames: Iterator[Any], kept: list[Any] | None) -> Iterator[Any]:
    """Passes frames on, keeping every `STRIP_STRIDE`-th at half size until there are `STRIP_FRAMES`."""
    for index, frame in enumerate(frames):
        if kept is not None and index % STRIP_STRIDE == 0 and len(kept) < STRIP_FRAMES:
            kept.append(frame[::2, ::2].copy())
        yield frame


def record_run(run_dir: Path, film: Film, policy: str, machine: dict[str, Any], strip: Path | None = None) -> None:
    """Records a run's environment under its trained policy or under a baseline.

    Args:
        run_dir: Folder of the run.
        film: What is recorded.
        policy: "trained", "zero" or "random".
        machine: Config keys to replace, such as threads and device.
        strip: Also writes a sheet of frames (.png).
    """
    experiment, task, algorithm = load_run(run_dir, machine)
    if policy == "trained":
        seed = experiment.config.seed
        record(task, trained_policy(algorithm, deterministic=True, device=task.device, seed=seed), film, strip)
    else:
        record(task, _baseline(task, policy, film.seed), film, strip)


def record_environment(env: str, film: Film, policy: str, machine: dict[str, Any]) -> None:
    """Records a registered environment under a baseline policy, "zero" or "random"."""
    task = registry.make(env, device=machine.get("device", "cpu"), threads=machine.get("threads"))
    record(task, _baseline(task, policy, film.seed), film)


def _baseline(task: Task, policy: str, seed: int) -> Policy:
    return zero_policy(task) if policy == "zero" else random_policy(task, seed)
