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
from rfo.core.task import State, Task
from rfo.train.config import SEED_LIMIT
from rfo.train.evaluate import Policy, random_policy, trained_policy, zero_policy
from rfo.train.loop import load_run
from rfo.train.progress import ProgressLine

__all__ = ["Film", "record", "record_environment", "record_run", "scenes", "states"]


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
        renderer: A renderer of the task's own, by name; None to draw its scene.
        start: Simulated time before the first picture [s].
        strip: Also write frames of the film's first second onto one sheet, to read a gait from (.png).
    """

    path: Path
    seconds: float = 5.0
    fps: float = 30.0
    width: int = 960
    height: int = 540
    seed: int = 0
    renderer: str | None = None
    start: float = 0.0
    strip: Path | None = None

    def __post_init__(self) -> None:
        # Found out before anything is simulated rather than after.
        if self.path.suffix not in (".mp4", ".gif"):
            raise UsageError(f"cannot write {self.path}: a film is a .mp4 or a .gif file")
        if self.strip is not None and self.strip.suffix != ".png":
            raise UsageError(f"cannot write {self.strip}: a sheet of frames is a .png file")
        for path in (self.path, self.strip or self.path):
            if not path.parent.is_dir():
                raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist")
            if not os.access(path.parent, os.W_OK):
                raise UsageError(f"cannot write {path}: the folder {path.parent} is not open to you")
        if not 0 <= self.start < math.inf:
            raise UsageError(f"--start is {self.start}; it must not be negative")
        for name in ("seconds", "fps", "width", "height"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(f"--{name} is {value}; it must be positive and finite")
        if not 0 <= self.seed < SEED_LIMIT:
            raise UsageError(f"--seed is {self.seed}; it must not be negative, and less than 2**62")


def scenes(task: Task, policy: Policy, *, seconds: float, fps: float, seed: int, start: float = 0.0) -> Iterator[Scene]:
    """Yields what one environment looks like; the arguments are those of `states`."""
    for state in states(task, policy, seconds=seconds, fps=fps, seed=seed, start=start):
        yield task.scene(state, 0)


@torch.no_grad()
def states(task: Task, policy: Policy, *, seconds: float, fps: float, seed: int, start: float = 0.0) -> Iterator[State]:
    """Yields the state of one environment, `fps` times per simulated second.

    The film goes on past the time limit and begins a new episode only where one terminates.

    Args:
        task: The task.
        policy: What acts.
        seconds: Simulated time to show [s].
        fps: Pictures per simulated second; at most one per control step is new.
        seed: Seed of the initial state.
        start: Simulated time before the first state [s].
    """
    env = VectorEnv(task, 1, seed=seed)
    observation = env.reset()
    step = 0
    for frame in range(max(1, round(seconds * fps))):
        while step < round((start + frame / fps) / task.spec.control_dt):
            env.elapsed.zero_()
            observation = env.step(policy(observation)).observation
            step += 1
        yield env.state


def record(task: Task, policy: Policy, film: Film) -> None:
    """Simulates, draws and writes a film.

    Args:
        task: The task.
        policy: What acts.
        film: What is recorded.
    """
    from rfo.view import video

    frames = _frames(task, policy, film)
    kept: list[Any] = []
    with ProgressLine(f"recording {film.path.name}", max(1, round(film.seconds * film.fps))) as progress:
        video.write_video(film.path, _keep(frames, kept if film.strip else None), film.fps, progress=progress.update)
    if film.strip is not None:
        times = [film.start + index * STRIP_STRIDE / film.fps for index in range(len(kept))]
        video.write_image(film.strip, video.film_strip(kept, times=times))


def _frames(task: Task, policy: Policy, film: Film) -> Iterator[Any]:
    """Draws the film, by the renderer of this project or by one of the task's own."""
    from rfo.view import video

    what: dict[str, Any] = {"seconds": film.seconds, "fps": film.fps, "seed": film.seed, "start": film.start}
    if film.renderer is None:
        return video.record(scenes(task, policy, **what), film.fps, width=film.width, height=film.height)
    draw = task.renderer(film.renderer, film.width, film.height)
    return (draw(state, 0) for state in states(task, policy, **what))


def _keep(frames: Iterator[Any], kept: list[Any] | None) -> Iterator[Any]:
    """Passes frames on, keeping every `STRIP_STRIDE`-th at half size until there are `STRIP_FRAMES`."""
    for index, frame in enumerate(frames):
        if kept is not None and index % STRIP_STRIDE == 0 and len(kept) < STRIP_FRAMES:
            kept.append(frame[::2, ::2].copy())
        yield frame


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
