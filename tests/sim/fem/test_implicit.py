"""The implicit engine: physics one can predict, agreement with the explicit one, and gradients by every route."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from fem_bodies import block, engine, states
from law_runner import directional_error
from test_contact import GROUNDS, SHAPES, pose
from test_laws import energy
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.fem import FemContact, FemModel, ImplicitFemEngine, Plane, SelfContact
from rfo.sim.fem import implicit as module
from rfo.sim.fem.laws import TET_PARAMETERS
from rfo.sim.fem.material import MATERIALS

AIR, GROUND = 1.0, -0.004
CONTROL = 1.0 / 60.0


def implicit(model: FemModel, dtype: torch.dtype = torch.float64, substeps: int = 2, **options: Any) -> Any:
    """An engine on one thread with a control step of a sixtieth of a second."""
    return ImplicitFemEngine(model, dt=CONTROL / substeps, substeps=substeps, dtype=dtype, threads=1, **options)


def stiff(factor: float, **changes: Any) -> FemModel:
    """The block with its moduli multiplied."""
    count = 12
    return block(mu=factor * 4e4 * np.ones(count), lam=factor * 9e4 * np.ones(count), **changes)


def weighted(sim: Any, steps: int = 2) -> Any:
    """A smooth scalar of the state after a few steps, to differentiate."""
    g = torch.Generator().manual_seed(9)
    weights = torch.randn(2, *sim.inputs["x"], generator=g, dtype=torch.float64)

    def total(x: Tensor, v: Tensor, muscle: Tensor, obstacles: Tensor | None = None) -> Tensor:
        for _ in range(steps):
            x, v = sim.step(x, v, muscle, obstacles=obstacles)
        return (weights[0].to(x) * x).sum() + 0.1 * (weights[1].to(x) * v).sum()

    return total


def gradients(sim: Any, n: int, height: float) -> list[Tensor]:
    """Value and gradients of a two-step rollout."""
    leaves = [y.requires_grad_() for y in states(sim.model, n, height, sim.dtype)]
    total = weighted(sim)(*leaves)
    return [total.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize(("activation", "damping"), [("fiber", "objective"), ("volumetric", "viscous")])
@pytest.mark.parametrize(("height", "limit"), [(AIR, 1e-6), (GROUND, 1e-4)])
def test_gradient_equals_differences(material: str, activation: str, damping: str, height: float, limit: float) -> None:
    """Every material with both activations and dampings, two control steps: 1e-6 in the air, 1e-4 on the ground."""
    sim = implicit(block(material=material, activation=activation, damping=damping))
    assert directional_error(weighted(sim), states(sim.model, 3, height), 1e-6) < limit


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_gradient_over_every_ground(ground: Any) -> None:
    """Feet in contact: 1e-4 of differences in float64."""
    sim = implicit(block(ground=ground))
    inputs = states(sim.model, 3, 0.0)
    free, _ = implicit(block(ground=Plane(offset=-9.0))).step(*inputs)
    assert float((sim.step(*inputs)[0] - free).abs().max()) > 1e-4  # there is contact
    assert directional_error(weighted(sim), inputs, 1e-7) < 1e-4


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradient_with_moving_obstacles(shape: Any) -> None:
    """A moving, turning obstacle in contact: gradients to state, muscles and the obstacle's own pose."""
    sim = implicit(block(obstacles=(shape,)))
    inputs = (*states(sim.model, 3, 1.0), pose(3))
    free, _ = implicit(block()).step(*inputs[:3])
    assert float((sim.step(*inputs[:3], obstacles=inputs[3])[0] - free).abs().max()) > 1e-4
    assert directional_error(weighted(sim), inputs, 1e-7) < 1e-4


@pytest.mark.parametrize(("height", "limit"), [(AIR, 1e-6), (GROUND, 1e-4)])
def test_gradient_over_four_control_steps_of_a_stiff_body(height: float, limit: float) -> None:
    """A hundred times as stiff, one substep per control step, four control steps."""
    sim = implicit(stiff(100.0), substeps=1)
    assert directional_error(weighted(sim, 4), states(sim.model, 3, height), 1e-6) < limit


