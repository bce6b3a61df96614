"""AHAC: SHAC with a horizon that adapts to how stiff the dynamics are (Georgiev et al., ICML 2024).

The paper bounds contact forces relative to accelerations. A task here need not know of contacts, so the constraint is
on what such contacts do to gradients: c_t, how much longer the adjoint of the state becomes on its way back through
control step t, as seen in the same backward pass that trains the actor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rfo.algo.base import Stopwatch, require
from rfo.algo.learner import Figures
from rfo.algo.shac import SHAC, SHACConfig
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, State
from rfo.data.horizon import Window
from rfo.policy.normalize import Normalization

__all__ = ["AHAC", "AHACConfig", "AdaptiveHorizon", "StiffnessProbe"]


@dataclass(frozen=True)
class AHACConfig(SHACConfig):
    """Every figure of AHAC; tags as in `LearnerConfig`.

    Attributes:
        horizon: Control steps of the first window [C].
        horizon_max: Control steps of the longest window [C].
        horizon_min: Control steps of the shortest window [C].
        stiffness_limit: Largest growth c_t of an adjoint through a control step [I].
        multiplier_lr: Step of the multipliers, per update [I].
        horizon_lr: Steps by which the horizon grows per update while no constraint is active [I].
    """

    horizon: int = 8
    horizon_max: int = 32
    horizon_min: int = 8
    stiffness_limit: float = 1.2
    multiplier_lr: float = 0.1
    horizon_lr: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("horizon_min",), lambda value: value >= 3, "must be at least 3, to see one growth")
        require(self, ("stiffness_limit", "multiplier_lr", "horizon_lr"), lambda value: value > 0, "must be positive")
        if not self.horizon_min <= self.horizon <= self.horizon_max:
            raise UsageError(f"algo.horizon must lie in horizon_min..horizon_max, got {self.horizon}")


class AdaptiveHorizon:
    """max_H H subject to c_t <= C for t < H, by dual ascent.

    lambda_t <- max(0, lambda_t + eta (c_t - C)), then H <- H + eta_H (1 - sum_t lambda_t), kept in its range. The
    released code lets lambda_t become negative, with which a horizon can shrink for ever without a violation.

    Args:
        config: The figures.
    """

    def __init__(self, config: AHACConfig) -> None:
        self._config = config
        self.length = float(config.horizon)
        self.multipliers = torch.zeros(config.horizon_max)

    @property
    def steps(self) -> int:
        """Control steps of the next window."""
        return round(self.length)

    def update(self, growth: Tensor) -> None:
        """Moves multipliers and horizon.

        Args:
            growth: c_t of the steps of a window, shape [T]; steps beyond them keep their multipliers.
        """
        config, count = self._config, len(growth)
        step = config.multiplier_lr * (growth.cpu().to(self.multipliers) - config.stiffness_limit)
        self.multipliers[:count] = (self.multipliers[:count] + step).clamp(min=0.0)
        length = self.length + config.horizon_lr * (1.0 - float(self.multipliers[: self.steps].sum()))
        self.length = min(max(length, float(config.horizon_min)), float(config.horizon_max))


class StiffnessProbe:
    """Notes the norm of the state's adjoint at every control step of a window as a backward pass goes by."""

    def __init__(self) -> None:
        self._squares: dict[int, Tensor] = {}

    def watch(self, state: State, t: int) -> None:
        """Listens at the state before control step t."""
        for tensor in state.values():
            if tensor.requires_grad:
                tensor.register_hook(self._listener(t))  # type: ignore[no-untyped-call]

    def growth(self, done: Tensor) -> Tensor:
        """Returns c_t: the adjoint's norm before step t over that after it, mean over environments, shape [T].

        Args:
            done: Where an episode ended, bool [H, N]; those steps do not count.
        """
        steps = sorted(self._squares)
        growth = []
        for before, after in pairwise(steps):
            ratio = (self._squares[before] / self._squares[after].clamp(min=1e-30)).sqrt()
            # A step before or after an end carries no adjoint across it.
            counts = ~(done[before] | done[after]) & (self._squares[after] > 0)
            growth.append(ratio[counts].mean() if bool(counts.any()) else ratio.new_ones(()))
        return torch.stack(growth)

    def _listener(self, t: int) -> Callable[[Tensor], None]:
        def listen(gradient: Tensor) -> None:
            square = gradient.detach().square().reshape(len(gradient), -1).sum(dim=1)
            self._squares[t] = self._squares[t] + square if t in self._squares else square

        return listen


class AHAC(SHAC):
    """SHAC's policy and critics with windows of adaptive length; the arguments are those of `ShortHorizonLearner`."""

    config: AHACConfig

    def set_up(self) -> None:
        """Begins with the first horizon."""
        super().set_up()
        self.adaptive = AdaptiveHorizon(self.config)
        self._probe = StiffnessProbe()

    @property
    def horizon(self) -> int:
        """Control steps of the next update."""
        return self.adaptive.steps

    def collect(self, env: VectorEnv, normalization: Normalization) -> Window:
        """Runs the policy for one window with the graph kept, listening at every state."""
        noise = self.draw_noise((self.horizon, env.n), self.rollout_noise)
        inner, self._probe = self.make_sampler(normalization, noise), StiffnessProbe()

        def sampler(observation: Observation, t: int, ended: Tensor | None) -> tuple[Tensor, Tensor]:
            self._probe.watch(env.state, t)
            return inner(observation, t, ended)

        return self.run_window(env, sampler)

    def improve(self, window: Window, normalization: Normalization, progress: float, watch: Stopwatch) -> Figures:
        """Takes one step of the actor, fits the critics, and adapts the horizon."""
        figures = super().improve(window, normalization, progress, watch)
        growth = self._probe.growth(window.done)
        figures |= {"horizon": float(self.horizon), "stiffness": growth.mean(), "stiffness_max": growth.max()}
        self.adaptive.update(growth)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit; tensors are the live ones, as in torch's modules."""
        return super().state_dict() | {"length": self.adaptive.length, "multipliers": self.adaptive.multipliers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        super().load_state_dict(state_dict)
        self.adaptive.length = state_dict["length"]
        self.adaptive.multipliers = state_dict["multipliers"].cpu().clone()
