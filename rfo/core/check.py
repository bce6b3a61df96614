"""Tells the author of a task, in words, whether it keeps the environment contract and whether its gradients are true.

Every check runs in float64 and ends in one `Check`: a figure, the limit it must not exceed, and what to do if it does.
Gradients are checked in `rfo.core.check_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from rfo.core.errors import EngineLimitError, SimulationDivergedError
from rfo.core.machine import require_machine
from rfo.core.shell import VectorEnv
from rfo.core.task import State, Task, TaskSpec

__all__ = ["Check", "CheckReport", "check_task", "iterate_checks"]

Result = TypeVar("Result")

BATCH_LIMIT = 1e-5
"""Largest relative difference between an environment in a batch and the same environment alone."""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was checked, for example "isolation".
        passed: Whether the figure keeps its limit.
        figure: What was measured.
        limit: Largest figure that passes.
        message: What is wrong and what to try where it failed; otherwise what the figure is.
    """

    name: str
    passed: bool
    figure: float
    limit: float
    message: str

    def __str__(self) -> str:
        """Returns the finding as one line."""
        verdict = "ok  " if self.passed else "FAIL"
        return f"{verdict}  {self.name}: {self.figure:.3g} (limit {self.limit:.3g}); {self.message}"


@dataclass(frozen=True)
class CheckReport:
    """All findings about one task.

    Attributes:
        id: Registered name of the task.
        checks: Findings in the order in which they were made.
    """

    id: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """Says in one line whether the task passed."""
        failed = sum(not check.passed for check in self.checks)
        return f"{self.id}: " + (f"{failed} of {len(self.checks)} checks failed" if failed else "every check passed")

    def __str__(self) -> str:
        """Returns one line for each finding, and the verdict."""
        return "\n".join([*map(str, self.checks), self.verdict])


def check_task(
    task_class: type[Task],
    *,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    n: int = 18,
    seed: int = 0,
) -> CheckReport:
    """Checks a task against the environment contract and its gradients against central differences.

    A task whose shapes are wrong, that overwrites its inputs, or that does not repeat itself gets no further checks,
    since they compare runs with each other and could only repeat that.

    Args:
        task_class: The task.
        device: Torch device to check on.
        threads: Cores the engine may use; None for all.
        n: Number of environments in a batch; more than a pack of 16, which engines may compute together.
        seed: Seed of the states, actions and directions.

    Raises:
        UsageError: The device or the cores are not there.
    """
    return CheckReport(task_class.spec.id, tuple(iterate_checks(task_class, device, threads, n, seed)))


def iterate_checks(
    task_class: type[Task], device: str | torch.device, threads: int | None, n: int = 18, seed: int = 0
) -> Iterator[Check]:
    """Yields the findings of `check_task` one by one, as they are made."""
    from rfo.core.check_gradient import check_gradients

    require_machine(device, threads)
    task = task_class(device=device, dtype=torch.float64, threads=threads)
    problems = _spec_problems(task.spec) or _shape_problems(task, n, seed)
    yield _counted("spec and shapes", problems, "every tensor has the shape and type that the spec says")
    if problems:
        return
    for name, look in (("state in, state out", _check_inputs), ("same seed, same state", _check_seed)):
        check = _attempted(name, look, task, n, seed)
        yield check
        if not check.passed:
            return
    yield _attempted("N environments equal one", _check_batch, task, n, seed)
    if not task.spec.differentiable:
        return
    yield _attempted("isolation", _check_isolation, task, n, seed)
    yield _attempted("no gradient across a reset", _check_reset_cut, task, n, seed)
    yield _attempted("no gradient across a window", _check_window_cut, task, n, seed)
    yield from check_gradients(task_class, task, threads, n, seed)


def random_actions(task: Task, n: int, steps: int, generator: torch.Generator) -> Tensor:
    """Draws actions well inside the bounds, shape [steps, n, action_dim]."""
    shape = (steps, n, task.spec.action_dim)
    return 1.4 * torch.rand(shape, generator=generator, device=task.device, dtype=task.dtype) - 0.7


