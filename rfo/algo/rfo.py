"""RFO: Reparameterization Flow Policy Optimization (arXiv 2602.03501).

One update collects a window of H control steps, climbs its discounted return by one backward pass through the flow's
steps, the simulator's steps and the value at the end, adds two flow-matching regularisers, and fits twin critics to
TD(lambda) targets.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfo.algo.value_fit import ValueFit, clip_gradient
from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, TaskSpec
from rfo.data.horizon import EpisodeReturns, Window, collect_window, flatten_batch, select_rows
from rfo.data.returns import discount_weights, surrogate_return
from rfo.flow.integrate import SOLVERS, SolverName
from rfo.flow.matching import Reduction, conditional_flow_matching
from rfo.flow.velocity import VelocityMLP
from rfo.policy.critics import TwinCritic, frozen
from rfo.policy.encoders import make_encoder
from rfo.policy.flow import FlowPolicy
from rfo.policy.normalize import Normalization, RunningNormalizer

__all__ = ["RFO", "RFOConfig"]


@dataclass(frozen=True)
class RFOConfig:
    """Every figure of RFO, with where it comes from.

    [S] a summary of the paper by others, [T] a re-implementation by others that cites its equations, [C] the released
    code of SHAC and SAPO, [E] what learned in this project's own experiments on a small soft quadruped, [I] a choice
    made here.

    Attributes:
        gamma: Discount per control step [C].
        lam: Lambda of the critic's TD(lambda) targets [C].
        horizon: Control steps H of a window [E]; the paper is reported to use 32 [T].
        flow_steps: Steps K of the flow [T].
        solver: One-step method of the flow [S].
        c_past: Weight of the pull towards the latents of recent windows [T].
        c_uni: Weight of the pull towards actions drawn uniformly [T].
        regularizer_anneal: Both weights are multiplied by max(0, 1 - anneal * progress) [E]; 0 keeps them constant [T].
        past_windows: Windows in the pull towards the past, the present one included [T].
        cfm_reduction: Squared flow-matching error as the mean over action entries [E] or their sum [T].
        uniform_bound: Largest magnitude of a uniform action before its atanh [I].
        actor_hidden: Widths of the velocity network [E].
        critic_hidden: Widths of each value network [E].
        actor_lr: Learning rate of the actor at the start [E].
        critic_lr: Learning rate of the critics at the start [E].
        lr_min: Learning rate of both at the end of the linear decay [C].
        betas: Moment decays of AdamW [C].
        weight_decay: Weight decay of AdamW [E].
        grad_clip: Largest gradient norm, of the actor and of the critics [C].
        critic_epochs: Passes over the window [E]; SHAC and SAPO use 16 [C].
        critic_minibatches: Minibatches of a pass [C].
        normalizer_floor: Smallest standard deviation by which an observation is divided [E].
        normalizer_clip: Largest magnitude of a normalised observation [E].
    """

    gamma: float = 0.99
    lam: float = 0.95
    horizon: int = 16
    flow_steps: int = 4
    solver: SolverName = "euler"
    c_past: float = 0.2
    c_uni: float = 0.2
    regularizer_anneal: float = 1.25
    past_windows: int = 2
    cfm_reduction: Reduction = "mean"
    uniform_bound: float = 0.999
    actor_hidden: tuple[int, ...] = (128, 128)
    critic_hidden: tuple[int, ...] = (128, 128)
    actor_lr: float = 4e-3
    critic_lr: float = 2e-3
    lr_min: float = 1e-5
    betas: tuple[float, float] = (0.7, 0.95)
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    critic_epochs: int = 8
    critic_minibatches: int = 4
    normalizer_floor: float = 0.3
    normalizer_clip: float = 10.0

    def __post_init__(self) -> None:
        whole = ("horizon", "flow_steps", "past_windows", "critic_epochs", "critic_minibatches")
        positive = ("actor_lr", "critic_lr", "lr_min", "grad_clip", "normalizer_floor", "normalizer_clip")
        weights = ("c_past", "c_uni", "regularizer_anneal", "weight_decay")
        self._require(whole, lambda value: value >= 1, "must be at least 1")
        self._require(positive, lambda value: value > 0, "must be positive")
        self._require(weights, lambda value: value >= 0, "must not be negative")
        self._require(("gamma", "lam"), lambda value: 0 <= value <= 1, "must lie in [0, 1]")
        self._require(("uniform_bound",), lambda value: 0 < value < 1, "must lie in (0, 1), for atanh(1) is infinite")
        self._require(("solver",), lambda value: value in SOLVERS, f"must be one of {', '.join(SOLVERS)}")
        self._require(("cfm_reduction",), lambda value: value in ("mean", "sum"), "must be mean or sum")

    def _require(self, names: tuple[str, ...], holds: Callable[[Any], bool], rule: str) -> None:
        for name in names:
            if not holds(getattr(self, name)):
                raise UsageError(f"algo.{name} {rule}, got {getattr(self, name)}")


class RFO:
    """The learner: a flow policy, twin critics, and one `update` per window.

    Args:
        config: Every figure.
        spec: The task's spec; it must be differentiable.
        device: Device of the networks, which must be the task's.
        dtype: Scalar type of the networks, which must be the task's.
        seed: Seed of the networks and of every draw.

    Raises:
        UsageError: The task has no gradients, or an observation no encoder reads.
    """

    def __init__(
        self,
        config: RFOConfig,
        spec: TaskSpec,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        if not spec.differentiable:
            raise UsageError(f"{spec.id} is not differentiable and RFO needs gradients of the dynamics")
        self.config, self.spec = config, spec
        self.device, self.dtype = torch.device(device), dtype
        self.updates = 0
        with torch.random.fork_rng(devices=[]):
            # On the CPU and in float32 first, so that one seed gives one network on every device.
            torch.manual_seed(seed)
            encoder = make_encoder(spec.observation_shapes)
            field = VelocityMLP(encoder.feature_dim, spec.action_dim, config.actor_hidden)
            self.policy = FlowPolicy(encoder, field, steps=config.flow_steps, solver=SOLVERS[config.solver])
            self.critic = TwinCritic(make_encoder(spec.observation_shapes), config.critic_hidden)
            # One stream per use: what one part draws never shifts another.
            seeds = torch.randint(2**62, (3,)).tolist()
        self.policy.to(self.device, dtype)
        self.critic.to(self.device, dtype)
        self.normalizer = RunningNormalizer(
            spec.observation_shapes,
            dtype=dtype,
            device=self.device,
            std_floor=config.normalizer_floor,
            clip=config.normalizer_clip,
        )
        self.optimizer = self._optimizer(self.policy, config.actor_lr)
        self._noise, self._targets, shuffle = (
            torch.Generator(device=self.device).manual_seed(value) for value in seeds
        )
        self.value_fit = ValueFit(
            self.critic,
            self._optimizer(self.critic, config.critic_lr),
            gamma=config.gamma,
            lam=config.lam,
            epochs=config.critic_epochs,
            minibatches=config.critic_minibatches,
            grad_clip=config.grad_clip,
            generator=shuffle,
        )
        self._past: deque[tuple[Observation, Tensor]] = deque(maxlen=config.past_windows)
        self._episodes: EpisodeReturns | None = None

    def update(self, env: VectorEnv, progress: float) -> dict[str, float]:
        """Collects one window, then improves the actor by one step and the critics by several.

        Args:
            env: The environments; continues where they stand.
            progress: Share of the training done, in [0, 1]; drives the learning rates and the regularisers' weights.

        Returns:
            Metrics. `past_loss` and `uniform_loss` are absent where they have no weight, `episode_return` where no
            episode ended.

        Raises:
            FloatingPointError: A gradient is not finite; the optimizer has not been given it.
        """
        self._require_match(env)
        self._decay_learning_rates(progress)
        started = self._clock()
        normalization = self.normalizer.snapshot()
        window = self.collect(env, normalization)
        losses = self.actor_losses(window, normalization, progress)
        rolled_out = self._clock()
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        gradient_norm = clip_gradient(list(self.policy.parameters()), self.config.grad_clip, what="actor")
        self.optimizer.step()
        went_back = self._clock()
        metrics = self.value_fit.fit(window, normalization)
        self.normalizer.update(window.observation)
        self.updates += 1
        finished = self._clock()
        metrics |= {f"{name}_loss": loss.detach() for name, loss in losses.items() if name != "total"}
        metrics |= self._describe(window)
        values = torch.stack([value.to(self.dtype) for value in metrics.values()]).tolist()
        return dict(zip(metrics, values, strict=True)) | {
            "gradient_norm": gradient_norm,
            "seconds_rollout": rolled_out - started,
            "seconds_backward": went_back - rolled_out,
            "seconds_critic": finished - went_back,
        }

    @torch.no_grad()
    def act(
        self, observation: Observation, *, deterministic: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns actions, shape [N, A].

        Args:
            observation: As the task gives it.
            deterministic: Start the flow from zero instead of noise.
            generator: Source of the noise; by default the one of the rollouts, which then moves on.
        """
        prepared = self.normalizer.snapshot()(observation)
        if deterministic:
            return self.policy.deterministic(prepared)[1]
        n = next(iter(observation.values())).shape[0]
        return self.policy.sample(prepared, self._draw_noise((n,), generator or self._noise))[1]

    def collect(self, env: VectorEnv, normalization: Normalization) -> Window:
        """Runs the policy for one window with the graph kept, and remembers it as past data."""
        noise = self._draw_noise((self.config.horizon, env.n), self._noise)
        window = collect_window(
            env,
            lambda observation, t: self.policy.sample(normalization(observation), noise[t]),
            self.config.horizon,
        )
        self._past.append((flatten_batch(window.observation), window.latent.flatten(0, 1)))
        return window

    def actor_losses(self, window: Window, normalization: Normalization, progress: float) -> dict[str, Tensor]:
        """Returns the actor's loss and its parts.

        Args:
            window: What `collect` returned.
            normalization: The statistics it was collected with.
            progress: Share of the training done.

        Returns:
            `actor`, minus the discounted return; `past` and `uniform`, unweighted, where they have weight; `total`.
        """
        config = self.config
        rows = window.bootstrap_rows()
        closing = select_rows(flatten_batch(window.final_observation), rows)
        with frozen(self.critic):
            value = self.critic.mean(normalization(closing))
        weights = discount_weights(window.done, gamma=config.gamma, dtype=self.dtype)
        total = -surrogate_return(window.reward, weights, rows, value, gamma=config.gamma)
        losses = {"actor": total}
        scale = max(0.0, 1.0 - config.regularizer_anneal * progress)
        if scale * config.c_past > 0:
            losses["past"] = self._match_past(normalization)
            total = total + scale * config.c_past * losses["past"]
        if scale * config.c_uni > 0:
            losses["uniform"] = self._match_uniform(normalization)
            total = total + scale * config.c_uni * losses["uniform"]
        return losses | {"total": total}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit; tensors are the live ones, as in torch's modules."""
        return {
            "updates": self.updates,
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "normalizer": self.normalizer.state_dict(),
            "value_fit": self.value_fit.state_dict(),
            "generators": [generator.get_state() for generator in (self._noise, self._targets)],
            "past": [(dict(observation), latent) for observation, latent in self._past],
            "episodes": None if self._episodes is None else self._episodes.running.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        self.updates = state_dict["updates"]
        for name in ("policy", "optimizer", "normalizer", "value_fit"):
            getattr(self, name).load_state_dict(state_dict[name])
        for generator, state in zip((self._noise, self._targets), state_dict["generators"], strict=True):
            generator.set_state(state.cpu())
        self._past.clear()
        for observation, latent in state_dict["past"]:
            moved = {key: value.to(self.device) for key, value in observation.items()}
            self._past.append((moved, latent.to(self.device)))
        self._episodes = None
        if state_dict["episodes"] is not None:
            self._episodes = EpisodeReturns(len(state_dict["episodes"]), device=self.device, dtype=self.dtype)
            self._episodes.running = state_dict["episodes"].to(self.device, copy=True)

    def _match_past(self, normalization: Normalization) -> Tensor:
        # Stored raw and normalised anew: every window is read with the statistics of this one.
        keys = self._past[-1][0]
        observation = {key: torch.cat([stored[key] for stored, _ in self._past]) for key in keys}
        latent = torch.cat([latent for _, latent in self._past])
        return self._match(observation, latent, normalization)

    def _match_uniform(self, normalization: Normalization) -> Tensor:
        observation, latent = self._past[-1]
        bound = self.config.uniform_bound
        action = torch.rand(latent.shape, generator=self._targets, dtype=self.dtype, device=self.device) * 2.0 - 1.0
        return self._match(observation, torch.atanh(action.clamp(-bound, bound)), normalization)

    def _match(self, observation: Observation, target: Tensor, normalization: Normalization) -> Tensor:
        velocity = self.policy.bind(normalization(observation))
        reduction = self.config.cfm_reduction
        return conditional_flow_matching(velocity, target, generator=self._targets, reduction=reduction)

    def _optimizer(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(
            module.parameters(), lr=lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def _decay_learning_rates(self, progress: float) -> None:
        config = self.config
        for optimizer, lr in ((self.optimizer, config.actor_lr), (self.value_fit.optimizer, config.critic_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr + (config.lr_min - lr) * min(max(progress, 0.0), 1.0)

    def _draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        size = (*shape, self.spec.action_dim)
        return torch.randn(size, generator=generator, dtype=self.dtype, device=self.device)

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

    def _require_match(self, env: VectorEnv) -> None:
        task = env.task
        if task.device != self.device or task.dtype != self.dtype:
            raise UsageError(
                f"{task.spec.id} runs on {task.device} in {task.dtype} and the learner on {self.device} in "
                f"{self.dtype}; build both with the same device and dtype"
            )

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
