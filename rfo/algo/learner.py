"""What learners on windows share: the policy's optimizer, schedules, and one update per window."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rfo.algo.base import BaseLearner, Stopwatch, has_widths, require
from rfo.algo.value_fit import clip_gradient
from rfo.core.shell import VectorEnv
from rfo.data.horizon import EpisodeReturns, Sampler, Window, collect_window
from rfo.policy.encoders import PointsName
from rfo.policy.latent import LatentPolicy
from rfo.policy.normalize import Normalization

__all__ = ["Figures", "Learner", "LearnerConfig"]

Figures = dict[str, Tensor | float]
"""Figures to log, by name."""


@dataclass(frozen=True)
class LearnerConfig:
    """What every learner has, with where it comes from.

    [P] the algorithm's paper, [S] a summary by others, [T] a re-implementation by others that cites the paper's
    equations, [C] released code, [E] what learned in this project's own experiments on a small soft quadruped, [I] a
    choice made here.

    Attributes:
        gamma: Discount per control step [C].
        horizon: Control steps H of a window [E]; SHAC, SAPO and the re-implementation of RFO use 32 [C][T].
        actor_hidden: Widths of the policy's hidden layers [E].
        actor_lr: Learning rate of the actor at the start [E].
        lr_min: Learning rate at the end of the linear decay [C].
        betas: Moment decays of AdamW [C].
        weight_decay: Weight decay of AdamW [E].
        grad_clip: Largest gradient norm, of the actor and of the critics [C].
        action_gradient_limit: Longest gradient of the return to one environment's action, in medians over those that
            have one at that step; of a longer one the direction is kept [E]. null leaves all as they are [C].
        points: Point sets are "pooled" by a network per point and a mean, as SAPO reads them [P], or read "flat", every
            coordinate by itself, where a point is always the same vertex or particle [I]: a fifteenth of the work.
        normalizer_floor: Smallest standard deviation by which an observation is divided [E].
        normalizer_clip: Largest magnitude of a normalised observation [E].
    """

    gamma: float = 0.99
    horizon: int = 16
    actor_hidden: tuple[int, ...] = (128, 128)
    actor_lr: float = 4e-3
    lr_min: float = 1e-5
    betas: tuple[float, float] = (0.7, 0.95)
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    action_gradient_limit: float | None = None
    points: PointsName = "pooled"
    normalizer_floor: float = 0.3
    normalizer_clip: float = 10.0

    def __post_init__(self) -> None:
        require(self, ("horizon",), lambda value: value >= 1, "must be at least 1")
        positive = ("actor_lr", "lr_min", "grad_clip", "normalizer_floor", "normalizer_clip")
        require(self, positive, lambda value: value > 0, "must be positive")
        limit, rule = ("action_gradient_limit",), "must be positive, or null"
        require(self, limit, lambda value: value is None or value > 0, rule)
        require(self, ("weight_decay",), lambda value: value >= 0, "must not be negative")
        require(self, ("gamma",), lambda value: 0 <= value <= 1, "must lie in [0, 1]")
        require(self, ("points",), lambda value: value in ("pooled", "flat"), "must be pooled or flat")
        require(self, ("actor_hidden",), has_widths, "needs widths of at least 1")


ConfigT = TypeVar("ConfigT", bound=LearnerConfig)


class Learner(BaseLearner[ConfigT]):
    """A policy and one `update` per window; how the policy is improved is left open.

    The arguments are those of `BaseLearner`.
    """

    policy: LatentPolicy

    def set_up(self) -> None:
        """Moves the policy to the device and makes its optimizer."""
        config = self.config
        self.rollout_noise, self.loss_noise, self.fit_order = self.generators
        self.policy.to(self.device, self.dtype)
        self.optimizer = self.make_optimizer(self.policy.parameters(), config.actor_lr)
        self.schedules: list[tuple[torch.optim.Optimizer, float]] = [(self.optimizer, config.actor_lr)]
        """Optimizers whose learning rate decays linearly from the given one to `lr_min`."""
        self._episodes: EpisodeReturns | None = None

    @abstractmethod
    def improve(self, window: Window, normalization: Normalization, progress: float, watch: Stopwatch) -> Figures:
        """Learns from one window and returns figures to log.

        Args:
            window: What `collect` returned.
            normalization: The statistics it was collected with.
            progress: Share of the training done, in [0, 1].
            watch: Times the parts.
        """

    @property
    def horizon(self) -> int:
        """Control steps of the next update."""
        return self.config.horizon

    def update(self, env: VectorEnv, progress: float) -> dict[str, float]:
        """Collects one window and learns from it.

        Args:
            env: The environments; continues where they stand.
            progress: Share of the training done, in [0, 1]; drives every schedule.

        Returns:
            Metrics. `episode_return` is absent where no episode ended.

        Raises:
            FloatingPointError: A gradient is not finite; the optimizer has not been given it.
        """
        self.require_match(env)
        self._decay_learning_rates(progress)
        watch = Stopwatch(self.device)
        normalization = self.normalizer.snapshot()
        window = self.collect(env, normalization)
        watch.lap("rollout")
        figures = self.improve(window, normalization, progress, watch)
        self.normalizer.update(window.observation)
        self.updates += 1
        figures |= self._describe(window)
        tensors = {name: value for name, value in figures.items() if isinstance(value, Tensor)}
        # One transfer for all of them, which matters on a GPU.
        values = torch.stack([value.detach().to(self.dtype) for value in tensors.values()]).tolist()
        numbers = {name: value for name, value in figures.items() if not isinstance(value, Tensor)}
        return dict(zip(tensors, values, strict=True)) | numbers | watch.seconds()

    def collect(self, env: VectorEnv, normalization: Normalization) -> Window:
        """Runs the policy for one window, with the graph kept where gradients are enabled."""
        noise = self.draw_noise((self.horizon, env.n), self.rollout_noise)
        return self.run_window(env, self.make_sampler(normalization, noise))

    def run_window(self, env: VectorEnv, sampler: Sampler) -> Window:
        """Runs a sampler for one window of the next update's length."""
        limit = self.config.action_gradient_limit
        return collect_window(env, sampler, self.horizon, action_gradient_limit=limit)

    def make_sampler(self, normalization: Normalization, noise: Tensor) -> Sampler:
        """Returns what draws the actions of a window from noise [H, N, A]."""
        return lambda observation, t, ended: self.policy.sample(normalization(observation), noise[t])

    def climb(self, loss: Tensor) -> float:
        """Takes one step of the policy down a loss and returns the gradient's norm before clipping.

        Raises:
            FloatingPointError: The gradient is not finite; the optimizer has not been given it.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradient(list(self.policy.parameters()), self.config.grad_clip, what="actor")
        self.optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit; tensors are the live ones, as in torch's modules."""
        return super().state_dict() | {
            "updates": self.updates,
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "episodes": None if self._episodes is None else self._episodes.running.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        super().load_state_dict(state_dict)
        self.updates = state_dict["updates"]
        self.policy.load_state_dict(state_dict["policy"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._episodes = None
        if state_dict["episodes"] is not None:
            self._episodes = EpisodeReturns(len(state_dict["episodes"]), device=self.device, dtype=self.dtype)
            self._episodes.running = state_dict["episodes"].to(self.device, copy=True)

    def make_optimizer(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """Returns AdamW."""
        config = self.config
        return torch.optim.AdamW(parameters, lr=lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)

    def _decay_learning_rates(self, progress: float) -> None:
        for optimizer, lr in self.schedules:
            for group in optimizer.param_groups:
                group["lr"] = lr + (self.config.lr_min - lr) * min(max(progress, 0.0), 1.0)

    def _describe(self, window: Window) -> dict[str, Tensor]:
        if self._episodes is None or len(self._episodes.running) != window.reward.shape[1]:
            self._episodes = EpisodeReturns(window.reward.shape[1], device=self.device, dtype=self.dtype)
        finished = self._episodes.update(window)
        saturated = window.latent.abs() > math.atanh(0.95)
        metrics = {
            "reward_mean": window.reward.detach().mean(),
            "action_saturation": saturated.to(self.dtype).mean(),
            "latent_std": window.latent.std(),
        }
        return metrics | ({"episode_return": finished.mean()} if len(finished) else {})
