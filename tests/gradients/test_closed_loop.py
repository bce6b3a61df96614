"""The gradient RFO climbs: policy parameters through K flow steps and the simulator's steps, against differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rfo.algo.rfo import RFO, RFOConfig
from rfo.core.task import State, Task
from rfo_envs.fem.quadruped import SoftQuadruped
from rfo_envs.fem.quadruped_quick import SoftQuadrupedQuick

STEPS = 8


@pytest.fixture(scope="module")
def task() -> SoftQuadrupedQuick:
    """The quick quadruped in float64."""
    return SoftQuadrupedQuick(dtype=torch.float64)


def closed_loop_return(
    task: Task, learner: RFO, state: State, noise: Tensor, value_weight: float
) -> Callable[[], Tensor]:
    """Rewards over STEPS control steps and the value at the end, from fixed state and noise, under the policy."""

    def evaluate() -> Tensor:
        current, total = state, torch.zeros((), dtype=torch.float64)
        normalization = learner.normalizer.snapshot()
        for t in range(STEPS):
            _, action = learner.policy.sample(normalization(task.observe(current)), noise[t])
            following = task.dynamics(current, action)
            total = total + task.reward(current, action, following).sum()
            current = following
        return total + value_weight * learner.critic.mean(normalization(task.observe(current))).sum()

    return evaluate


@pytest.mark.parametrize(
    ("situation", "value_weight", "limit"),
    [("air", 0.0, 1e-6), ("contact", 0.0, 1e-4), ("air", 10.0, 1e-5), ("contact", 10.0, 1e-3)],
)
def test_closed_loop_gradient_equals_differences(
    task: SoftQuadrupedQuick, situation: str, value_weight: float, limit: float
) -> None:
    """Through 4 flow steps, 8 control steps and a value, the directional derivative is that of central differences."""
    learner = RFO(RFOConfig(flow_steps=4), task.spec, dtype=torch.float64, seed=3)
    assert _error(task, learner, situation, value_weight) <= limit


def test_closed_loop_gradient_equals_differences_on_the_full_body() -> None:
    """The same with 222 actions, through the vertices that the policy and the critics read flat, in sliding contact."""
    task = SoftQuadruped(dtype=torch.float64)
    learner = RFO(RFOConfig(points="flat", normalizer_floor=0.01), task.spec, dtype=torch.float64, seed=3)
    assert _error(task, learner, "contact", value_weight=10.0) <= 1e-3


def _error(task: Task, learner: RFO, situation: str, value_weight: float) -> float:
    """Largest relative error of a directional derivative over two random directions, each at its best step size."""
    generator = torch.Generator().manual_seed(1)
    state = task.check_situations(generator, 2)[situation].state
    noise = torch.randn(STEPS, 2, task.spec.action_dim, generator=generator, dtype=torch.float64)
    parameters = [p for p in learner.policy.parameters() if p.requires_grad]
    evaluate = closed_loop_return(task, learner, state, noise, value_weight)
    gradients = torch.autograd.grad(evaluate(), parameters)
    assert sum(float(g.square().sum()) for g in gradients) > 0
    worst = 0.0
    for _ in range(2):
        direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        errors = [abs(slope - _difference(evaluate, parameters, direction, h)) / abs(slope) for h in (1e-5, 1e-6, 1e-7)]
        worst = max(worst, min(errors))
    return worst


@torch.no_grad()
def _difference(evaluate: Callable[[], Tensor], parameters: list[Tensor], direction: list[Tensor], h: float) -> float:
    values = []
    for sign in (1.0, -1.0):
        for p, d in zip(parameters, direction, strict=True):
            p.add_(sign * h * d)
        values.append(float(evaluate()))
        for p, d in zip(parameters, direction, strict=True):
            p.sub_(sign * h * d)
    return (values[0] - values[1]) / (2.0 * h)
