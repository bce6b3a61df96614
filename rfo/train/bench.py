"""How fast a task runs: control steps per second forward, and forward with backward, in wall-clock time.

Forward: random actions through `VectorEnv.step` without gradients, observation and reward included. Gradient: a window
of H steps with the graph kept, then one backward pass of the summed rewards to the actions. Both are the best of
several repeats after a warm-up; the warm-up is `compile_s`: building the task, its first forward step and its first
gradient step.

Memory per environment step is what a window of H steps holds beyond a window of one step, over N (H - 1): the engine's
workspaces, and the largest total of tensors during the window, both as allocated (`rfo.train.allocations`).
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Task
from rfo.train.allocations import Allocations
from rfo.train.roofline import Roofline, roofline

if TYPE_CHECKING:
    from rfo.sim.simulation import Store

__all__ = ["BenchResult", "Runner", "WindowMemory", "available_cores", "bench"]

LEAST_SECONDS = 0.5
"""A repeat runs windows until this much time has passed, so that a fast task is not measured by one short window."""


@dataclass(frozen=True)
class BenchResult:
    """What `rfo bench` measures.

    Attributes:
        forward_env_steps_per_s: Control steps per second without gradients, summed over environments.
        gradient_env_steps_per_s: The same forward and backward; None where the task has no gradients.
        memory_bytes_per_env_step: Memory that a window holds per control step and environment; None likewise,
            and for a window of one step.
        peak_rss_bytes: Largest resident memory of the process.
        compile_s: Seconds until everything has run once.
        threads: Cores used.
        device: Torch device.
        dtype: Scalar type of the simulation.
        roofline: The physics alone, and its share of the processor's peak where its arithmetic is counted; None but for
            tasks on this package's engines, on the CPU.
    """

    forward_env_steps_per_s: float
    gradient_env_steps_per_s: float | None
    memory_bytes_per_env_step: float | None
    peak_rss_bytes: int
    compile_s: float
    threads: int
    device: str
    dtype: str
    roofline: Roofline | None = None


def available_cores() -> int:
    """Returns the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bench(
    task_id: str,
    *,
    envs: int,
    horizon: int,
    threads: int | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    store: Store = "auto",
    repeats: int = 3,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> BenchResult:
    """Measures a registered task.

    Args:
        task_id: Registered name.
        envs: Environments N.
        horizon: Control steps H of a window.
        threads: Cores to use; None for all.
        device: Torch device.
        dtype: Scalar type.
        store: What a control step of an engine keeps for its adjoint (`rfo.sim.simulation.Simulation`).
        repeats: Repeats of which the fastest counts.
        on_stage: Called with what is being done.

    Raises:
        UsageError: A size is impossible, the task is unknown, or nothing of it is stored.
        FloatingPointError: A gradient is not finite.
    """
    for name, value in (("--envs", envs), ("--horizon", horizon), ("--threads", threads), ("repeats", repeats)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    cores = threads or available_cores()
    # A task in plain torch has no engine but torch itself; with another engine torch's share is small matrices.
    torch.set_num_threads(cores if registry.spec(task_id).engine == "torch" else 1)
    on_stage("compiling")
    started = time.perf_counter()
    task = _build(task_id, store, device=device, dtype=dtype, threads=cores)
    runner = Runner(task, envs)
    runner.forward(1)
    if task.spec.differentiable:
        runner.gradient(1)
    compile_s = time.perf_counter() - started
    on_stage("memory of a window")
    memory = _memory_per_env_step(runner, horizon) if task.spec.differentiable else None
    on_stage("forward")
    forward = runner.best(runner.forward, horizon, repeats)
    on_stage("gradient")
    gradient = runner.best(runner.gradient, horizon, repeats) if task.spec.differentiable else None
    on_stage("physics alone")
    state = {name: tensor.detach() for name, tensor in runner.env.state.items()}
    ceiling = roofline(task, state, horizon, cores, lambda run: runner.best(run, horizon, repeats))
    name = str(dtype).removeprefix("torch.")
    return BenchResult(forward, gradient, memory, _peak_rss(), compile_s, cores, str(task.device), name, ceiling)


def _build(task_id: str, store: Store, **options: Any) -> Task:
    if store == "auto":
        return registry.make(task_id, **options)
    if not registry.spec(task_id).engine.startswith("warp-"):
        raise UsageError(f"--store {store} is for tasks on this package's engines; {task_id} is on another")
    from rfo.sim.simulation import preferred_store  # not every task needs an engine

    with preferred_store(store):
        return registry.make(task_id, **options)


@dataclass(frozen=True)
class WindowMemory:
    """What windows of one length hold.

    Attributes:
        workspace_bytes: What stays between windows but for the states: the engine's workspaces, used again by the next.
        window_bytes: Largest total of tensors during a window beyond that: states, observations, their graph.
    """

    workspace_bytes: int
    window_bytes: int


class Runner:
    """Windows of random actions on a task.

    Args:
        task: The task.
        envs: Environments N.
        clock: What times them [s].
    """

    def __init__(self, task: Task, envs: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.task, self.envs, self._clock = task, envs, clock
        self.env = VectorEnv(task, envs, seed=0, stagger=True)
        self.generator = torch.Generator(device=task.device).manual_seed(0)

    def actions(self, horizon: int) -> torch.Tensor:
        """Draws actions, shape [H, N, action_dim]."""
        shape = (horizon, self.envs, self.task.spec.action_dim)
        return 2.0 * torch.rand(shape, generator=self.generator, device=self.task.device, dtype=self.task.dtype) - 1.0

    @torch.no_grad()
    def forward(self, horizon: int) -> None:
        """Runs a window without gradients."""
        self.env.begin_window()
        for action in self.actions(horizon):
            self.env.step(action)
        self._wait()

    def gradient(self, horizon: int) -> None:
        """Runs a window forward and backward.

        Raises:
            FloatingPointError: The gradient is not finite.
        """
        actions = self.actions(horizon).requires_grad_()
        self.env.begin_window()
        rewards = torch.stack([self.env.step(action).reward for action in actions])
        (gradient,) = torch.autograd.grad(rewards.sum(), actions)
        self._wait()
        if not bool(gradient.isfinite().all()):
            where = (~gradient.isfinite()).nonzero()[0].tolist()
            raise FloatingPointError(
                f"{self.task.spec.id}: the gradient to the action of environment {where[1]} at step {where[0]} is not "
                "finite; try a shorter --horizon"
            )

    def memory(self, horizon: int, allocations: Allocations) -> WindowMemory:
        """Measures windows forward and backward; the allocations must have been counted since the task was built."""
        for _ in range(2):  # the first allocates what later ones find
            allocations.reset_peak()
            self.gradient(horizon)
            self.env.begin_window()  # lets go of the window's graph
        states = {tensor.untyped_storage()._cdata: tensor for tensor in (*self.env.state.values(), self.env.elapsed)}
        workspaces = allocations.held - sum(tensor.untyped_storage().nbytes() for tensor in states.values())
        return WindowMemory(workspaces, allocations.peak - workspaces)

    def best(self, run: Callable[[int], None], horizon: int, repeats: int) -> float:
        """Times windows: control steps per second over all environments, the best of several repeats."""
        rates = []
        for _ in range(repeats):
            windows, started = 0, self._clock()
            while windows == 0 or self._clock() - started < LEAST_SECONDS:
                run(horizon)
                windows += 1
            rates.append(windows * horizon * self.envs / (self._clock() - started))
        return max(rates)

    def _wait(self) -> None:
        if self.task.device.type == "cuda":
            torch.cuda.synchronize(self.task.device)


def _memory_per_env_step(runner: Runner, horizon: int) -> float | None:
    if horizon == 1:
        return None
    with Allocations() as allocations:
        # Counted from here on: what was allocated before is the same for both lengths.
        short, long = (runner.memory(steps, allocations) for steps in (1, horizon))
    grown = long.workspace_bytes + long.window_bytes - short.workspace_bytes - short.window_bytes
    return grown / (runner.envs * (horizon - 1))


def _peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes
