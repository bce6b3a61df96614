"""The benchmark measures what it promises, and the doctor speaks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.core.task import State
from rfo.train.bench import bench
from rfo.train.doctor import examine
from rfo_envs.torch.pendulum import PendulumSwingup

PROMISED = {
    *("forward_env_steps_per_s", "gradient_env_steps_per_s", "memory_bytes_per_env_step", "peak_rss_bytes"),
    *("compile_s", "threads", "device", "dtype"),
}


def test_bench_gives_the_promised_figures() -> None:
    """Exactly the keys that programs rely on, all positive, forward faster than with gradients."""
    result = bench("pendulum-swingup", envs=8, horizon=8, threads=1, dtype=torch.float64, repeats=1)
    assert set(dataclasses.asdict(result)) == PROMISED
    assert result.gradient_env_steps_per_s is not None
    assert result.forward_env_steps_per_s > result.gradient_env_steps_per_s > 0
    assert result.peak_rss_bytes > 50e6 and result.compile_s > 0
    assert (result.threads, result.device, result.dtype) == (1, "cpu", "float64")


@pytest.mark.parametrize("sizes", [{"envs": 0}, {"horizon": 0}, {"threads": 0}, {"envs": -3}])
def test_impossible_sizes_are_one_line(sizes: dict[str, int]) -> None:
    """A size below one is refused before anything is built."""
    with pytest.raises(UsageError, match="at least 1"):
        bench("pendulum-swingup", **{"envs": 2, "horizon": 2, **sizes})


def test_a_gradient_that_is_not_finite_is_not_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose backward pass gives NaN has no gradient speed."""

    def reward(self: PendulumSwingup, state: State, action: Tensor, next_state: State) -> Tensor:
        return (action[:, 0] - action[:, 0].detach()).sqrt()  # finite, with an infinite slope

    monkeypatch.setattr(PendulumSwingup, "reward", reward)
    with pytest.raises(FloatingPointError, match="pendulum-swingup: the gradient to the action of environment"):
        bench("pendulum-swingup", envs=2, horizon=2, repeats=1)


def test_doctor_advises_wherever_something_is_wrong() -> None:
    """Every finding says what was found, and every problem what to do."""
    findings = {finding.name: finding for finding in examine()}
    assert {"python", "torch", "warp", "devices", "cores", "instruction set", "kernel cache", "ffmpeg"} <= set(findings)
    assert all(finding.value and (finding.ok or finding.advice) for finding in findings.values())


def test_doctor_notices_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel cache in an impossible place is a problem with an answer."""
    monkeypatch.setenv("WARP_CACHE_PATH", "/proc/nowhere")
    (found,) = (finding for finding in examine() if finding.name == "kernel cache")
    assert not found.ok and "WARP_CACHE_PATH" in found.advice
