"""Fitting twin critics to the TD(lambda) targets of a window."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rfo.core.task import Observation
from rfo.data.horizon import Window, flatten_batch, select_rows
from rfo.data.returns import td_lambda
from rfo.policy.critic_gradient import fill_heads_gradient
from rfo.policy.critics import TwinCritic
from rfo.policy.normalize import Normalization

__all__ = ["ValueFit", "clip_gradient"]


class ValueFit:
    """Several passes of minibatch regression per window.

    Args:
        critic: The networks to fit.
        optimizers: Of the value networks, and of the encoder where it has parameters; each over one vector
            (`join_parameters`).
        gamma: Discount per control step.
        lam: Lambda of the targets.
        epochs: Passes over the window.
        minibatches: Minibatches of a pass.
        grad_clip: Largest gradient norm.
        generator: Source of the order of the minibatches.
        encoder_epochs: Passes in which the critic's encoder learns as well; in the remaining ones its features are
            computed once, and the value networks alone are fitted to them. None for all passes.
        target_mix: Share of the old weights in the averaged copy that is bootstrapped from, after each fit (SHAC's
            target critic); 0 bootstraps from the networks themselves.
        value_memory: Share of the old mean reward, and of the old deviation of the targets, that stays at each window,
            where values are centered and scaled by them. None leaves values as they are.
    """

    def __init__(
        self,
        critic: TwinCritic,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        gamma: float,
        lam: float,
        epochs: int,
        minibatches: int,
        grad_clip: float,
        generator: torch.Generator,
        encoder_epochs: int | None = None,
        target_mix: float = 0.0,
        value_memory: float | None = None,
    ) -> None:
        self.critic, self.optimizers, self.generator = critic, optimizers, generator
        self.encoder_epochs = epochs if encoder_epochs is None else encoder_epochs
        self.target_mix, self.value_memory = target_mix, value_memory
        self.bootstrap = critic if target_mix == 0.0 else copy.deepcopy(critic).requires_grad_(False)
        self.bootstrap.center, self.bootstrap.scale = critic.center, critic.scale  # the same memory
        self.gamma, self.lam = gamma, lam
        self.epochs, self.minibatches, self.grad_clip = epochs, minibatches, grad_clip
        self._fits = 0

    def fit(self, window: Window, normalization: Normalization, starts: Tensor | None = None) -> dict[str, Tensor]:
        """Fits both networks to one window.

        Args:
            window: What was collected; its graph is not touched.
            normalization: The statistics it was collected with.
            starts: Fit only where a chunk begins, bool [H, N]; None for every step.

        Returns:
            `critic_loss` (of the outputs, mean over the minibatches, sum over both networks), and of the state before
            the fit, on its first minibatch, `value_mean` and `explained_variance`.

        Raises:
            FloatingPointError: The loss or its gradient is not finite.
        """
        observation = flatten_batch(normalization(window.observation))
        self._center(window)
        target = self.targets(window, normalization, starts).flatten()
        if starts is not None:
            rows = starts.flatten().nonzero().squeeze(1)
            observation, target = select_rows(observation, rows), target[rows]
        self._scale(target)
        target = (target - self.critic.center) / self.critic.scale
        loss_sum = torch.zeros_like(target[0])
        figures: dict[str, Tensor] = {}
        encoder: nn.Module = self.critic.encoder
        for epoch in range(self.epochs):
            if epoch == self.encoder_epochs:
                with torch.no_grad():
                    observation = {"features": encoder(observation)}
                encoder = _Features()
            order = torch.randperm(len(target), generator=self.generator, device=target.device)
            loss, value, aim = self._run_epoch(encoder, select_rows(observation, order), target[order])
            loss_sum += loss
            if not figures:  # of the first minibatch: nothing has been learnt from this window yet
                left, whole = (aim - value).var(correction=0), aim.var(correction=0)
                mean = self.critic.center + self.critic.scale * value.mean()
                figures |= {"value_mean": mean, "explained_variance": 1.0 - left / whole.clamp(min=1e-12)}
        self._average()
        self._fits += 1
        return {"critic_loss": loss_sum / self.epochs, **figures}

    def start(self, window: Window) -> None:
        """Shifts all values by what the window's mean reward is worth if it lasts for ever, mean(r) / (1 - gamma).

        From values near zero targets climb there over many windows, and while they do, the first observations of a
        window have higher targets than the last: what the critics then learn first is the way back.
        """
        amount = window.reward.detach().mean() / (1.0 - self.gamma)
        for critic in {self.critic, self.bootstrap}:
            critic.shift(amount)

    @torch.no_grad()
    def targets(self, window: Window, normalization: Normalization, starts: Tensor | None = None) -> Tensor:
        """Returns TD(lambda) targets from the smaller of both values, shape [H, N]."""
        final = {key: value.detach() for key, value in window.final_observation.items()}
        next_value = self.bootstrap.min(flatten_batch(normalization(final))).view(window.reward.shape)
        ends = (window.terminated, window.truncated)
        return td_lambda(window.reward.detach(), next_value, *ends, gamma=self.gamma, lam=self.lam, starts=starts)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit, the networks included."""
        return {
            "critic": self.critic.state_dict(),
            "bootstrap": self.bootstrap.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "fits": self._fits,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        self.critic.load_state_dict(state_dict["critic"])
        self.bootstrap.load_state_dict(state_dict["bootstrap"])
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.generator.set_state(state_dict["generator"].cpu())
        self._fits = state_dict["fits"]

    @torch.no_grad()
    def _center(self, window: Window) -> None:
        """Centers values on that of always earning the mean reward (reward centering, arXiv 2405.09999).

        Bootstrapped values take many windows to reach the level r / (1 - gamma) of their rewards. Until then targets
        rise or fall along every window, and whatever moves meanwhile is credited with it: critics' gradients were seen
        ten to seventy times as large as the reward's, and pointing away from what it pays for.
        """
        if self.value_memory is None:
            return
        keep = 1.0 - window.terminated.to(window.reward.dtype).mean()
        level = window.reward.mean() / (1.0 - self.gamma * keep).clamp(min=1e-6)
        self._mix(self.critic.center, level)

    @torch.no_grad()
    def _scale(self, target: Tensor) -> None:
        """Lets the networks' outputs have the deviation of the targets as their unit."""
        if self.value_memory is not None:
            self._mix(self.critic.scale, target.std(correction=0).clamp(min=1e-6))

    def _mix(self, kept: Tensor, new: Tensor) -> None:
        share = self.value_memory if self._fits and self.value_memory else 0.0
        kept.copy_(torch.lerp(new, kept, share))

    @torch.no_grad()
    def _average(self) -> None:
        if self.bootstrap is not self.critic:
            for old, new in zip(self.bootstrap.parameters(), self.critic.parameters(), strict=True):
                old.lerp_(new, 1.0 - self.target_mix)

    def _run_epoch(self, encoder: nn.Module, observation: Observation, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the mean loss, and mean values and targets of the first minibatch before it was learnt from."""
        chunks = {key: value.chunk(self.minibatches) for key, value in observation.items()}
        loss_sum, first = torch.zeros_like(target[0]), target
        target_chunks = target.chunk(self.minibatches)  # fewer than asked for where rows are scarce
        learning = self.optimizers[:1] if isinstance(encoder, _Features) else self.optimizers
        for i, part in enumerate(target_chunks):
            features = encoder({key: parts[i] for key, parts in chunks.items()})
            loss, values, bar = fill_heads_gradient(self.critic, features, part)
            if bar is not None:
                for optimizer in learning[1:]:  # autograd adds to the encoder's gradient
                    optimizer.zero_grad(set_to_none=False)
                features.backward(bar)
            first = values.mean(dim=0) if i == 0 else first
            vectors = [optimizer.param_groups[0]["params"][0] for optimizer in learning]
            clip_gradient(vectors, self.grad_clip, what="critic")
            for optimizer in learning:
                optimizer.step()
            loss_sum += loss
        return loss_sum / len(target_chunks), first, target_chunks[0]


class _Features(nn.Module):
    """Stands in for an encoder whose features have been computed."""

    def forward(self, observation: Observation) -> Tensor:
        return observation["features"]


def clip_gradient(parameters: Sequence[nn.Parameter], limit: float, *, what: str) -> float:
    """Scales a gradient down to norm `limit` and returns its norm before that.

    Raises:
        FloatingPointError: The norm is not finite; nothing is hidden by scaling or zeroing.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    norm = float(total)
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the {what}'s gradient norm is {norm}: try a shorter horizon, a smaller learning rate or more substeps"
        )
    if norm > limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, total)
    return norm
