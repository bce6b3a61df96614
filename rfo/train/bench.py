"""How fast a task runs: control steps per second forward, and forward with backward, in wall-clock time.

Forward: random actions through `VectorEnv.step` without gradients, observation and reward included. Gradient: a window
of H steps with the graph kept, then one backward pass of the summed rewards to the actions. Both are the best of
several repeats after a warm-up; the warm-up is `compile_s`: building the task, its first forward step and its first
gradient step.

Memory per environment step is what a window of H steps holds beyond a window of one step, over N (H - 1). It is read as
the growth of the process's resident memory (on CUDA: of the device memory in use) over the first long window, at the
end of its forward and of its backward pass, whichever is larger. So it counts what the engine stores as well as what
torch stores, to the accuracy of the allocators: meaningful from some megabytes of growth on.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Task
from rfo.train.roofline import Roofline, roofline

__all__ = ["BenchResult", "available_cores", "bench"]

LEAST_SECONDS = 0.5
"""A repeat runs windows until this much time has passed, so that a fast task is not measured by one short window."""


@dataclass(frozen=True)
class BenchResult:
    """What `rfo bench` measures.

    Attributes:
        forward_env_steps_per_s: Control steps per second without gradients, summed over environments.
        gradient_env_steps_per_s: The same forward and backward; None where the task has no gradients.
        memory_bytes_per_env_step: Memory that a window holds per control step and environment; None likewise.
        peak_rss_bytes: Largest resident memory of the process.
        compile_s: Seconds until everything has run once.
        threads: Cores used.
        device: Torch device.
        dtype: Scalar type of the simulation.
        roofline: The physics alone and its share of the processor's peak; None where nobody counts its arithmetic.
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
        repeats: Repeats of which the fastest counts.
        on_stage: Called with what is being done.

    Raises:
        UsageError: A size is impossible, or the task is unknown.
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
    task = registry.make(task_id, device=device, dtype=dtype, threads=cores)
    runner = _Runner(task, envs)
    runner.forward(1)
    if task.spec.differentiable:
        runner.gradient(1)
    compile_s = time.perf_counter() - started
    on_stage("memory of a window")
    memory = runner.memory(horizon) if task.spec.differentiable else None
    on_stage("forward")
    forward = runner.best(runner.forward, horizon, repeats)
    on_stage("gradient")
    gradient = runner.best(runner.gradient, horizon, repeats) if task.spec.differentiable else None
    on_stage("physics alone")
    state = {name: tensor.detach() for name, tensor in runner.env.state.items()}
    ceiling = roofline(task, state, horizon, cores, lambda run: runner.best(run, horizon, repeats))
    name = str(dtype).removeprefix("torch.")
    return BenchResult(forward, gradient, memory, _peak_rss(), compile_s, cores, str(task.device), name, ceiling)


class _Runner:
    def __init__(self, task: Task, envs: int) -> None:
        self.task, self.envs = task, envs
        self.env = VectorEnv(task, envs, seed=0, stagger=True)
        self.generator = torch.Generator(device=task.device).manual_seed(0)

    def actions(self, horizon: int) -> torch.Tensor:
        shape = (horizon, self.envs, self.task.spec.action_dim)
        return 2.0 * torch.rand(shape, generator=self.generator, device=self.task.device, dtype=self.task.dtype) - 1.0

    @torch.no_grad()
    def forward(self, horizon: int) -> None:
        self.env.begin_window()
        for action in self.actions(horizon):
            self.env.step(action)
        self._wait()

    def gradient(self, horizon: int, at_end_of_forward: Callable[[], None] = lambda: None) -> None:
        actions = self.actions(horizon).requires_grad_()
        self.env.begin_window()
        rewards = torch.stack([self.env.step(action).reward for action in actions])
        at_end_of_forward()
        (gradient,) = torch.autograd.grad(rewards.sum(), actions)
        self._wait()
        if not bool(gradient.isfinite().all()):
            where = (~gradient.isfinite()).nonzero()[0].tolist()
            raise FloatingPointError(
                f"{self.task.spec.id}: the gradient to the action of environment {where[1]} at step {where[0]} is not "
                "finite; try a shorter --horizon"
            )

    def memory(self, horizon: int) -> float | None:
        if horizon == 1:
            return None
        before, seen = self._memory_in_use(), []
        self.gradient(horizon, lambda: seen.append(self._memory_in_use()))
        seen.append(self._memory_in_use())
        return max(0, max(seen) - before) / (self.envs * (horizon - 1))

    def best(self, run: Callable[[int], None], horizon: int, repeats: int) -> float:
        rates = []
        for _ in range(repeats):
            windows, started = 0, time.perf_counter()
            while windows == 0 or time.perf_counter() - started < LEAST_SECONDS:
                run(horizon)
                windows += 1
            rates.append(windows * horizon * self.envs / (time.perf_counter() - started))
        return max(rates)

    def _memory_in_use(self) -> int:
        if self.task.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.task.device)
            return total - free
        return int(psutil.Process().memory_info().rss)

    def _wait(self) -> None:
        if self.task.device.type == "cuda":
            torch.cuda.synchronize(self.task.device)


def _peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes
