"""How the cost of a task grows: with environments, with the horizon, with the elements of its body.

Each sweep moves one of the three and leaves the others where the sweeps cross. A point is built afresh for either
store, its memory counted (`rfo.train.allocations`), then windows are timed, the best of several repeats; on one core of
a CPU in seconds of the process, which other work disturbs least. A sweep's exponents are the slopes of least squares in
logarithms: cost grows as size to that power, 1 where it is proportional.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import psutil
import torch

from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.core.machine import require_machine
from rfo.core.task import Task
from rfo.train.allocations import Allocations
from rfo.train.bench import Runner, available_cores

__all__ = ["Axes", "Refinable", "Scaling", "ScalingPoint", "StoreCost", "Sweep", "measure_scaling"]

Axis = Literal["envs", "horizon", "elements"]


@runtime_checkable
class Refinable(Protocol):
    """A task class whose body can be cut finer."""

    def refinements(self) -> Mapping[int, type[Task]]:
        """The task on ever finer bodies, by number of elements; the first is the task itself."""


@dataclass(frozen=True)
class Axes:
    """What the sweeps visit.

    Attributes:
        envs: Environments N.
        horizons: Control steps H of a window.
        refinements: How many of the task's refinements; None for all.
    """

    envs: Sequence[int] = (16, 32, 64, 128, 256, 512)
    horizons: Sequence[int] = (8, 16, 32, 64, 128)
    refinements: int | None = None


@dataclass(frozen=True)
class StoreCost:
    """What one store costs.

    Attributes:
        gradient_env_steps_per_s: Control steps per second forward and backward, summed over environments.
        workspace_bytes: What stays between windows: the engine's workspaces.
        window_bytes: What a window of H steps holds beyond that.
        window_bytes_per_env: The same of one environment.
    """

    gradient_env_steps_per_s: float
    workspace_bytes: int
    window_bytes: int
    window_bytes_per_env: float


@dataclass(frozen=True)
class ScalingPoint:
    """One size.

    Attributes:
        envs: Environments N.
        horizon: Control steps H of a window.
        elements: Elements of the body; None where the task cannot be refined.
        forward_env_steps_per_s: Control steps per second without gradients, summed over environments.
        stores: What each store costs; None where it would not have fit in half of the free memory.
    """

    envs: int
    horizon: int
    elements: int | None
    forward_env_steps_per_s: float
    stores: Mapping[str, StoreCost | None]

    def costs(self) -> dict[str, float]:
        """Seconds of a window, forward and per store forward and backward; bytes per store."""
        steps = self.envs * self.horizon
        costs = {"forward_s": steps / self.forward_env_steps_per_s}
        for name, cost in self.stores.items():
            if cost is not None:
                costs[f"gradient_s, {name}"] = steps / cost.gradient_env_steps_per_s
                costs[f"workspace_bytes, {name}"] = float(cost.workspace_bytes)
                costs[f"window_bytes, {name}"] = float(cost.window_bytes)
        return costs


@dataclass(frozen=True)
class Sweep:
    """Points along one axis.

    Attributes:
        axis: What grows.
        points: In ascending order.
        exponents: Power with which each cost of `ScalingPoint.costs` grows.
    """

    axis: Axis
    points: tuple[ScalingPoint, ...]
    exponents: Mapping[str, float]


@dataclass(frozen=True)
class Scaling:
    """What `rfo bench --scaling` measures.

    Attributes:
        env: Registered task.
        threads: Cores used.
        device: Torch device.
        dtype: Scalar type of the simulation.
        sweeps: One for each axis that the task has.
    """

    env: str
    threads: int
    device: str
    dtype: str
    sweeps: tuple[Sweep, ...]


def measure_scaling(
    task_id: str,
    *,
    envs: int,
    horizon: int,
    threads: int | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    axes: Axes = Axes(),
    repeats: int = 3,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Scaling:
    """Measures a registered task with gradients at many sizes.

    Args:
        task_id: Registered name.
        envs: Environments where the sweeps cross.
        horizon: Control steps of a window where the sweeps cross.
        threads: Cores to use; None for all.
        device: Torch device.
        dtype: Scalar type.
        axes: What the sweeps visit.
        repeats: Repeats of which the fastest counts.
        on_stage: Called with what is being done.

    Raises:
        UsageError: A size is impossible, or the task is unknown or has no gradients.
    """
    for name, value in (("--envs", envs), ("--horizon", horizon), ("repeats", repeats)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    require_machine(device, threads)
    task_class = registry.task_class(task_id)
    if not task_class.spec.differentiable:
        raise UsageError(f"{task_id} has no gradients; --scaling measures tasks that have")
    cores = threads or available_cores()
    torch.set_num_threads(cores if task_class.spec.engine == "torch" else 1)
    refined: dict[int | None, type[Task]] = {None: task_class}
    if isinstance(task_class, Refinable):
        refined = dict(list(task_class.refinements().items())[: axes.refinements])
    bench = _Bench(refined, {"device": device, "dtype": dtype, "threads": cores}, repeats, on_stage)
    base, *_ = refined
    sweeps = [
        _sweep("envs", axes.envs, [bench.point(n, horizon, base) for n in axes.envs]),
        _sweep("horizon", axes.horizons, [bench.point(envs, steps, base) for steps in axes.horizons]),
    ]
    if len(refined) > 1:
        sizes = [elements for elements in refined if elements is not None]
        sweeps.append(_sweep("elements", sizes, [bench.point(envs, horizon, elements) for elements in sizes]))
    return Scaling(task_id, cores, device, str(dtype).removeprefix("torch."), tuple(sweeps))


class _Bench:
    """Measures points, each once."""

    def __init__(
        self,
        refined: Mapping[int | None, type[Task]],
        options: Mapping[str, Any],
        repeats: int,
        on_stage: Callable[[str], None],
    ) -> None:
        self._refined, self._options = refined, options
        self._repeats, self._on_stage = repeats, on_stage
        alone = options["threads"] == 1 and torch.device(options["device"]).type == "cpu"
        self._clock = time.process_time if alone else time.perf_counter
        self._measured: dict[tuple[int, int, int | None], ScalingPoint] = {}

    def point(self, envs: int, horizon: int, elements: int | None) -> ScalingPoint:
        size = (envs, horizon, elements)
        if size not in self._measured:
            self._on_stage(f"N = {envs}, H = {horizon}" + (f", {elements:,} elements" if elements else ""))
            self._measured[size] = self._measure(*size)
        return self._measured[size]

    def _measure(self, envs: int, horizon: int, elements: int | None) -> ScalingPoint:
        stores: dict[str, StoreCost | None] = {}
        forward = None
        for store in self._stores(elements):
            with Allocations() as allocations:
                runner = Runner(self._build(elements, store), envs, self._clock)
                short = runner.memory(1, allocations)
                if horizon * (short.workspace_bytes + short.window_bytes) > _free(runner.task.device) // 2:
                    stores[store] = None
                    continue
                memory = runner.memory(horizon, allocations)
            if forward is None:  # which no store changes
                forward = runner.best(runner.forward, horizon, self._repeats)
            rate = runner.best(runner.gradient, horizon, self._repeats)
            stores[store] = StoreCost(rate, memory.workspace_bytes, memory.window_bytes, memory.window_bytes / envs)
        if forward is None:
            raise UsageError(f"a window of {horizon} steps of {envs} environments does not fit in memory; try less")
        return ScalingPoint(envs, horizon, elements, forward, stores)

    def _stores(self, elements: int | None) -> tuple[str, ...]:
        """The stores of the task's engine: a task in plain torch has only autograd's."""
        return ("autograd",) if self._refined[elements].spec.engine == "torch" else ("control", "substep")

    def _build(self, elements: int | None, store: str) -> Task:
        if store == "autograd":
            return self._refined[elements](**self._options)
        from rfo.sim.simulation import Store, preferred_store

        with preferred_store(cast(Store, store)):
            return self._refined[elements](**self._options)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _sweep(axis: Axis, sizes: Sequence[int], points: Sequence[ScalingPoint]) -> Sweep:
    costs = [point.costs() for point in points]
    names = {name: None for cost in costs for name in cost}
    exponents = {}
    for name in names:
        pairs = [(size, cost[name]) for size, cost in zip(sizes, costs, strict=True) if cost.get(name, 0.0) > 0.0]
        if len(pairs) > 1:
            size, value = np.log(np.array(pairs, dtype=np.float64)).T
            exponents[name] = float(np.polyfit(size, value, 1)[0])
    return Sweep(axis, tuple(points), exponents)
