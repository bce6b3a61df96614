"""Making a data set: a policy or a script acts, and every transition is kept in the order of its episode."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.oracle import HasOracles
from rfo.core.registry import did_you_mean
from rfo.core.shell import Transition, VectorEnv
from rfo.core.task import Observation, Task
from rfo.data.offline import Array, OfflineData, require_writable
from rfo.train.algorithms import Algorithm, OpenLoop
from rfo.train.config import SEED_LIMIT
from rfo.train.evaluate import random_policy, zero_policy

__all__ = ["Actor", "Quota", "baseline_actor", "collect", "oracle_actor", "summary_line", "trained_actor"]

Actor = Callable[[Observation, Tensor], Tensor]
"""(observation, where an episode has just begun [N]) → actions in [-1, 1], shape [N, action_dim]."""


@dataclass(frozen=True)
class Quota:
    """How much is collected, from how many environments, and where to.

    Attributes:
        path: File to write, .npz, .h5 or .hdf5; one that is there is not written over.
        episodes: Whole episodes to collect; None to count steps.
        steps: Environment steps to collect at least; the last episodes are cut.
        envs: Environments stepped together.
        seed: Seed of initial states and of every draw.
        noise: Standard deviation of Gaussian noise added to every action, which is then clipped.
    """

    path: Path
    episodes: int | None = None
    steps: int = 10_000
    envs: int = 8
    seed: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        # Found out before anything is simulated rather than after.
        require_writable(self.path)
        if self.path.exists():
            raise UsageError(f"{self.path} exists; give another --output")
        if not self.path.parent.is_dir() or not os.access(self.path.parent, os.W_OK):
            raise UsageError(f"cannot write {self.path}: there is no folder {self.path.parent} that is open to you")
        for name in ("episodes", "steps", "envs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} is {value}; it must be at least 1")
        if not 0 <= self.seed < SEED_LIMIT:
            raise UsageError(f"--seed is {self.seed}; it must not be negative, and less than 2**62")
        if not 0.0 <= self.noise < float("inf"):
            raise UsageError(f"--noise is {self.noise}; it must be finite and not negative")

    @property
    def width(self) -> int:
        """Environments that have something to do."""
        return min(self.envs, self.steps if self.episodes is None else self.episodes)

    def shares(self) -> Tensor | None:
        """Returns how many episodes each environment contributes, [N]; None where steps are counted.

        Every environment has its own share, or environments whose episodes are short would contribute more of them.
        """
        if self.episodes is None:
            return None
        share, rest = divmod(self.episodes, self.width)
        return torch.tensor([share + (i < rest) for i in range(self.width)])


class _Tape:
    """The transitions of N environments, step by step."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Array]] = []

    def add(self, observation: Observation, action: Tensor, transition: Transition) -> None:
        row = {f"observation/{key}": value for key, value in observation.items()}
        row |= {f"next_observation/{key}": value for key, value in transition.final_observation.items()}
        row |= {"action": action, "reward": transition.reward}
        row |= {"terminated": transition.terminated, "truncated": transition.truncated}
        self._rows.append({name: _plain(value) for name, value in row.items()})

    def finish(self, lengths: list[int]) -> OfflineData:
        """Returns the first `lengths[i]` transitions of every environment i, one environment after the other."""
        columns = {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        for i, length in enumerate(lengths):
            if length and not columns["terminated"][length - 1, i]:
                columns["truncated"][length - 1, i] = True  # what the end of a recording cuts
        flat = {
            name: np.concatenate([column[:length, i] for i, length in enumerate(lengths)])
            for name, column in columns.items()
        }

        def keys(group: str) -> dict[str, Array]:
            return {name.split("/", 1)[1]: value for name, value in flat.items() if name.startswith(group + "/")}

        rest = (flat[name] for name in ("action", "reward", "terminated", "truncated"))
        return OfflineData(keys("observation"), keys("next_observation"), *rest)


@torch.no_grad()
def collect(
    task: Task,
    actor: Actor,
    quota: Quota,
    *,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> OfflineData:
    """Acts until the quota is there, or until `should_stop` says so after a step; then unfinished episodes are cut.

    Args:
        task: The task.
        actor: What acts.
        quota: How much.
        on_progress: Called after every step with the episodes or steps there are.
        should_stop: Whether to stop early, keeping everything there is.
    """
    n, shares = quota.width, quota.shares()
    env = VectorEnv(task, n, seed=quota.seed)
    generator = torch.Generator(device=task.device).manual_seed(quota.seed + 1)
    observation = env.reset()
    began = torch.ones(n, dtype=torch.bool, device=task.device)
    tape, step = _Tape(), 0
    ended, lengths = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    while True:
        action = actor(observation, began)
        if quota.noise:
            drawn = torch.randn(action.shape, generator=generator, dtype=action.dtype, device=action.device)
            action = action + quota.noise * drawn
        action = action.clamp(-1.0, 1.0)
        transition = env.step(action)
        tape.add(observation, action, transition)
        observation, began = transition.observation, transition.done
        step += 1
        active = torch.ones(n, dtype=torch.bool) if shares is None else ended < shares
        lengths[active] = step
        ended += (began.cpu() & active).long()
        done = n * step if shares is None else int(ended.sum())
        if on_progress is not None:
            on_progress(done)
        if done >= (quota.episodes or quota.steps) or should_stop():
            return tape.finish(lengths.tolist())


def trained_actor(algorithm: Algorithm, *, deterministic: bool, device: torch.device, seed: int) -> Actor:
    """Returns an algorithm's policy with random numbers of its own."""
    generator = torch.Generator(device=device).manual_seed(seed)
    if isinstance(algorithm, OpenLoop):
        return algorithm.controller(deterministic=deterministic, generator=generator)
    return lambda observation, began: algorithm.act(observation, deterministic=deterministic, generator=generator)


def baseline_actor(task: Task, name: str, seed: int) -> Actor:
    """Returns the policy "zero" or "random"."""
    policy = zero_policy(task) if name == "zero" else random_policy(task, seed)
    return lambda observation, began: policy(observation)


def oracle_actor(task: Task, name: str, n: int, seed: int) -> Actor:
    """Returns a script of the task; the first one where the name is empty.

    Raises:
        UsageError: The task has no such script.
    """
    if not isinstance(task, HasOracles):
        raise UsageError(f"{task.spec.id} has no scripted oracle; try --policy random, or the folder of a run")
    chosen = name or task.oracles[0]
    if chosen not in task.oracles:
        hint = did_you_mean(chosen, list(task.oracles))
        raise UsageError(f"{task.spec.id} has no oracle {chosen!r}{hint} (there are {', '.join(task.oracles)})")
    return task.make_oracle(chosen, n, seed)


def summary_line(data: OfflineData) -> str:
    """Returns what there is in a data set as one line; an episode's return is the sum of its rewards."""
    ends = np.flatnonzero(data.terminated | data.truncated)
    returns = np.add.reduceat(data.reward.astype(np.float64), np.concatenate([[0], ends[:-1] + 1]))
    return (
        f"{len(data)} transitions, {data.episodes} episodes, return {returns.mean():.2f} ± {returns.std():.2f}, "
        f"{int(data.terminated.sum())} terminated"
    )


def _plain(value: Tensor) -> Array:
    array: Array = value.detach().cpu().numpy()
    # A copy: a task may write its next step over what it has returned.
    return array.astype(np.float32) if array.dtype.kind == "f" else array.copy()
