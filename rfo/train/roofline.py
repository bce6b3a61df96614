"""How close the physics alone comes to what the processor can do.

The physics is timed without observation and reward: control steps of random actions, forward, and forward with
backward, through torch and, where a task can replay its kernels alone, without. Where its arithmetic is counted from
the kernels (a fused multiply-add as two operations), the peak is measured in the same run, on registers, for one core,
and multiplied by the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rfo.core.task import State, Task

__all__ = ["Roofline", "roofline"]


@dataclass(frozen=True)
class Roofline:
    """Speed of the physics, and its share of the peak.

    Attributes:
        physics_forward_env_steps_per_s: Control steps per second, forward.
        physics_gradient_env_steps_per_s: The same, forward and backward.
        operations_per_env_step: Counted operations forward, and forward with backward; None, like the peak and the
            shares of it, where nobody counts them.
        peak_operations_per_s: Measured peak of all threads.
        forward_percent_of_peak: Achieved share forward [%].
        gradient_percent_of_peak: Achieved share forward and backward [%].
        kernels_forward_env_steps_per_s: Control steps per second of the recorded kernels replayed alone, with the
            copies from and to tensors but without torch; None where they cannot be had.
        kernels_gradient_env_steps_per_s: The same, forward and backward.
    """

    physics_forward_env_steps_per_s: float
    physics_gradient_env_steps_per_s: float
    operations_per_env_step: tuple[float, float] | None = None
    peak_operations_per_s: float | None = None
    forward_percent_of_peak: float | None = None
    gradient_percent_of_peak: float | None = None
    kernels_forward_env_steps_per_s: float | None = None
    kernels_gradient_env_steps_per_s: float | None = None


def roofline(
    task: Task, state: State, horizon: int, threads: int, best: Callable[[Callable[[int], None]], float]
) -> Roofline | None:
    """Measures a task on one of this package's engines, on the CPU; None for others.

    Args:
        task: The task.
        state: Where to start, N environments.
        horizon: Control steps H of a window.
        threads: Cores in use.
        best: Times a function of a horizon: control steps per second, summed over environments.
    """
    if task.device.type != "cpu" or not task.spec.engine.startswith("warp-"):
        return None
    n = len(next(iter(state.values())))
    generator = torch.Generator().manual_seed(0)
    actions = 2.0 * torch.rand((horizon, n, task.spec.action_dim), generator=generator, dtype=task.dtype) - 1.0

    def run(actions: Tensor) -> State:
        following = state
        for action in actions:
            following = task.dynamics(following, action)
        return following

    def forward(_: int) -> None:
        with torch.no_grad():
            run(actions)

    def gradient(_: int) -> None:
        leaf = actions.clone().requires_grad_()
        last = run(leaf)
        torch.autograd.grad(torch.stack([y.sum() for y in last.values() if y.requires_grad]).sum(), leaf)

    rates = best(forward), best(gradient)
    replays, counted = task.physics_replays(state, actions[0], horizon), task.physics_operations()
    kernels = [best(_ignoring_horizon(replay)) for replay in replays] if replays else [None, None]
    if counted is None:
        return Roofline(*rates, None, None, None, None, *kernels)
    from rfo.sim.peak import peak_operations_per_second

    peak = threads * peak_operations_per_second(str(task.dtype).removeprefix("torch."))
    operations = counted[0], counted[0] + counted[1]
    shares = [100.0 * rate * count / peak for rate, count in zip(rates, operations, strict=True)]
    return Roofline(*rates, operations, peak, *shares, *kernels)


def _ignoring_horizon(replay: Callable[[], None]) -> Callable[[int], None]:
    return lambda horizon: replay()
