"""Fixed-step solvers of the flow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rfo.flow.integrate import SOLVERS, SolverName, integrate


def _velocity(x: Tensor, u: float) -> Tensor:
    return torch.sin(3.0 * x) * math.cos(2.0 * u) - 0.5 * x + u


@pytest.mark.parametrize("name", ["euler", "midpoint"])
@pytest.mark.parametrize("steps", [1, 4])
def test_equals_torchdiffeq(name: SolverName, steps: int) -> None:
    """Values and gradients are those of torchdiffeq's solver of the same name on the same grid."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    start = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = start.clone().requires_grad_()
    ours = integrate(_velocity, x, steps=steps, solver=SOLVERS[name])
    y = start.clone().requires_grad_()
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    theirs = torchdiffeq.odeint(lambda u, state: _velocity(state, float(u)), y, grid, method=name)[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (ours.square().sum()).backward()
    (theirs.square().sum()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2)])
def test_order_of_convergence(name: SolverName, order: int) -> None:
    """Halving the step divides the error by 2 to the solver's order."""
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    exact = integrate(_velocity, x, steps=20000, solver=SOLVERS["midpoint"])
    errors = [
        float((integrate(_velocity, x, steps=steps, solver=SOLVERS[name]) - exact).abs().max()) for steps in (64, 128)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_constant_velocity_is_exact_in_one_step() -> None:
    """Straight paths need a single step."""
    x = torch.zeros(2, 3)
    for solver in SOLVERS.values():
        assert torch.equal(integrate(lambda x, u: torch.full_like(x, 2.0), x, steps=1, solver=solver), x + 2.0)
