"""SAPO: soft analytic policy optimization, maximum entropy on top of SHAC (arXiv 2412.12089)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rfo.algo.base import Stopwatch, require
from rfo.algo.learner import Figures
from rfo.algo.short_horizon import ShortHorizonConfig, ShortHorizonLearner
from rfo.algo.value_fit import clip_gradient
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation
from rfo.data.horizon import Window
from rfo.policy.gaussian import GaussianPolicy, PredictedSpread
from rfo.policy.normalize import Normalization

__all__ = ["SAPO", "SAPOConfig"]


@dataclass(frozen=True)
class SAPOConfig(ShortHorizonConfig):
    """Every figure of SAPO; tags as in `LearnerConfig`.

    Attributes:
        log_std: Log standard deviation at the start, in every state [E].
        log_std_min: Smallest log standard deviation [C].
        log_std_max: Largest log standard deviation [C].
        alpha: Weight of the entropy at the start [E]; the paper starts at 1 [P].
        alpha_lr: Learning rate of log alpha, constant [C].
        target_entropy: Entropy per action entry that alpha is tuned to, of the squashed action [P].
    """

    log_std: float = -1.0
    log_std_min: float = -5.0
    log_std_max: float = 2.0
    alpha: float = 0.3
    alpha_lr: float = 5e-3
    target_entropy: float = -0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, ("alpha", "alpha_lr"), lambda value: value > 0, "must be positive")
        require(self, ("target_entropy",), lambda value: value < 0, "must be negative: it also scales the entropy")
        inside = self.log_std_min <= self.log_std <= self.log_std_max
        require(self, ("log_std",), lambda _: inside, "must lie between log_std_min and log_std_max")


class SAPO(ShortHorizonLearner[SAPOConfig]):
    """A squashed Gaussian of state-dependent spread, with normalised entropy in the return and in the targets.

    H_n = (H - H_target) / (-2 H_target), which is 0 at the target and 1 at its negative; alpha H_n is added to every
    reward that the actor climbs and the critics value. The arguments are those of `ShortHorizonLearner`.
    """

    policy: GaussianPolicy

    def set_up(self) -> None:
        """Makes alpha and its optimizer."""
        super().set_up()
        config = self.config
        start = torch.tensor(math.log(config.alpha), dtype=self.dtype, device=self.device)
        self.log_alpha = torch.nn.Parameter(start)
        self.alpha_optimizer = torch.optim.AdamW(
            [self.log_alpha], lr=config.alpha_lr, betas=config.betas, weight_decay=0.0
        )
        self.target_entropy = config.target_entropy * self.spec.action_dim
        self._entropy: Tensor | None = None

    def build_networks(self) -> None:
        """Builds the policy, then the critics."""
        config, size = self.config, self.spec.action_dim
        spread = PredictedSpread(
            config.actor_hidden[-1], size, start=config.log_std, low=config.log_std_min, high=config.log_std_max
        )
        encoder = self.make_encoder()
        self.policy = GaussianPolicy(encoder, size, config.actor_hidden, spread)
        self.critic = self.make_critic()

    def collect(self, env: VectorEnv, normalization: Normalization) -> Window:
        """Runs the policy for one window with the graph kept, estimating its entropy at every step."""
        shape = (self.config.horizon, env.n)
        noise, fresh = self.draw_noise(shape, self.rollout_noise), self.draw_noise(shape, self.loss_noise)
        prepare, entropies = self.make_view(normalization), []

        def sampler(observation: Observation, t: int, ended: Tensor | None) -> tuple[Tensor, Tensor]:
            latent, action, entropy = self.policy.sample_with_entropy(prepare(observation), noise[t], fresh[t])
            entropies.append(entropy)
            return latent, action

        window = self.run_window(env, sampler)
        self._entropy = torch.stack(entropies)
        return window

    def shape_rewards(self, window: Window) -> Window:
        """Adds alpha H_n to every reward."""
        assert self._entropy is not None
        normalized = (self._entropy - self.target_entropy) / (-2.0 * self.target_entropy)
        return replace(window, reward=window.reward + self.log_alpha.detach().exp() * normalized)

    def improve(self, window: Window, normalization: Normalization, progress: float, watch: Stopwatch) -> Figures:
        """Takes one step of the actor, fits the critics, and tunes alpha."""
        assert self._entropy is not None
        figures = super().improve(window, normalization, progress, watch)
        entropy, self._entropy = self._entropy.detach().mean(), None
        self._tune_alpha(entropy)
        return figures | {"entropy": entropy, "alpha": self.log_alpha.detach().exp()}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit; tensors are the live ones, as in torch's modules."""
        alpha = {"log_alpha": self.log_alpha.detach(), "alpha_optimizer": self.alpha_optimizer.state_dict()}
        return super().state_dict() | alpha

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        super().load_state_dict(state_dict)
        self.log_alpha.data.copy_(state_dict["log_alpha"])
        self.alpha_optimizer.load_state_dict(state_dict["alpha_optimizer"])

    def _tune_alpha(self, entropy: Tensor) -> None:
        self.alpha_optimizer.zero_grad(set_to_none=True)
        loss = self.log_alpha.exp() * -self.target_entropy * (entropy - self.target_entropy)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradient([self.log_alpha], self.config.grad_clip, what="alpha")
        self.alpha_optimizer.step()
