"""How long one gradient update of an off-policy learner takes, beside the machine's own matrix-product rate.

An update reads a batch of random transitions; acting and the environment are not in it. Operations are counted by torch
(matrix products only, forward and backward) over a whole cycle of critic and policy updates; the rate they are compared
with is measured in the same run, with the same threads and type, on products of 1024 by 1024 matrices.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from rfo.algo.off_policy import OffPolicy
from rfo.core.errors import UsageError
from rfo.core.task import TaskSpec
from rfo.data.replay import Batch
from rfo.train.algorithms import config_class, make_algorithm
from rfo.train.bench import available_cores

__all__ = ["BenchUpdateResult", "SizeName", "bench_update"]

SizeName = Literal["released", "small"]

SPEC = TaskSpec("bench", "none", 6, 1000, 0.01, {"state": (17,)}, differentiable=False)
"""Sizes of half cheetah."""

SMALL: dict[str, dict[str, Any]] = {
    "flowrl": {"actor_hidden": (256, 256), "critic_hidden": (256, 256)},
    "sac-flow": {"mode": "paper", "batch_size": 256, "critic_hidden": (256, 256), "interval": 1},
    "sac": {},
}
"""Where overhead rules: 256 wide, batch 256, policy at every update."""

RELEASED: dict[str, dict[str, Any]] = {"flowrl": {}, "sac-flow": {"critics": "cross"}, "sac": {}}
"""What the released code does beside its sizes, which are the configs' defaults."""

SMALL_ACTOR = {"mlp": (256, 256), "gated": (256,), "decoded": (64, 64)}

CYCLE = 6
"""Updates after which critic and policy updates have come in their proportion, for intervals 1, 2 and 3."""


@dataclass(frozen=True)
class BenchUpdateResult:
    """What `rfo bench --algo` measures.

    Attributes:
        ms_per_update: Wall-clock time of a gradient update, the best of several repeats [ms].
        flop_per_update: Floating-point operations of its matrix products.
        percent_of_peak: Their rate relative to plain matrix products.
        peak_gflop_per_s: Rate of plain matrix products.
        act_ms: Time to act on one observation [ms].
        threads: Threads of torch.
        dtype: Type of the matrix products.
        algo: Algorithm.
        velocity: Velocity network; None where there is none.
        size: "released" or "small".
    """

    ms_per_update: float
    flop_per_update: float
    percent_of_peak: float
    peak_gflop_per_s: float
    act_ms: float
    threads: int
    dtype: str
    algo: str
    velocity: str | None
    size: str


def bench_update(
    algo: str,
    *,
    velocity: str | None = None,
    size: SizeName = "released",
    threads: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    repeats: int = 5,
) -> BenchUpdateResult:
    """Measures an off-policy algorithm.

    Args:
        algo: "flowrl", "sac-flow" or "sac".
        velocity: Velocity network; None for the algorithm's default.
        size: Sizes of the released code, or small ones.
        threads: Threads of torch; None for all cores.
        dtype: "float32" or "bfloat16" (autocast).
        device: Torch device.
        repeats: Repeats of which the fastest counts.

    Raises:
        UsageError: The algorithm does not learn from a replay.
    """
    if algo not in SMALL:
        raise UsageError(f"rfo bench --algo measures {', '.join(SMALL)}; got {algo!r}")
    if velocity is not None and algo == "sac":
        raise UsageError("sac has no velocity network; leave out --velocity")
    cores = threads or available_cores()
    torch.set_num_threads(cores)
    kind = config_class(algo)
    overrides: dict[str, Any] = {"precision": dtype} | ({} if velocity is None else {"velocity": velocity})
    overrides |= RELEASED[algo] if size == "released" else SMALL[algo]
    if size == "small" and algo == "sac-flow":
        overrides["actor_hidden"] = SMALL_ACTOR[velocity or kind().velocity]
    config = kind(**overrides)
    made = make_algorithm(algo, config, SPEC, device=torch.device(device), dtype=torch.float32, seed=0)
    learner = cast(OffPolicy, made)
    batch = _batch(config.batch_size, learner.device)
    with FlopCounterMode(display=False) as counter:
        _cycle(learner, batch)
    flop = counter.get_total_flops() / CYCLE
    seconds = min(_timed(lambda: _cycle(learner, batch), learner.device) for _ in range(repeats)) / CYCLE
    peak = _matrix_rate(learner.device, getattr(torch, dtype))
    one = {"state": batch.observation["state"][:1]}
    acting = min(_timed(lambda: [learner.act(one) for _ in range(20)], learner.device) for _ in range(repeats)) / 20
    return BenchUpdateResult(
        1e3 * seconds,
        flop,
        100.0 * flop / seconds / peak,
        peak / 1e9,
        1e3 * acting,
        cores,
        dtype,
        algo,
        getattr(config, "velocity", None),
        size,
    )


def _batch(rows: int, device: torch.device) -> Batch:
    generator = torch.Generator(device=device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    observation, following = {"state": normal(rows, 17)}, {"state": normal(rows, 17)}
    latent = normal(rows, 6)
    discount = torch.full((rows,), 0.99, device=device)
    return Batch(observation, latent, torch.tanh(latent), normal(rows), discount, following)


def _cycle(learner: OffPolicy, batch: Batch) -> None:
    normalization = learner.normalizer.snapshot()
    for _ in range(CYCLE):
        learner.learn(batch, normalization)
        learner.updates += 1


def _timed(work: Any, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the operations per second of products of 1024 by 1024 matrices."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    best = min(_timed(lambda: [a @ b for _ in range(8)], device) for _ in range(8)) / 8
    return float(2 * 1024**3 / best)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