def seeded(task: Task, seed: int) -> torch.Generator:
    """Returns a generator on the task's device."""
    return torch.Generator(device=task.device).manual_seed(seed)


def _attempted(name: str, look: Callable[[Task, int, int], Check], task: Task, n: int, seed: int) -> Check:
    """Returns the finding, or the error that a task raises where it keeps tensors of another batch or window."""
    try:
        return look(task, n, seed)
    except (EngineLimitError, SimulationDivergedError) as error:
        return Check(name, False, float("inf"), 0.0, str(error))
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["no message"])[0]
        message = (
            f"a step raises {reason!r}; take n from the tensors given, and keep nothing of the state inside the task"
        )
        return Check(name, False, float("inf"), 0.0, message)


def _counted(name: str, problems: list[str], fine: str) -> Check:
    return Check(name, not problems, float(len(problems)), 0.0, "; ".join(problems) or fine)


def _spec_problems(spec: TaskSpec) -> list[str]:
    problems = []
    if spec.action_dim < 1:
        problems.append(f"spec.action_dim is {spec.action_dim}; a task needs at least one action")
    if spec.episode_length < 1:
        problems.append(f"spec.episode_length is {spec.episode_length}; give the control steps until the time limit")
    if not spec.control_dt > 0:
        problems.append(f"spec.control_dt is {spec.control_dt}; give the simulated seconds per control step")
    if not spec.observation_shapes:
        problems.append("spec.observation_shapes is empty; name every observation key with its shape")
    return problems


def _shape_problems(task: Task, n: int, seed: int) -> list[str]:
    with torch.no_grad():
        state = task.initial_state(seeded(task, seed), n)
        action = random_actions(task, n, 1, seeded(task, seed))[0]
        next_state = task.dynamics(state, action)
        observation = task.observe(next_state)
        reward = task.reward(state, action, next_state)
        terminated = task.terminated(next_state)
    problems = []
    for name, tensor in state.items():
        if tensor.ndim < 1 or tensor.shape[0] != n:
            problems.append(
                f"initial_state()[{name!r}] has shape {list(tensor.shape)}; its first dimension must be {n}"
            )
        if tensor.is_floating_point() and tensor.dtype != task.dtype:
            problems.append(f"initial_state()[{name!r}] is {tensor.dtype}; make it self.dtype ({task.dtype})")
        if name not in next_state:
            problems.append(f"dynamics() drops the state {name!r}; return every tensor it was given")
        elif next_state[name].shape != tensor.shape or next_state[name].dtype != tensor.dtype:
            was, now = (f"{list(t.shape)} {t.dtype}" for t in (tensor, next_state[name]))
            problems.append(f"dynamics() turns the state {name!r} from {was} into {now}; keep shape and type")
    problems += [
        f"dynamics() adds the state {name!r}; put it into initial_state()" for name in next_state.keys() - state.keys()
    ]
    expected = {key: (n, *shape) for key, shape in task.spec.observation_shapes.items()}
    found = {key: tuple(tensor.shape) for key, tensor in observation.items()}
    if expected != found:
        problems.append(f"observe() returns {found}, but spec.observation_shapes says {expected}; make them agree")
    if tuple(reward.shape) != (n,):
        problems.append(f"reward() has shape {list(reward.shape)}; it must be [{n}]")
    if tuple(terminated.shape) != (n,) or terminated.dtype != torch.bool:
        problems.append(
            f"terminated() is {list(terminated.shape)} {terminated.dtype}; it must be a bool of shape [{n}]"
        )
    computed = {**{f"observe()[{key!r}]": tensor for key, tensor in observation.items()}, "reward()": reward}
    problems += [
        f"{name} is {tensor.dtype}; make it self.dtype ({task.dtype})"
        for name, tensor in computed.items()
        if tensor.is_floating_point() and tensor.dtype != task.dtype
    ]
    position = task.position(state)
    if position is not None and tuple(position.shape) != (n,):
        problems.append(f"position() has shape {list(position.shape)}; it must be [{n}]")
    named = {**next_state, **observation, "reward": reward}
    problems += [
        f"{name!r} is not finite after one step" for name, tensor in named.items() if not bool(tensor.isfinite().all())
    ]
    return problems


