"""Figures of tetrahedra and of contact as inputs with gradients, recovered from motions."""

from __future__ import annotations

import pytest
import torch
from fem_bodies import block, engine, states
from law_runner import directional_error
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.fem import FemEngine, FemModel, ImplicitFemEngine, Sphere
from rfo.sim.fem.engine import FemPhysics
from rfo.sim.fem.laws import CONTACT_PARAMETERS, TET_PARAMETERS
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


def contact_figures(model: FemModel, n: int) -> list[Tensor]:
    """A model's contact figures, for each environment."""
    return [torch.full((n,), getattr(model.contact, name), dtype=torch.float64) for name in CONTACT_PARAMETERS]


@pytest.mark.parametrize("integrator", [FemEngine, ImplicitFemEngine])
@pytest.mark.parametrize("obstacle", [False, True])
def test_gradient_to_contact_parameters(integrator: type[FemPhysics], obstacle: bool) -> None:
    """Stiffness, damping, friction and slip speed of each environment, on the ground and against a moving ball."""
    model = block(obstacles=(Sphere(0.15),) if obstacle else ())
    sim = integrator(model, dt=1e-3, substeps=4, dtype=torch.float64, threads=1, parameters=CONTACT_PARAMETERS)
    inputs = states(model, 11, -0.004)
    pose = torch.tensor([0.05, -0.08, 0.05, 1.0, *9 * [0.0]]).expand(11, 1, 13).double() if obstacle else None
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def total(*shares: Tensor) -> Tensor:
        x, v, muscle = inputs
        figures = {n: s * f for n, s, f in zip(CONTACT_PARAMETERS, shares, contact_figures(model, 11), strict=True)}
        for _ in range(2):
            x, v = sim.step(x, v, muscle, obstacles=pose, **figures)
        return (weight * x).sum() + 0.1 * (weight * v).sum()

    ones = torch.ones(11, dtype=torch.float64)
    for free in range(4):  # one figure at a time: the stiffness must not hide the others

        def alone(share: Tensor, free: int = free) -> Tensor:
            return total(*(share if i == free else ones for i in range(4)))

        assert directional_error(alone, (ones,), 1e-6) < 1e-4


def test_parameters_as_inputs_change_nothing() -> None:
    """A body whose figures arrive as inputs moves like one that has them built in."""
    model = block()
    inputs = states(model, 5, -0.004, torch.float32)
    plain = engine(model, torch.float32).step(*inputs)
    figures = {name: torch.as_tensor(getattr(model, name)) for name in TET_PARAMETERS}
    figures |= {name: torch.tensor(getattr(model.contact, name)) for name in CONTACT_PARAMETERS}
    varied = engine(model, torch.float32, parameters=(*TET_PARAMETERS, *CONTACT_PARAMETERS)).step(*inputs, **figures)
    for one, two in zip(plain, varied, strict=True):
        assert float((one - two).abs().max()) <= 1e-6 * float(one.abs().max())


def test_friction_differs_from_environment_to_environment() -> None:
    """Each body slides as its own coefficient says, and its gradient reaches no other's."""
    model = block()
    sim = engine(model, parameters=("friction",))
    x, v, muscle = (y[:1].expand(18, -1, *y.shape[2:]) for y in states(model, 1, -0.004))
    friction = torch.linspace(0.0, 1.5, 18, dtype=torch.float64).requires_grad_()
    _, w = sim.step(x, v, muscle, friction=friction)
    speed = torch.einsum("v,nv->n", torch.as_tensor(model.mass), w[..., 0])
    assert bool((speed.diff() < 0.0).all())
    (gradient,) = torch.autograd.grad(speed[7], friction)
    assert float(gradient[7]) < 0.0
    assert float(gradient.abs().sum() - gradient[7].abs()) == 0.0


@pytest.mark.parametrize(("name", "guess"), [("friction", 0.3), ("stiffness", 3e3)])
def test_a_contact_figure_is_recovered_from_a_motion(name: str, guess: float) -> None:
    """Gradient descent through ten control steps finds the friction, or the ground's stiffness, of a body that slid."""
    model = block(2)
    sim = engine(model, parameters=(name,))
    x, v, muscle = states(model, 4, -0.004)
    v = v + torch.tensor([0.8, 0.0, 0.0], dtype=torch.float64)
    truth = getattr(model.contact, name)

    def motion(figure: Tensor) -> Tensor:
        y, w, frames = x, v, []
        for _ in range(10):
            y, w = sim.step(y, w, muscle, **{name: figure})
            frames.append(y)
        return torch.stack(frames)

    with torch.no_grad():
        observed = motion(torch.tensor(truth, dtype=torch.float64))
    logarithm = torch.tensor(guess, dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.Adam([logarithm], lr=0.1, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    for _ in range(60):
        optimizer.zero_grad()
        ((motion(logarithm.exp()) - observed).square().sum() * 1e3).backward()
        optimizer.step()
        schedule.step()
    assert float(logarithm.detach().exp()) == pytest.approx(truth, rel=1e-4)


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
    """A figure that a body does not have is refused with those it has."""
    with pytest.raises(UsageError, match="there are mu, lam, eta, strength, stiffness, damping, friction, slip_speed"):
        engine(block(), parameters=("density",))
