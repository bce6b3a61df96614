"""What every learner shares, on-policy or off-policy: seeded networks and draws, a normaliser, acting, checkpoints."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.shell import VectorEnv
from rfo.core.task import Observation, TaskSpec
from rfo.policy.encoders import Encoder, PointsName, flat_shapes, make_encoder
from rfo.policy.normalize import RunningNormalizer

__all__ = ["BaseConfig", "BaseLearner", "Policy", "Stopwatch", "has_widths", "require"]


def require(config: Any, names: Sequence[str], holds: Callable[[Any], Any], rule: str) -> None:
    """Checks fields of a config.

    Raises:
        UsageError: A field breaks the rule.
    """
    for name in names:
        if not holds(getattr(config, name)):
            raise UsageError(f"algo.{name} {rule}, got {getattr(config, name)}")


def has_widths(hidden: tuple[int, ...]) -> bool:
    """Whether these are the widths of at least one hidden layer."""
    return bool(hidden) and min(hidden) >= 1


class BaseConfig(Protocol):
    """The figures that are read here."""

    @property
    def points(self) -> PointsName:
        """How point sets are read."""

    @property
    def normalizer_floor(self) -> float:
        """Smallest standard deviation by which an observation is divided."""

    @property
    def normalizer_clip(self) -> float:
        """Largest magnitude of a normalised observation."""


class Policy(Protocol):
    """What acting needs of a policy."""

    def state_dict(self) -> dict[str, Any]:
        """Returns parameters and buffers, as torch's modules do."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Takes parameters and buffers over."""

    @property
    def action_dim(self) -> int:
        """Size of the last dimension of noise and latent."""

    def sample(self, observation: Observation, noise: Tensor) -> tuple[Tensor, ...]:
        """Returns latent and action first."""

    def deterministic(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Returns latent and action without noise."""


ConfigT = TypeVar("ConfigT", bound=BaseConfig)


class BaseLearner(ABC, Generic[ConfigT]):
    """Seeded networks and generators, and how they act.

    A subclass builds its networks in `build_networks`, whose random numbers come from the seed, and what stands on them
    in `set_up`; so none needs a constructor of its own.

    Args:
        config: Every figure.
        spec: The task's spec.
        device: Device of the networks, which must be the task's.
        dtype: Scalar type of the networks, which must be the task's.
        seed: Seed of the networks and of every draw.

    Raises:
        UsageError: An observation that no encoder reads, or a task without gradients where they are needed.
    """

    needs_gradients: ClassVar[bool] = False
    """Whether the learner differentiates the dynamics."""

    policy: Policy

    def __init__(
        self,
        config: ConfigT,
        spec: TaskSpec,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        if self.needs_gradients and not spec.differentiable:
            name = type(self).__name__
            raise UsageError(f"{spec.id} is not differentiable and {name} needs gradients of the dynamics")
        self.config, self.spec = config, spec
        self.device, self.dtype = torch.device(device), dtype
        self.updates = 0
        with torch.random.fork_rng(devices=[]):
            # On the CPU and in float32 first, so that one seed gives one network on every device.
            torch.manual_seed(seed)
            self.build_networks()
            seeds = torch.randint(2**62, (3,)).tolist()
        # One stream per use: what one part draws never shifts another. The first is for acting.
        self.generators = tuple(torch.Generator(device=self.device).manual_seed(value) for value in seeds)
        self.normalizer = RunningNormalizer(
            spec.observation_shapes,
            points=config.points,
            dtype=dtype,
            device=self.device,
            std_floor=config.normalizer_floor,
            clip=config.normalizer_clip,
        )
        self.set_up()

    @abstractmethod
    def build_networks(self) -> None:
        """Sets `policy`, and other networks; torch's global generator is seeded while this runs."""

    def make_encoder(self) -> Encoder:
        """Returns an encoder of prepared observations, with networks of its own.

        Raises:
            UsageError: A key that no encoder reads.
        """
        shapes = self.spec.observation_shapes
        return make_encoder(flat_shapes(shapes) if self.config.points == "flat" else shapes)

    @abstractmethod
    def set_up(self) -> None:
        """Sets what needs the networks, the generators or the normaliser."""

    @torch.no_grad()
    def act(
        self, observation: Observation, *, deterministic: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns actions, shape [N, A].

        Args:
            observation: As the task gives it.
            deterministic: Use the noise's mean, zero, instead of noise.
            generator: Source of the noise; by default the one of the collection, which then moves on.
        """
        return torch.tanh(self.latent(observation, deterministic=deterministic, generator=generator))

    @torch.no_grad()
    def latent(self, observation: Observation, *, deterministic: bool, generator: torch.Generator | None) -> Tensor:
        """Returns the policy's latent outside training; see `act`."""
        prepared = self.normalizer.snapshot()(observation)
        if deterministic:
            return self.policy.deterministic(prepared)[0]
        return self.draw(prepared, generator or self.generators[0])[0]

    def draw(self, prepared: Observation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns latent and action for normalised observations."""
        rows = next(iter(prepared.values())).shape[0]
        latent, action = self.policy.sample(prepared, self.policy_noise(rows, generator))[:2]
        return latent, action

    def policy_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Returns what the policy draws actions of so many observations from."""
        return self.draw_noise((rows,), generator)

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Returns standard normal noise for the policy, shape [*shape, A]."""
        size = (*shape, self.policy.action_dim)
        return torch.randn(size, generator=generator, dtype=self.dtype, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit; tensors are the live ones, as in torch's modules."""
        return {
            "normalizer": self.normalizer.state_dict(),
            "generators": [generator.get_state() for generator in self.generators],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        self.normalizer.load_state_dict(state_dict["normalizer"])
        for generator, state in zip(self.generators, state_dict["generators"], strict=True):
            generator.set_state(state.cpu())

    def policy_state_dict(self) -> dict[str, Any]:
        """Returns what acting needs, and nothing that only learning does."""
        return {"policy": self.policy.state_dict(), "normalizer": self.normalizer.state_dict()}

    def load_policy_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Acts as the policy of a `policy_state_dict`."""
        self.policy.load_state_dict(state_dict["policy"])
        self.normalizer.load_state_dict(state_dict["normalizer"])

    def require_match(self, env: VectorEnv) -> None:
        """Checks that the task and the networks share device and scalar type.

        Raises:
            UsageError: They do not.
        """
        task = env.task
        if task.device != self.device or task.dtype != self.dtype:
            raise UsageError(
                f"{task.spec.id} runs on {task.device} in {task.dtype} and the learner on {self.device} in "
                f"{self.dtype}; build both with the same device and dtype"
            )


class Stopwatch:
    """Seconds spent in the parts of an update.

    Args:
        device: Waited for at every lap.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: dict[str, float] = {}
        self._last = self._now()

    def lap(self, name: str) -> None:
        """Books the time since the last lap to a part."""
        now = self._now()
        self._laps[name] = self._laps.get(name, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Returns `seconds_<part>` of every part."""
        return {f"seconds_{name}": value for name, value in self._laps.items()}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