def _check_inputs(task: Task, n: int, seed: int) -> Check:
    state = task.initial_state(seeded(task, seed), n)
    action = random_actions(task, n, 1, seeded(task, seed))[0]
    with torch.no_grad():
        next_state, changed = _overwritten({**state, "action": action}, lambda: task.dynamics(state, action))
        problems = [f"dynamics() overwrites {name!r}, which it was given; return new tensors" for name in changed]
        readers: dict[str, Callable[[], object]] = {
            "reward": lambda: task.reward(state, action, next_state),
            "observe": lambda: task.observe(next_state),
            "terminated": lambda: task.terminated(next_state),
            "position": lambda: task.position(next_state),
            "metrics": lambda: task.metrics(next_state),
        }
        for method, read in readers.items():
            given = {**{f"next {name}": tensor for name, tensor in next_state.items()}, **state, "action": action}
            _, changed = _overwritten(given, read)
            problems += [f"{method}() overwrites {name!r}, which it was given; return new tensors" for name in changed]
    return _counted("state in, state out", problems, "no input is overwritten")


def _overwritten(given: State, call: Callable[[], Result]) -> tuple[Result, list[str]]:
    """Returns what a call returns, and the names of the tensors that it changed."""
    kept = {name: tensor.clone() for name, tensor in given.items()}
    result = call()
    return result, [name for name in kept if not torch.equal(kept[name], given[name])]


def _rollout(task: Task, state: State, actions: Tensor) -> State:
    """Returns the state after the actions, and the rewards on the way as one more tensor [N, steps]."""
    rewards = []
    for action in actions:
        next_state = task.dynamics(state, action)
        rewards.append(task.reward(state, action, next_state))
        state = next_state
    observed = {f"observation {key}": tensor for key, tensor in task.observe(state).items()}
    return {**state, **observed, "reward": torch.stack(rewards, dim=1)}


def _relative_difference(first: State, second: State) -> tuple[float, str]:
    """Returns the largest difference relative to the tensor's largest entry, and the tensor in which it is."""
    worst, where = 0.0, ""
    for name, tensor in first.items():
        one, other = tensor.detach().double(), second[name].detach().double()
        difference, size = (one - other).abs(), one.abs()
        figure = float(difference.max()) / max(float(size.max()), 1e-12) if one.numel() else 0.0
        # A comparison with NaN is false: unless it counts as infinite, what is not finite would pass.
        figure = figure if figure == figure else float("inf")
        if figure > worst or not where:
            worst, where = figure, name
    return worst, where


def _check_seed(task: Task, n: int, seed: int) -> Check:
    actions = random_actions(task, n, 2, seeded(task, seed + 1))
    results = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for global_seed in (0, 1):
            # A task that draws from torch's global generator shows here.
            torch.manual_seed(global_seed)
            results.append(_rollout(task, task.initial_state(seeded(task, seed), n), actions))
    figure, where = _relative_difference(results[0], results[1])
    # A GPU adds atomically, in no fixed order: there the same seed means the same episode up to rounding.
    limit = 0.0 if task.device.type == "cpu" else 1e-9
    message = "the same seed gives the same episode" + (", bit for bit" if limit == 0.0 else " up to rounding")
    if figure > limit:
        message = (
            f"the same seed gives different {where!r}; draw all randomness from the generator of initial_state(), "
            "and keep nothing of the state inside the task"
        )
    return Check("same seed, same state", figure <= limit, figure, limit, message)


