"""Conditional flow matching."""

from __future__ import annotations

import pytest
import torch

from rfo.flow.matching import conditional_flow_matching
from rfo.flow.velocity import VelocityMLP


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_expectation_of_a_still_field() -> None:
    """With v = 0 the loss is E |y - e|^2 = |y|^2 + 1 per entry."""
    target = torch.full((200_000, 2), 3.0, dtype=torch.float64)
    loss = conditional_flow_matching(lambda z, u: torch.zeros_like(z), target, generator=_generator())
    assert float(loss) == pytest.approx(10.0, rel=0.01)


def test_source_of_another_spread() -> None:
    """With v = 0 the loss is |y|^2 + source_std^2 per entry."""
    target = torch.full((200_000, 2), 3.0, dtype=torch.float64)
    loss = conditional_flow_matching(lambda z, u: torch.zeros_like(z), target, generator=_generator(), source_std=0.5)
    assert float(loss) == pytest.approx(9.25, rel=0.01)


def test_minimum_is_zero_where_the_target_is_known() -> None:
    """A field that points straight at the target has no loss: y - e = (y - z) / (1 - u)."""
    target = torch.randn(512, 3, dtype=torch.float64, generator=_generator())
    loss = conditional_flow_matching(lambda z, u: (target - z) / (1.0 - u), target, generator=_generator())
    assert float(loss) < 1e-20


def test_sum_is_the_mean_times_the_action_entries() -> None:
    """The reductions differ by the factor A and draw the same randomness."""
    field, target = VelocityMLP(4, 3), torch.randn(32, 3, generator=_generator())
    velocity = field.bind(torch.randn(32, 4, generator=_generator()))
    mean = conditional_flow_matching(velocity, target, generator=_generator(), reduction="mean")
    total = conditional_flow_matching(velocity, target, generator=_generator(), reduction="sum")
    torch.testing.assert_close(total, 3.0 * mean)


def test_training_on_it_moves_samples_to_the_targets() -> None:
    """A field fitted by the loss carries noise to the targets' mean and spread."""
    torch.manual_seed(0)
    generator = _generator()
    field, features = VelocityMLP(1, 1, (32, 32)), torch.zeros(256, 1)
    optimizer = torch.optim.Adam(field.parameters(), lr=5e-3)
    for _ in range(300):
        target = 2.0 + 0.5 * torch.randn(256, 1, generator=generator)
        loss = conditional_flow_matching(field.bind(features), target, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(256, 1, generator=generator)
    with torch.no_grad():
        for k in range(32):
            x = x + field.bind(features)(x, k / 32) / 32
    assert float(x.mean()) == pytest.approx(2.0, abs=0.2)
    assert float(x.std()) == pytest.approx(0.5, abs=0.2)
