"""Short-horizon actor-critic: climb a window's return through the simulator, closed by a value (arXiv 2204.07137).

SHAC, SAPO, AHAC and RFO differ in their policy and in what they add; the window, the surrogate return, its one backward
pass and the value's fit are these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from rfo.algo.base import Stopwatch, require
from rfo.algo.learner import Figures
from rfo.algo.valued import ValuedConfig, ValuedLearner
from rfo.core.errors import UsageError
from rfo.core.task import Observation
from rfo.data.horizon import Sampler, Window, flatten_batch, select_rows
from rfo.data.returns import discount_weights, surrogate_return
from rfo.policy.critics import frozen
from rfo.policy.normalize import Normalization

__all__ = ["ShortHorizonConfig", "ShortHorizonLearner"]


@dataclass(frozen=True)
class ShortHorizonConfig(ValuedConfig):
    """What the path through the simulator adds; tags as in `LearnerConfig`.

    Attributes:
        observation_gradient: "attached", or "detached" as in D.Va (arXiv 2505.10646): the policy's observation is cut
            from the graph, and the gradient flows through the dynamics alone [P].
        value_gradient: Share of the value's gradient that the actor climbs at the end of a window [E]; 1 as published
            [P]. At 0 the actor climbs the window's rewards alone.
        value_start: The critics begin at "zero" [C], or at what the first window's mean "reward" is worth if it lasts
            for ever [I], for tasks whose reward is a large constant and a small rest.
    """

    observation_gradient: Literal["attached", "detached"] = "attached"
    value_gradient: float = 1.0
    value_start: Literal["zero", "reward"] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("value_gradient",), lambda value: 0 <= value <= 1, "must lie in [0, 1]")
        require(self, ("value_start",), lambda value: value in ("zero", "reward"), "must be zero or reward")
        if self.value_start == "reward" and self.gamma == 1.0:
            raise UsageError("algo.value_start is reward, which needs a gamma below 1: a constant reward has no value")


ShortHorizonT = TypeVar("ShortHorizonT", bound=ShortHorizonConfig)


class ShortHorizonLearner(ValuedLearner[ShortHorizonT]):
    """One pathwise policy step and one value fit per window; the arguments are those of `Learner`.

    Raises:
        UsageError: The task has no gradients, or an observation no encoder reads.
    """

    needs_gradients = True

    def improve(self, window: Window, normalization: Normalization, progress: float, watch: Stopwatch) -> Figures:
        """Takes one step of the actor and fits the critics."""
        window = self.shape_rewards(window)
        if self.updates == 0 and self.config.value_start == "reward":
            self.value_fit.start(window)
        losses = self.actor_losses(window, normalization, progress)
        norm = self.climb(losses["total"])
        watch.lap("backward")
        figures: Figures = {"gradient_norm": norm}
        figures |= {f"{name}_loss": loss for name, loss in losses.items() if name != "total"}
        figures |= self.value_fit.fit(window, normalization, self.value_starts(window))
        watch.lap("critic")
        return figures

    def shape_rewards(self, window: Window) -> Window:
        """Returns the window whose rewards are climbed and valued: as it is, unless overridden."""
        return window

    def value_starts(self, window: Window) -> Tensor | None:
        """Returns where the critics are fitted, bool [H, N]; None for every step."""
        return None

    def actor_losses(self, window: Window, normalization: Normalization, progress: float) -> dict[str, Tensor]:
        """Returns `total`, the loss to descend, and its parts; `actor` is minus the discounted return.

        Args:
            window: What was collected.
            normalization: The statistics it was collected with.
            progress: Share of the training done.
        """
        loss = self.pathwise_loss(window, normalization)
        return {"actor": loss, "total": loss}

    def pathwise_loss(self, window: Window, normalization: Normalization) -> Tensor:
        """Returns minus the surrogate return, closed by the mean of both values."""
        config = self.config
        rows = window.bootstrap_rows()
        closing = select_rows(flatten_batch(window.final_observation), rows)
        critic = self.value_fit.bootstrap
        with frozen(critic):
            value = critic.mean(normalization(closing))
        value = torch.lerp(value.detach(), value, config.value_gradient)
        weights = discount_weights(window.done, gamma=config.gamma, dtype=self.dtype)
        return -surrogate_return(window.reward, weights, rows, value, gamma=config.gamma)

    def make_sampler(self, normalization: Normalization, noise: Tensor) -> Sampler:
        """Returns what draws the actions of a window from noise [H, N, A]."""
        prepare = self.make_view(normalization)
        return lambda observation, t, ended: self.policy.sample(prepare(observation), noise[t])

    def make_view(self, normalization: Normalization) -> Normalization | DetachedView:
        """Returns how the policy sees an observation during a window."""
        return normalization if self.config.observation_gradient == "attached" else DetachedView(normalization)


@dataclass(frozen=True)
class DetachedView:
    """Normalises an observation and cuts it from the graph."""

    normalization: Normalization

    def __call__(self, observation: Observation) -> Observation:
        """Returns the normalised observation without graph."""
        return self.normalization({key: value.detach() for key, value in observation.items()})
