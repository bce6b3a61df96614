"""BPTT: climb the discounted return of part of an episode by backpropagation through time, without a critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rfo.algo.base import Stopwatch
from rfo.algo.learner import Figures, Learner, LearnerConfig
from rfo.data.horizon import Window
from rfo.data.returns import discount_weights, surrogate_return
from rfo.policy.gaussian import GaussianPolicy, make_free_gaussian
from rfo.policy.normalize import Normalization

__all__ = ["BPTT", "BPTTConfig"]


@dataclass(frozen=True)
class BPTTConfig(LearnerConfig):
    """Every figure of BPTT; tags as in `LearnerConfig`.

    Attributes:
        horizon: Control steps of a window: nothing after it counts, so it is longer than that of the others [I].
        log_std: Log standard deviation at the start, one per action entry and the same in every state [C].
    """

    horizon: int = 32
    log_std: float = -1.0


class BPTT(Learner[BPTTConfig]):
    """A Gaussian policy of state-independent spread and nothing else; the arguments are those of `Learner`.

    Raises:
        UsageError: The task has no gradients, or an observation no encoder reads.
    """

    needs_gradients = True

    policy: GaussianPolicy

    def build_networks(self) -> None:
        """Builds the policy."""
        config = self.config
        self.policy = make_free_gaussian(self.make_encoder(), self.spec.action_dim, config.actor_hidden, config.log_std)

    def improve(self, window: Window, normalization: Normalization, progress: float, watch: Stopwatch) -> Figures:
        """Takes one step of the actor."""
        loss = self.actor_loss(window)
        norm = self.climb(loss)
        watch.lap("backward")
        return {"gradient_norm": norm, "actor_loss": loss}

    def actor_loss(self, window: Window) -> Tensor:
        """Returns minus the mean discounted return of the window, which ends with nothing."""
        weights = discount_weights(window.done, gamma=self.config.gamma, dtype=self.dtype)
        nowhere = torch.zeros(0, dtype=torch.int64, device=self.device)
        nothing = window.reward.new_zeros(0)
        return -surrogate_return(window.reward, weights, nowhere, nothing, gamma=self.config.gamma)