@pytest.mark.parametrize(("height", "limit"), [(AIR, 1e-6), (GROUND, 1e-4)])
def test_gradient_to_every_parameter(height: float, limit: float) -> None:
    """The moduli, viscosity and strength of each tetrahedron, as shares of their values."""
    model = block()
    sim = implicit(model, parameters=TET_PARAMETERS)
    x, v, muscle = states(model, 3, height)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def total(*shares: Tensor) -> Tensor:
        names = zip(TET_PARAMETERS, shares, strict=True)
        figures = {name: share * torch.as_tensor(getattr(model, name)) for name, share in names}
        y, w = x, v
        for _ in range(2):
            y, w = sim.step(y, w, muscle, **figures)
        return (weight * y).sum() + 0.1 * (weight * w).sum()

    shares = tuple(torch.ones(3, len(model.tets), dtype=torch.float64) for _ in TET_PARAMETERS)
    assert directional_error(total, shares, 1e-5) < limit


def test_free_flight() -> None:
    """Without contact momentum grows by gravity's impulse alone, and a resting body falls as backward Euler says."""
    sim = implicit(block(), substeps=3)
    x, v, muscle = states(sim.model, 5, AIR)
    mass = torch.as_tensor(sim.model.mass)
    before = torch.einsum("v,nvc->nc", mass, v)
    after = torch.einsum("v,nvc->nc", mass, sim.step(x, v, muscle)[1])
    impulse = float(mass.sum()) * CONTROL * torch.tensor([0.0, -9.81, 0.0], dtype=torch.float64)
    assert float((after - before - impulse).abs().max()) < 1e-11 * float(mass.sum())
    rest = torch.as_tensor(sim.model.vertices)[None] + 5.0
    fallen, _ = sim.step(rest, torch.zeros_like(rest), torch.zeros_like(muscle[:1]))
    assert float((fallen - rest)[..., 1].max() + 9.81 * (CONTROL / 3) ** 2 * 6) == pytest.approx(0.0, abs=1e-12)


def test_first_order_towards_the_explicit_solution() -> None:
    """Halving the substep halves the distance to the explicit engine's fine solution, with feet on the ground."""
    model = block(contact=FemContact(stiffness=3e3, damping=1.0, friction=0.8, ramp=0.004))
    x, v, muscle = states(model, 3, 0.002)
    v = 0.3 * v
    fine, _ = engine(model, dt=CONTROL / 4096, substeps=4096).step(x, v, muscle)
    errors = [float((implicit(model, substeps=n).step(x, v, muscle)[0] - fine).norm()) for n in (32, 64, 128)]
    for coarse, halved in pairwise(errors):
        assert 1.7 < coarse / halved < 2.3


