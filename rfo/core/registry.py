"""Finds tasks through the entry-point group `rfo.envs`: built-in and third-party ones the same way.

The value of an entry point is a `Task` subclass with a static `spec`:

    [project.entry-points."rfo.envs"]
    "my-task" = "my_package.my_task:MyTask"

Listing names loads no code, so a broken package cannot keep anyone else's task from running.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points

import torch

from rfo.core.errors import UsageError
from rfo.core.machine import require_machine
from rfo.core.task import Task, TaskSpec

__all__ = ["GROUP", "did_you_mean", "ids", "make", "spec", "task_class"]

GROUP = "rfo.envs"
"""Entry-point group in which packages register their tasks."""


def did_you_mean(name: str, known: list[str]) -> str:
    """Returns "; did you mean 'x'?" for the known name closest to `name`, or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def ids() -> list[str]:
    """Returns the registered names in alphabetical order, without loading any of them."""
    return sorted(_registered())


def task_class(task_id: str) -> type[Task]:
    """Loads the class registered as `task_id`.

    Raises:
        UsageError: The name is unknown, is registered twice, or its package cannot be loaded.
    """
    registered = _registered()
    if task_id not in registered:
        raise UsageError(
            f"unknown environment {task_id!r}{did_you_mean(task_id, sorted(registered))} "
            "(`rfo envs` lists all environments)"
        )
    points = registered[task_id]
    if len(points) > 1:
        values = " and ".join(point.value for point in points)
        raise UsageError(f"environment {task_id!r} is registered more than once: {values}; uninstall one of them")
    return _load(points[0])


def spec(task_id: str) -> TaskSpec:
    """Returns what is known of a task before it is built."""
    return task_class(task_id).spec


def make(
    task_id: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
) -> Task:
    """Builds a registered task.

    Args:
        task_id: Registered name.
        device: Torch device of every tensor.
        dtype: Scalar type of the simulation.
        threads: Cores the engine may use; None for all.

    Raises:
        UsageError: The name is unknown or cannot be loaded, or the device or the cores are not there.
    """
    require_machine(device, threads)
    return task_class(task_id)(device=device, dtype=dtype, threads=threads)


def _registered() -> dict[str, list[EntryPoint]]:
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        # A package seen twice on the path repeats its entry points; only different values are a conflict.
        found.setdefault(point.name, {})[point.value] = point
    return {name: list(points.values()) for name, points in found.items()}


def _load(point: EntryPoint) -> type[Task]:
    try:
        loaded = point.load()
    # Importing a third party's module may raise anything; all of it is reported as what it is, that module's fault.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise UsageError(
            f"environment {point.name!r} cannot be loaded from {point.value}: {type(error).__name__}: {reason}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Task)):
        raise UsageError(f"environment {point.name!r}: {point.value} is not a subclass of rfo.core.task.Task")
    if not isinstance(getattr(loaded, "spec", None), TaskSpec):
        raise UsageError(f"environment {point.name!r}: {point.value} has no class attribute `spec` of type TaskSpec")
    if loaded.spec.id != point.name:
        raise UsageError(
            f"environment {point.name!r}: {point.value} calls itself {loaded.spec.id!r}; "
            "make spec.id the registered name"
        )
    return loaded
