"""What off-policy learners share: acting into a replay without gradients, and updates from it in between."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from rfo.algo.base import BaseLearner, Stopwatch, require
from rfo.core.errors import UsageError
from rfo.core.shell import Transition, VectorEnv
from rfo.core.task import Observation
from rfo.data.chunks import ChunkController, merge_steps
from rfo.data.offline import make_replay, read
from rfo.data.replay import LATENT_BOUND, Batch, Replay, join
from rfo.policy.encoders import PointsName
from rfo.policy.normalize import Normalization

__all__ = ["OffPolicy", "OffPolicyConfig", "backward_and_step", "blend"]


@dataclass(frozen=True)
class OffPolicyConfig:
    """What every off-policy learner needs to know.

    Attributes:
        gamma: Discount per control step.
        action_repeat: Control steps for which an action is held. What is valued and stored is a decision: its reward
            is the mean of theirs, discounted, and what follows is discounted by gamma^action_repeat. Every count of
            steps in a config stays one of control steps, but for `n_step`, in decisions. Not with `chunk` or `dataset`.
        horizon: Control steps of one `update`: how often figures are logged, nothing else. Acting and learning
            alternate step by step.
        batch_size: Transitions of a gradient update.
        updates_per_step: Gradient updates per environment step.
        learning_starts: Environment steps before the first gradient update, with uniformly random actions.
        replay_capacity: Transitions kept.
        n_step: Steps whose rewards are summed before a value is added.
        chunk: Actions h that the policy plans at once and executes open loop; the critics value whole chunks, with
            the rewards of h steps and a discount of gamma^h. Not with `n_step`.
        dataset: File of a data set (see `rfo.data.offline` for the formats) to learn from beside what is collected;
            none if empty.
        offline_share: Share of a batch drawn from the data set; None for its share of all transitions there are.
        pretrain_updates: Gradient updates on the data set before the first environment step: the policy imitates it
            and the critics value the imitation. The policy then acts from the first step.
        points: Point sets are "pooled" or read "flat"; see `rfo.algo.learner.LearnerConfig`.
        normalizer: Running statistics of the low-dimensional observations, or none.
        normalizer_floor: Smallest standard deviation by which an observation is divided.
        normalizer_clip: Largest magnitude of a normalised observation.
        precision: Scalar type of the matrix products; bfloat16 by autocast, with float32 parameters.
    """

    gamma: float = 0.99
    action_repeat: int = 1
    horizon: int = 100
    batch_size: int = 256
    updates_per_step: float = 1.0
    learning_starts: int = 5000
    replay_capacity: int = 1_000_000
    n_step: int = 1
    chunk: int = 1
    dataset: str = ""
    offline_share: float | None = 0.5
    pretrain_updates: int = 0
    points: PointsName = "pooled"
    normalizer: Literal["running", "none"] = "running"
    normalizer_floor: float = 0.01
    normalizer_clip: float = 10.0
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        counts = ("horizon", "batch_size", "replay_capacity", "n_step", "chunk", "action_repeat")
        require(self, counts, lambda v: v >= 1, "must be at least 1")
        rates = ("updates_per_step", "learning_starts", "pretrain_updates")
        require(self, rates, lambda v: v >= 0, "must not be negative")
        require(self, ("offline_share",), lambda v: v is None or 0 <= v <= 1, "must lie in [0, 1]")
        require(self, ("n_step",), lambda v: v == 1 or self.chunk == 1, "must be 1 where chunk is not")
        alone = self.chunk == 1 and not self.dataset
        require(self, ("action_repeat",), lambda v: v == 1 or alone, "must be 1 with chunks or a data set")
        require(self, ("horizon",), lambda v: v % self.action_repeat == 0, "must be a multiple of action_repeat")
        require(self, ("pretrain_updates",), lambda v: v == 0 or self.dataset, "needs a data set, algo.dataset")
        require(self, ("normalizer_floor", "normalizer_clip"), lambda v: v > 0, "must be positive")
        require(self, ("gamma",), lambda v: 0 <= v <= 1, "must lie in [0, 1]")


class OffPolicy(BaseLearner[OffPolicyConfig]):
    """Collects and learns in turn; what is learned is the subclass's.

    A subclass builds its networks in `_build`, whose random numbers come from the seed, and registers them by
    `_register` and its optimizers by `_optimize`. The arguments are those of `BaseLearner`.
    """

    def build_networks(self) -> None:
        """Makes what is registered while networks and optimizers are built, then these."""
        self._modules: dict[str, nn.Module] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._build()

    def set_up(self) -> None:
        """Names the generators and begins without a replay."""
        self._acting, self._drawing, self._learning = self.generators
        if self.config.normalizer == "none":
            self.normalizer.clip = float("inf")
        self._normalization = self.normalizer.snapshot()
        self.env_steps, self._owed = 0, 0.0
        self.replay: Replay | None = None
        self._returns: Tensor | None = None
        self._data: Replay | None = None
        self._pretrained, self._data_seen = 0, False
        # Where an episode has just begun, for plans are not followed from one into the next.
        self._began: Tensor | None = None
        self._plans = self._executing(self._plan)

    @property
    def plan_dim(self) -> int:
        """Entries of what the policy plans at once: those of `chunk` actions."""
        return self.config.chunk * self.spec.action_dim

    @property
    def decision_gamma(self) -> float:
        """Discount per decision, of `action_repeat` control steps."""
        return float(self.config.gamma**self.config.action_repeat)

    @abstractmethod
    def _build(self) -> None:
        """Makes the networks and their optimizers."""

    @abstractmethod
    def learn(self, batch: Batch, normalization: Normalization) -> dict[str, Tensor]:
        """Makes one gradient update and returns figures, scalars without graph."""

    @abstractmethod
    def imitate(self, batch: Batch, normalization: Normalization) -> dict[str, Tensor]:
        """Makes one gradient update of the critics, and of the policy towards the batch's actions."""

    def prepare(self) -> None:
        """Reads the data set, where there is one.

        Raises:
            UsageError: It cannot be read, or is not of this task.
        """
        if not self.config.dataset or self._data is not None:
            return
        found, spec = read(Path(self.config.dataset)), self.spec
        shapes, kind = spec.observation_shapes, {"dtype": self.dtype, "device": self.device}
        self._data = make_replay(found, shapes, spec.action_dim, **kind)  # type: ignore[arg-type]
        if len(self._data) < max(self.config.n_step, self.config.chunk):
            raise UsageError(f"data set {self.config.dataset}: {len(self._data)} transitions are too few")
        if self.config.normalizer == "running" and not self._data_seen:
            self.normalizer.update({key: torch.from_numpy(found.observation[key]).to(self.device) for key in shapes})
            self._normalization = self.normalizer.snapshot()
        self._data_seen = True

    @property
    def pretraining_left(self) -> int:
        """Updates on the data set that are to be made before the first environment step."""
        return self.config.pretrain_updates - self._pretrained

    def pretrain(self, updates: int) -> dict[str, float]:
        """Makes updates on the data set alone and returns figures, means over them."""
        self.prepare()
        assert self._data is not None
        sums: dict[str, Tensor] = {}
        for _ in range(updates):
            figures = self.imitate(self._draw(self._data, self.config.batch_size), self._normalization)
            self._pretrained += 1
            for name, value in figures.items():
                sums[name] = sums[name] + value if name in sums else value
        metrics = {name: float(value) / updates for name, value in sums.items()}
        self._require_finite(metrics)
        return metrics | {"pretrain_updates": float(self._pretrained)}

    @torch.no_grad()
    def act(
        self, observation: Observation, *, deterministic: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns the first actions of new plans, shape [N, A]; see `BaseLearner.act`."""
        latent = self.latent(observation, deterministic=deterministic, generator=generator)
        return torch.tanh(latent[:, : self.spec.action_dim])

    def controller(self, *, deterministic: bool, generator: torch.Generator | None) -> ChunkController:
        """Returns a policy that executes its plans as training does; see `act`."""
        return self._executing(
            lambda observation: self.latent(observation, deterministic=deterministic, generator=generator)
        )

    def update(self, env: VectorEnv, progress: float) -> dict[str, float]:
        """Takes `horizon` control steps with the gradient updates due in between.

        Args:
            env: The environments; continues where they stand.
            progress: Share of the training done; the learning rates are constant, so it is not used.

        Returns:
            Metrics, means over the gradient updates; `episode_return` where an episode ended.

        Raises:
            FloatingPointError: A loss is not finite.
        """
        self.require_match(env)
        self.prepare()
        replay = self._replay_of(env.n)
        sums: dict[str, Tensor] = {}
        learned, rewards, finished = 0, [], []
        with torch.no_grad():
            observation = env.begin_window()
        watch = Stopwatch(self.device)
        for _ in range(self.config.horizon // self.config.action_repeat):
            observation, steps = self._decide(env, replay, observation)
            rewards += [step.reward.mean() for step in steps]
            finished += [self._ended_returns(step) for step in steps]
            watch.lap("acting")
            for _ in range(self._due(env.n, replay)):
                figures = self.learn(self._sample(replay), self._normalization)
                self.updates += 1
                learned += 1
                for name, value in figures.items():
                    sums[name] = sums[name] + value if name in sums else value
            watch.lap("learning")
        counts = self._figure_counts(learned)
        metrics = {name: float(value) / max(1, counts.get(name, learned)) for name, value in sums.items()}
        self._require_finite(metrics)
        metrics |= {"reward_mean": float(torch.stack(rewards).mean()), "gradient_updates": float(self.updates)}
        ended = torch.cat(finished)
        if len(ended):
            metrics["episode_return"] = float(ended.mean())
        return metrics | watch.seconds()

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit, the replay included; tensors are the live ones."""
        return super().state_dict() | {
            "counters": (self.env_steps, self.updates, self._owed),
            "modules": {name: module.state_dict() for name, module in self._modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "replay": None if self.replay is None else self.replay.state_dict(),
            "returns": self._returns,
            "pretrained": (self._pretrained, self._data_seen),
            "began": self._began,
            "plans": self._plans.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        super().load_state_dict(state_dict)
        self.env_steps, self.updates, self._owed = state_dict["counters"]
        for name, module in self._modules.items():
            module.load_state_dict(state_dict["modules"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state_dict["optimizers"][name])
        self._normalization = self.normalizer.snapshot()
        returns, self.replay = state_dict["returns"], None
        self._returns = None if returns is None else returns.to(self.device, copy=True)
        self._pretrained, self._data_seen = state_dict["pretrained"]
        self._began = state_dict["began"]
        self._plans.load_state_dict(state_dict["plans"])
        if state_dict["replay"] is not None:
            self._replay_of(state_dict["replay"]["num_envs"]).load_state_dict(state_dict["replay"])

    def _figure_counts(self, learned: int) -> dict[str, int]:
        """Returns of how many updates a figure is the sum, where that is not all `learned` of them."""
        return {}

    def _due_every(self, interval: int, learned: int) -> int:
        """Returns how many of the last `learned` updates had a number divisible by `interval`."""
        return -(-self.updates // interval) - -(-(self.updates - learned) // interval)

    def _register(self, name: str, *modules: nn.Module) -> nn.Module:
        """Moves modules to the device and type of the learner and keeps them under a name for checkpoints."""
        module = modules[0] if len(modules) == 1 else nn.ModuleList(modules)
        self._modules[name] = module.to(self.device, self.dtype)
        return module

    def _optimize(
        self, name: str, parameters: Sequence[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True)
        self._optimizers[name] = optimizer
        return optimizer

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _replay_of(self, num_envs: int) -> Replay:
        if self.replay is None:
            shapes, action_dim = self.spec.observation_shapes, self.spec.action_dim
            self.replay = Replay(
                shapes,
                action_dim,
                num_envs=num_envs,
                capacity=self.config.replay_capacity,
                dtype=self.dtype,
                device=self.device,
            )
        if self.replay.num_envs != num_envs:
            raise UsageError(f"the replay was filled by {self.replay.num_envs} environments, not {num_envs}")
        return self.replay

    def _executing(self, planner: Callable[[Observation], Tensor]) -> ChunkController:
        """Returns what executes plans [N, h A] open loop, each of their actions held for `action_repeat` steps."""
        repeat = self.config.action_repeat
        length = self.config.chunk * repeat  # one of both is 1
        return ChunkController(lambda seen: planner(seen).repeat(1, repeat), length=length, execute=length)

    def _plan(self, observation: Observation) -> Tensor:
        """Returns new latent plans [N, h A] for collecting: at first of uniform actions, then the policy's."""
        if self.env_steps >= self.config.learning_starts or self.config.pretrain_updates:
            return self.draw(self._normalization(observation), self._acting)[0]
        shape = (next(iter(observation.values())).shape[0], self.plan_dim)
        uniform = torch.rand(shape, generator=self._acting, dtype=self.dtype, device=self.device)
        return torch.atanh((2.0 * uniform - 1.0).clamp(-LATENT_BOUND, LATENT_BOUND))

    @torch.no_grad()
    def _decide(self, env: VectorEnv, replay: Replay, observation: Observation) -> tuple[Observation, list[Transition]]:
        """Takes the control steps of a decision and stores it; returns what is seen next, and the steps."""
        seen, steps, latents = observation, [], []
        for _ in range(self.config.action_repeat):
            latents.append(self._plans.latent(observation, self._began))
            steps.append(env.step(torch.tanh(latents[-1])))
            observation, self._began = steps[-1].observation, steps[-1].done
        replay.add(seen, latents[0], torch.tanh(latents[0]), merge_steps(steps, self.config.gamma))
        if self.config.normalizer == "running":
            self.normalizer.update(seen)
            self._normalization = self.normalizer.snapshot()
        self.env_steps += env.n * len(steps)
        return observation, steps

    def _due(self, n: int, replay: Replay) -> int:
        """Returns the gradient updates to make after a decision in n environments."""
        if self.env_steps < self.config.learning_starts or len(replay) < max(self.config.n_step, self.config.chunk) * n:
            return 0
        self._owed += n * self.config.action_repeat * self.config.updates_per_step
        due = int(self._owed)
        self._owed -= due
        return due

    def _sample(self, replay: Replay) -> Batch:
        """Draws a batch, in part from the data set."""
        rows, data = self.config.batch_size, self._data
        if data is None:
            return self._draw(replay, rows)
        share = self.config.offline_share
        offline = round(rows * (len(data) / (len(data) + len(replay)) if share is None else share))
        if offline in (0, rows):
            return self._draw(data if offline else replay, rows)
        return join(self._draw(data, offline), self._draw(replay, rows - offline))

    def _draw(self, replay: Replay, rows: int) -> Batch:
        """Draws rows of one replay."""
        config = self.config
        return replay.sample(
            rows, gamma=self.decision_gamma, generator=self._drawing, n_step=config.n_step, chunk=config.chunk
        )

    def _ended_returns(self, transition: Transition) -> Tensor:
        before = torch.zeros_like(transition.reward) if self._returns is None else self._returns
        running = before + transition.reward
        self._returns = running.masked_fill(transition.done, 0.0)
        return running[transition.done]

    def _require_finite(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if value != value or abs(value) == float("inf"):
                raise FloatingPointError(f"{name} is {value} within the last {self.config.horizon} steps")


def backward_and_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Replaces the gradients of an optimizer's parameters by those of a loss and makes one step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def blend(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Moves target parameters towards the online ones: target <- (1 - tau) target + tau online."""
    pairs = (list(module.parameters()) for module in (target, online))
    targets, onlines = cast(tuple[list[Tensor], list[Tensor]], tuple(pairs))
    torch._foreach_lerp_(targets, onlines, tau)