@pytest.mark.parametrize("material", ["stable-neo-hookean", "corotated"])
def test_energy_decreases(material: str) -> None:
    """Free, undamped and passive, a body only loses mechanical energy, whatever the step."""
    model = block(gravity=0.0, eta=np.zeros(12), material=material)
    sim = implicit(model, substeps=1)
    x, v, _ = states(model, 3, AIR)
    rest, mass = torch.zeros(3, 2, dtype=torch.float64), torch.as_tensor(model.mass)

    def total(x: Tensor, v: Tensor) -> Tensor:
        return torch.as_tensor(energy(model, x.numpy())) + 0.5 * torch.einsum("v,nvc->n", mass, v.square())

    levels = [total(x, v)]
    for _ in range(6):
        x, v = sim.step(x, v, rest)
        levels.append(total(x, v))
    assert all(bool((b < a).all()) for a, b in pairwise(levels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stiff_body_stands_where_the_explicit_engine_blows_up(dtype: torch.dtype) -> None:
    """Stiffness x 100, sixty steps of a sixtieth of a second: it comes to rest and the ground carries its weight."""
    model = stiff(100.0)
    x = (torch.as_tensor(model.vertices)[None] + torch.tensor([0.0, 0.02, 0.0])).to(dtype)
    muscle = torch.zeros(1, 2, dtype=dtype)
    y, w = x, torch.zeros_like(x)
    for _ in range(5):
        y, w = engine(model, dtype).step(y, w, muscle)
    assert not bool(y.isfinite().all()) or float(y.abs().max()) > 100.0
    sim = implicit(model, dtype, substeps=1)
    v = torch.zeros_like(x)
    for _ in range(60):
        x, v = sim.step(x, v, muscle)
    assert float(v.abs().max()) < 2e-3
    depth, ramp = (-x[..., 1]).clamp(min=0.0), model.contact.ramp
    shallow = depth.clamp(max=ramp)
    carried = (depth - shallow + shallow.square() / (2.0 * ramp)).sum() * model.contact.stiffness
    assert float(carried) == pytest.approx(9.81 * model.mass.sum(), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stores_capture_and_threads_give_the_same_bits(dtype: torch.dtype) -> None:
    """What is kept, recorded or computed side by side changes no bit of values and gradients."""
    model = block()
    reference = gradients(implicit(model, dtype, store="substep"), 40, GROUND)
    assert all(bool(y.isfinite().all()) for y in reference)
    options: list[dict[str, Any]] = [{"store": "control"}, {"capture": False}, {"store": "control", "capture": False}]
    for option in options:
        for one, two in zip(reference, gradients(implicit(model, dtype, **option), 40, GROUND), strict=True):
            assert torch.equal(one, two), option
    both = ImplicitFemEngine(model, dt=CONTROL / 2, substeps=2, dtype=dtype, threads=2)
    for one, two in zip(reference, gradients(both, 40, GROUND), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("n", [1, 17])
def test_a_batch_equals_its_environments_alone(n: int) -> None:
    """Each environment converges by itself: what shares its pack does not show in one bit."""
    sim = implicit(block(), torch.float32)
    x, v, muscle = states(sim.model, n, GROUND, torch.float32)
    together = sim.step(x, v, muscle)
    for i in range(n):
        alone = sim.step(x[i : i + 1], v[i : i + 1], muscle[i : i + 1])
        assert all(torch.equal(one[i], two[0]) for one, two in zip(together, alone, strict=True))


def test_float32_gradient_is_near_the_float64_one() -> None:
    """Training in float32 sees the gradient that float64 confirms, for a stiff body too."""
    for model in (block(), stiff(100.0)):
        single, double = (gradients(implicit(model, dtype), 5, AIR) for dtype in (torch.float32, torch.float64))
        for one, two in zip(single[1:], double[1:], strict=True):
            assert float((one.double() - two).norm() / two.norm()) < 1e-3


def test_who_does_not_converge_is_marked_and_alone() -> None:
    """A velocity beyond all measure makes its own environment NaN; the others keep their bits."""
    sim = implicit(block(), torch.float32)
    x, v, muscle = states(sim.model, 5, AIR, torch.float32)
    expected, _ = sim.step(x, v, muscle)
    for worst in (float("nan"), 1e15):
        hit = v.clone()
        hit[2, 3] = worst
        found, w = sim.step(x, hit, muscle)
        assert bool(found[2].isnan().all())
        assert bool(w[2].isnan().all())
        others = [0, 1, 3, 4]
        assert torch.equal(found[others], expected[others])


def test_an_unsolved_adjoint_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the transposed system misses its tolerance, the gradient is NaN, never a number that looks right."""
    monkeypatch.setattr(module, "ADJOINT_TOLERANCE", {"float32": 0.0, "float64": 0.0})
    value, *found = gradients(implicit(block(), torch.float32), 3, AIR)
    assert bool(value.isfinite())
    assert all(bool(g.isnan().all()) for g in found)


def test_self_contact_is_refused() -> None:
    """A body with self-contact does not lose it silently."""
    with pytest.raises(UsageError, match="self-contact"):
        implicit(block(self_contact=SelfContact(stiffness=1.0)))