def _check_batch(task: Task, n: int, seed: int) -> Check:
    state = task.initial_state(seeded(task, seed), n)
    actions = random_actions(task, n, 2, seeded(task, seed + 1))
    with torch.no_grad():
        together = _rollout(task, state, actions)
        alone = [_rollout(task, _row(state, i), actions[:, i : i + 1]) for i in range(n)]
    joined = {name: torch.cat([result[name] for result in alone]) for name in together}
    figure, where = _relative_difference(together, joined)
    passed = figure <= BATCH_LIMIT
    message = f"largest difference between {n} environments together and each alone, relative ({where!r})"
    if not passed:
        message = f"{where!r} of an environment depends on its batch; let no operation mix the first dimension"
    return Check("N environments equal one", passed, figure, BATCH_LIMIT, message)


def _row(state: State, index: int) -> State:
    return {name: tensor[index : index + 1].clone() for name, tensor in state.items()}


def _largest(gradient: Tensor | None) -> float:
    """Returns the largest absolute entry; infinity where an entry is not finite, zero for no gradient."""
    if gradient is None or gradient.numel() == 0:
        return 0.0
    largest = float(gradient.abs().max())
    return largest if largest == largest else float("inf")


def _check_isolation(task: Task, n: int, seed: int) -> Check:
    state = task.initial_state(seeded(task, seed), n)
    figure, source = 0.0, 0
    for i in sorted({0, n // 2, n - 1}):
        # A fresh rollout each time: an engine may free what it stored once it has been differentiated.
        actions = random_actions(task, n, 2, seeded(task, seed + 1)).requires_grad_()
        produced = _rollout(task, state, actions).values()
        own = [tensor[i].sum() for tensor in produced if tensor.requires_grad]
        if not own:
            break
        (gradient,) = torch.autograd.grad(torch.stack(own).sum(), actions)
        others = _largest(torch.cat([gradient[:, :i], gradient[:, i + 1 :]], dim=1))
        if others > figure:
            figure, source = others, i
    message = "no environment's gradient reaches another environment's action"
    if figure > 0.0:
        message = f"environment {source} has a gradient to another environment's action; some operation mixes the batch"
    return Check("isolation", figure == 0.0, figure, 0.0, message)


def _check_reset_cut(task: Task, n: int, seed: int) -> Check:
    env = VectorEnv(task, n, seed=seed)
    env.begin_window()
    ending = torch.ones(n, dtype=torch.bool, device=task.device)
    if not task.spec.synchronous:
        ending[n // 2 + 1 :] = False
    env.elapsed = torch.where(ending, task.spec.episode_length - 1, 0)
    actions = random_actions(task, n, 2, seeded(task, seed + 1)).requires_grad_()
    env.step(actions[0])
    after = env.step(actions[1])
    (gradient,) = torch.autograd.grad(after.reward.sum(), actions, allow_unused=True)
    figure = _largest(gradient[0, ending]) if gradient is not None else 0.0
    message = "no gradient crosses the beginning of a new episode"
    if figure > 0.0:
        message = (
            "a reward has a gradient to an action of the episode before; keep nothing of the state inside the task"
        )
    return Check("no gradient across a reset", figure == 0.0, figure, 0.0, message)


def _check_window_cut(task: Task, n: int, seed: int) -> Check:
    env = VectorEnv(task, n, seed=seed)
    env.begin_window()
    actions = random_actions(task, n, 2, seeded(task, seed + 1)).requires_grad_()
    env.step(actions[0])
    env.begin_window()
    after = env.step(actions[1])
    (gradient,) = torch.autograd.grad(after.reward.sum(), actions, allow_unused=True)
    figure = _largest(gradient[0]) if gradient is not None else 0.0
    message = "no gradient crosses the start of a window"
    if figure > 0.0:
        message = "a reward has a gradient to an action of the window before; keep nothing of the state inside the task"
    return Check("no gradient across a window", figure == 0.0, figure, 0.0, message)
