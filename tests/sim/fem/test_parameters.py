"""Figures of tetrahedra as inputs with gradients, and a stiffness recovered from a motion."""

from __future__ import annotations

import pytest
import torch
from fem_bodies import block, engine, states
from law_runner import directional_error
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.fem.laws import TET_PARAMETERS
from rfo.sim.fem.material import MATERIALS


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("height", [1.0, -0.004])
def test_gradient_to_every_parameter(material: str, height: float) -> None:
    """State, muscles, mu, lambda, eta and strength of each tetrahedron, for each material, against differences."""
    model = block(material=material)
    sim = engine(model, parameters=TET_PARAMETERS)
    x, v, muscle = states(model, 3, height)
    # Relative to their values: a step of 1e-7 in a modulus of 1e5 would drown in rounding.
    shares = [torch.ones(3, len(model.tets), dtype=torch.float64) for _ in TET_PARAMETERS]
    g = torch.Generator().manual_seed(7)
    weight = torch.randn(x.shape, generator=g, dtype=torch.float64)

    def total(x: Tensor, v: Tensor, muscle: Tensor, *shares: Tensor) -> Tensor:
        figures = {
            name: share * torch.as_tensor(getattr(model, name))
            for name, share in zip(TET_PARAMETERS, shares, strict=True)
        }
        for _ in range(2):
            x, v = sim.step(x, v, muscle, **figures)
        return (weight * x).sum() + 0.1 * (weight * v).sum()

    limit = 1e-6 if height > 0.0 else 1e-4
    for fixed in (0, 3):  # everything together, then the parameters alone
        held = (x, v, muscle, *shares)[:fixed]
        free = (x, v, muscle, *shares)[fixed:]
        assert directional_error(lambda *y, held=held: total(*held, *y), free, 1e-7 if fixed == 0 else 1e-5) < limit


def test_parameters_as_inputs_change_nothing() -> None:
    """A body whose moduli arrive as inputs moves bit for bit like one that has them built in."""
    model = block()
    inputs = states(model, 5, -0.004, torch.float32)
    plain = engine(model, torch.float32).step(*inputs)
    figures = {name: torch.as_tensor(getattr(model, name)) for name in TET_PARAMETERS}
    varied = engine(model, torch.float32, parameters=TET_PARAMETERS).step(*inputs, **figures)
    for one, two in zip(plain, varied, strict=True):
        assert float((one - two).abs().max()) <= 1e-6 * float(one.abs().max())


def test_a_stiffness_is_recovered_from_a_motion() -> None:
    """Gradient descent through ten control steps finds the modulus that made a body swing as observed."""
    model = block(3, gravity=-9.81)
    sim = engine(model, parameters=("mu",))
    x, v, muscle = states(model, 4, 1.0)
    truth = torch.as_tensor(model.mu)

    def motion(mu: Tensor) -> Tensor:
        y, w, frames = x, v, []
        for _ in range(10):
            y, w = sim.step(y, w, muscle, mu=mu)
            frames.append(y)
        return torch.stack(frames)

    with torch.no_grad():
        observed = motion(truth)
    factor = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)  # log of the guess over the truth
    optimizer = torch.optim.Adam([factor], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        ((motion(truth * factor.exp()) - observed).square().sum() * 1e3).backward()
        optimizer.step()
    assert abs(float(factor.detach())) < 0.01


def test_an_unknown_parameter_is_named() -> None:
    """A figure that tetrahedra do not have is refused with those they have."""
    with pytest.raises(UsageError, match="there are mu, lam, eta, strength"):
        engine(block(), parameters=("density",))
