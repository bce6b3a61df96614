"""The engine end to end: physics one can predict, and gradients by every route."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fem_bodies import DT, SUBSTEPS, block, engine, states
from law_runner import directional_error
from torch import Tensor

from rfo.sim.fem import FemContact, FemEngine

AIR, GROUND = 1.0, -0.004


def rollout(sim: FemEngine, x: Tensor, v: Tensor, *muscles: Tensor) -> tuple[Tensor, Tensor]:
    """One control step for each set of activations."""
    for muscle in muscles:
        x, v = sim.step(x, v, muscle)
    return x, v


def weighted(sim: FemEngine, steps: int = 2) -> object:
    """A smooth scalar of the state after a few steps, to differentiate."""

    def total(x: Tensor, v: Tensor, muscle: Tensor) -> Tensor:
        g = torch.Generator().manual_seed(9)
        x, v = rollout(sim, x, v, *(muscle for _ in range(steps)))
        weights = [torch.randn(y.shape, generator=g, dtype=torch.float64).to(y.dtype) for y in (x, v)]
        return (weights[0] * x).sum() + 0.1 * (weights[1] * v).sum()

    return total


def gradients(sim: FemEngine, n: int, height: float, **options: object) -> list[Tensor]:
    """Values and gradients of a two-step rollout."""
    leaves = [y.requires_grad_() for y in states(sim.model, n, height, sim.dtype)]
    total = weighted(sim)(*leaves)  # type: ignore[operator]
    return [total.detach(), *torch.autograd.grad(total, leaves)]


def test_momentum_is_conserved_without_gravity_and_contact() -> None:
    """Inner forces, muscles included, move no centre of mass."""
    sim = engine(block(gravity=0.0))
    x, v, muscle = states(sim.model, 5, AIR)
    mass = torch.as_tensor(sim.model.mass)
    before = torch.einsum("v,nvc->nc", mass, v)
    x1, v1 = rollout(sim, x, v, muscle, -muscle, muscle)
    after = torch.einsum("v,nvc->nc", mass, v1)
    assert float((after - before).abs().max()) < 1e-12 * float(mass.sum())
    spin, spin1 = (torch.einsum("v,nvc->nc", mass, torch.linalg.cross(a, b)) for a, b in ((x, v), (x1, v1)))
    assert float((spin1 - spin).abs().max()) < 1e-3 * float(spin.abs().max())  # first order in the substep


def test_free_fall() -> None:
    """The centre of mass falls as semi-implicit Euler says: exactly g t²/2 and the half substep it adds."""
    sim = engine(block())
    x = torch.as_tensor(sim.model.vertices)[None] + torch.tensor([0.0, 5.0, 0.0], dtype=torch.float64)
    x1, v1 = rollout(sim, x, torch.zeros_like(x), *(torch.zeros(1, 2, dtype=torch.float64) for _ in range(3)))
    count = 3 * SUBSTEPS
    assert float((v1[..., 1] + 9.81 * DT * count).abs().max()) < 1e-11
    assert float((x1[..., 1] - x[..., 1] + 0.5 * 9.81 * DT**2 * count * (count + 1)).abs().max()) < 1e-11


def test_a_body_comes_to_rest_on_the_ground() -> None:
    """Dropped, it stands still after a second, slightly sunk in, its weight carried."""
    springs = FemContact(stiffness=6e3, damping=1.0, friction=0.8)  # without a ramp, force over depth is the stiffness
    sim = engine(block(contact=springs), dt=1.0 / 60.0 / 20.0, substeps=20)
    x = torch.as_tensor(sim.model.vertices)[None] + torch.tensor([0.0, 0.02, 0.0], dtype=torch.float64)
    v = torch.zeros_like(x)
    for _ in range(90):
        x, v = sim.step(x, v, torch.zeros(1, 2, dtype=torch.float64))
    assert float(v.abs().max()) < 1e-3
    sunk = (-x[..., 1]).clamp(min=0.0).sum() * sim.model.contact.stiffness
    assert float(sunk) == pytest.approx(9.81 * sim.model.mass.sum(), rel=1e-2)


@pytest.mark.parametrize("activation", ["fiber", "volumetric"])
@pytest.mark.parametrize("damping", ["objective", "viscous"])
@pytest.mark.parametrize(("height", "limit"), [(AIR, 1e-6), (GROUND, 1e-4)])
def test_gradient_equals_differences(activation: str, damping: str, height: float, limit: float) -> None:
    """Two control steps in float64: 1e-6 in the air, 1e-4 with feet sliding over the ground."""
    sim = engine(block(activation=activation, damping=damping))
    assert directional_error(weighted(sim), states(sim.model, 3, height), 1e-7) < limit  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stores_capture_and_threads_give_the_same_bits(dtype: torch.dtype) -> None:
    """What is kept, recorded or computed side by side changes no bit of values and gradients."""
    model = block()
    reference = gradients(engine(model, dtype, store="substep"), 40, GROUND)
    for options in (
        {"store": "control"},
        {"store": "auto"},
        {"store": "substep", "capture": False},
        {"store": "control", "capture": False},
        {"threads": 2},
        {"threads": 2, "store": "control"},
    ):
        for one, two in zip(reference, gradients(engine(model, dtype, **options), 40, GROUND), strict=True):
            assert torch.equal(one, two), options


def test_a_limited_store_gives_the_same_bits() -> None:
    """A horizon of which only a part fits in memory mixes kept and repeated steps, unnoticed."""
    model = block()
    full, scant = engine(model, store="substep"), engine(model)
    expected = gradients(full, 9, GROUND)
    scant._simulation._limit = 1  # no step fits
    for one, two in zip(expected, gradients(scant, 9, GROUND), strict=True):
        assert torch.equal(one, two)


def test_environments_are_isolated_exactly() -> None:
    """The gradient of environment i with respect to what environment j does is exactly zero."""
    sim = engine(block(), torch.float32)
    x, v, muscle = states(sim.model, 19, GROUND, torch.float32)
    for i in (0, 7, 15, 16, 18):
        leaf = muscle.clone().requires_grad_()
        x1, v1 = rollout(sim, x, v, leaf, leaf)
        (g,) = torch.autograd.grad(x1[i].sum() + v1[i].sum(), leaf)
        assert float(g[i].abs().max()) > 0.0
        assert float(torch.cat([g[:i], g[i + 1 :]]).abs().max()) == 0.0


@pytest.mark.parametrize("n", [1, 3, 16, 17, 40])
def test_a_batch_equals_its_environments_alone(n: int) -> None:
    """N environments together do what each does alone, padded lanes or not."""
    sim = engine(block(), torch.float32)
    x, v, muscle = states(sim.model, n, GROUND, torch.float32)
    together = rollout(sim, x, v, muscle, muscle)
    for i in range(n):
        alone = rollout(sim, x[i : i + 1], v[i : i + 1], muscle[i : i + 1], muscle[i : i + 1])
        for one, two in zip(together, alone, strict=True):
            assert float((one[i] - two[0]).abs().max()) <= 1e-5 * float(one.abs().max())


@pytest.mark.parametrize("store", ["substep", "control"])
def test_a_second_backward_gives_the_same_gradient(store: str) -> None:
    """A retained graph may be differentiated again, after other work has used the engine."""
    sim = engine(block(), store=store)
    leaves = [y.requires_grad_() for y in states(sim.model, 5, GROUND)]
    total = weighted(sim)(*leaves)  # type: ignore[operator]
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    gradients(sim, 5, AIR)
    second = torch.autograd.grad(total, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_float32_gradient_is_near_the_float64_one() -> None:
    """Training in float32 sees the gradient that float64 confirms."""
    single, double = (gradients(engine(block(), dtype), 5, AIR) for dtype in (torch.float32, torch.float64))
    for one, two in zip(single[1:], double[1:], strict=True):
        assert float((one.double() - two).norm() / two.norm()) < 1e-4


def test_memory_does_not_grow_over_windows() -> None:
    """Workspaces return to the pool when a window's graph is dropped."""
    sim = engine(block(), store="substep", threads=2)
    counts = []
    for _ in range(4):
        gradients(sim, 20, AIR)
        cores = [core for group in sim._simulation._cores.values() for core in group]
        counts.append([(core._stored_count, len(core.free)) for core in cores])
    assert counts[0] == counts[-1]
    assert all(stored == free for stored, free in counts[-1])


def test_inputs_and_outputs_own_their_memory() -> None:
    """A step overwrites neither its inputs nor what an earlier step returned."""
    sim = engine(block())
    x, v, muscle = states(sim.model, 3, AIR)
    kept = x.clone()
    first = sim.step(x, v, muscle)
    copy = first[0].clone()
    sim.step(*first, muscle)
    assert torch.equal(x, kept)
    assert torch.equal(first[0], copy)


def test_an_unused_output_has_no_gradient_of_garbage() -> None:
    """Only the velocity used: the position's adjoint counts as zero, whatever ran before."""
    sim = engine(block())
    leaves = [y.requires_grad_() for y in states(sim.model, 3, AIR)]
    gradients(sim, 3, AIR)
    expected = torch.autograd.grad(sum(y.sum() * w for y, w in zip(sim.step(*leaves), (0.0, 1.0), strict=True)), leaves)
    found = torch.autograd.grad(sim.step(*leaves)[1].sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_inverted_tetrahedra_are_named() -> None:
    """A mesh with a tetrahedron inside out is refused, with its number."""
    from rfo.core.errors import UsageError

    tets = block().tets.copy()
    tets[5] = tets[5, [0, 1, 3, 2]]
    with pytest.raises(UsageError, match="tetrahedron 5 "):
        block(tets=tets)


def test_surface_is_closed_and_encloses_the_volume() -> None:
    """The boundary's divergence integral is the sum of the tetrahedra's volumes."""
    model = block(3, 2, 2)
    a, b, c = (model.vertices[model.surface()[:, i]] for i in range(3))
    assert np.einsum("fi,fi->", a, np.cross(b, c)) / 6.0 == pytest.approx(model.volumes().sum())
