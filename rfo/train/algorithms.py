"""The algorithms a config can name: one line each.

An algorithm is a frozen config dataclass with at least `horizon` (control steps per update), and a class that keeps the
`Algorithm` protocol. Both are imported only when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.registry import did_you_mean
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, TaskSpec

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Controller",
    "OpenLoop",
    "Pretraining",
    "VariableHorizon",
    "config_class",
    "make_algorithm",
]

ALGORITHMS = {
    "ahac": ("rfo.algo.ahac:AHACConfig", "rfo.algo.ahac:AHAC"),
    "bptt": ("rfo.algo.bptt:BPTTConfig", "rfo.algo.bptt:BPTT"),
    "ppo": ("rfo.algo.ppo:PPOConfig", "rfo.algo.ppo:PPO"),
    "rfo": ("rfo.algo.rfo:RFOConfig", "rfo.algo.rfo:RFO"),
    "flowrl": ("rfo.algo.flowrl:FlowRLConfig", "rfo.algo.flowrl:FlowRL"),
    "sac-flow": ("rfo.algo.sac_flow:SACFlowConfig", "rfo.algo.sac_flow:SACFlow"),
    "sac": ("rfo.algo.sac:SACConfig", "rfo.algo.sac:SAC"),
    "sapo": ("rfo.algo.sapo:SAPOConfig", "rfo.algo.sapo:SAPO"),
    "shac": ("rfo.algo.shac:SHACConfig", "rfo.algo.shac:SHAC"),
}
"""Name in a config → (config dataclass, algorithm class)."""


class Algorithm(Protocol):
    """What the training loop needs of an algorithm."""

    def update(self, env: VectorEnv, progress: float) -> dict[str, float]:
        """Collects one window of `config.horizon` steps, learns from it, and returns figures to log.

        Args:
            env: The environments to step.
            progress: Fraction of the training budget that is spent, in [0, 1]; schedules follow it.
        """

    def act(self, observation: Observation, *, deterministic: bool, generator: torch.Generator | None) -> Tensor:
        """Returns actions in [-1, 1], shape [N, action_dim], without a gradient."""

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""

    def policy_state_dict(self) -> dict[str, Any]:
        """Returns what acting needs, and nothing that only learning does."""

    def load_policy_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Acts as the policy of a `policy_state_dict`."""


@runtime_checkable
class VariableHorizon(Protocol):
    """An algorithm that says how many control steps its next update takes, where that is not the config's horizon."""

    @property
    def horizon(self) -> int:
        """Control steps of the next update."""


class Controller(Protocol):
    """A policy that remembers what it is executing."""

    def __call__(self, observation: Observation, began: Tensor | None = None) -> Tensor:
        """Returns actions, shape [N, action_dim].

        Args:
            observation: As the task gives it.
            began: Where an episode has just begun, bool [N]; None where all episodes begin with the first call.
        """


@runtime_checkable
class OpenLoop(Protocol):
    """An algorithm whose policy plans several steps ahead and so remembers what it is executing."""

    def controller(self, *, deterministic: bool, generator: torch.Generator | None) -> Controller:
        """Returns a policy with a memory of its own."""


@runtime_checkable
class Pretraining(Protocol):
    """An algorithm that learns from a data set before the first environment step."""

    @property
    def pretraining_left(self) -> int:
        """Updates on the data set that are still to be made."""

    def prepare(self) -> None:
        """Reads the data set, where there is one."""

    def pretrain(self, updates: int) -> dict[str, float]:
        """Makes updates on the data set and returns figures to log."""


def config_class(name: str) -> type[Any]:
    """Returns the config dataclass of an algorithm.

    Raises:
        UsageError: No algorithm has this name.
    """
    return _load(_entry(name)[0])


def make_algorithm(
    name: str, config: Any, spec: TaskSpec, *, device: torch.device, dtype: torch.dtype, seed: int
) -> Algorithm:
    """Builds an algorithm for a task."""
    algorithm: Algorithm = _load(_entry(name)[1])(config, spec, device=device, dtype=dtype, seed=seed)
    return algorithm


def _entry(name: str) -> tuple[str, str]:
    if name not in ALGORITHMS:
        known = sorted(ALGORITHMS)
        raise UsageError(f"unknown algorithm {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    return ALGORITHMS[name]


def _load(path: str) -> type[Any]:
    module, _, attribute = path.partition(":")
    loaded: type[Any] = getattr(import_module(module), attribute)
    return loaded
