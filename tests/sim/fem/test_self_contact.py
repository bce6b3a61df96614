"""Parts of a body that meet: they keep out of each other, conserve momentum, and differentiate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fem_bodies import DT, block, engine
from law_runner import directional_error
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.fem import FemModel, SelfContact
from rfo.sim.fem.mesh import split_cells
from rfo.sim.fem.self_contact import Patches, pair_law

CONTACT = SelfContact(stiffness=2e4)
CELLS = np.array([[i, j, k] for i in (0, 1, 3, 4) for j in (0, 1) for k in (0, 1)])
LEFT = 0.25


def pair_of_blocks(**changes: Any) -> FemModel:
    """One body of two blocks of 0.2 m, 0.1 m apart along x and far above the ground, without gravity."""
    corners, tets = split_cells(CELLS)
    ones, count = np.ones(len(tets)), len(tets)
    body: dict[str, Any] = {
        "vertices": 0.1 * corners + np.array([0.0, 5.0, 0.0]),
        "tets": tets,
        "muscle_of": np.full(count, -1),
        "fiber": np.tile([1.0, 0.0, 0.0], (count, 1)),
        "mu": 4e4 * ones,
        "lam": 9e4 * ones,
        "eta": 60.0 * ones,
        "strength": 0.0 * ones,
        "gravity": 0.0,
        "self_contact": CONTACT,
    }
    return block(**{**body, **changes})


def meeting(model: FemModel, n: int, nearer: float = 0.0, speed: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """States in which the blocks, shaken a little and askew, move towards each other."""
    g = torch.Generator().manual_seed(2)
    rest = torch.as_tensor(model.vertices)
    right = rest[:, 0] > LEFT
    x, v = (size * torch.randn(n, *rest.shape, generator=g, dtype=torch.float64) for size in (0.004, 0.1))
    x = x + rest
    x[:, right] += torch.tensor([-nearer, 0.03, 0.02], dtype=torch.float64)
    v[..., 0] += torch.where(right, -speed, speed)
    return x, v, torch.zeros(n, 0, dtype=torch.float64)


def gap(model: FemModel, x: Tensor) -> float:
    """Least distance along x between the blocks, negative where they overlap [m]."""
    right = torch.as_tensor(model.vertices[:, 0] > LEFT)
    return float((x[:, right, 0].amin(dim=1) - x[:, ~right, 0].amax(dim=1)).min())


def rollout(model: FemModel, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """States of a collision."""
    sim = engine(model)
    x, v, muscle = meeting(model, 3)
    yield x, v
    for _ in range(steps):
        x, v = sim.step(x, v, muscle)
        yield x, v


@pytest.mark.parametrize(("contact", "apart"), [(CONTACT, True), (None, False)])
def test_parts_pressed_together_keep_apart(contact: SelfContact | None, apart: bool) -> None:
    """Blocks of 8 kg that meet at 2 m/s bounce off each other; without self-contact they pass."""
    model = pair_of_blocks(self_contact=contact)
    assert (min(gap(model, x) for x, _ in rollout(model, 16)) > 0.0) == apart


def test_momentum_and_angular_momentum_are_conserved() -> None:
    """An oblique collision changes neither, to rounding."""
    model = pair_of_blocks()
    mass = torch.as_tensor(model.mass)
    states = list(rollout(model, 12))
    linear = torch.stack([torch.einsum("v,nvc->nc", mass, v) for _, v in states])
    spin = torch.stack([torch.einsum("v,nvc->nc", mass, torch.linalg.cross(x, v)) for x, v in states])
    halves = model.vertices[:, 0] < LEFT
    turned = states[-1][1][:, torch.as_tensor(halves), 0].mean()
    assert float(turned) < 0.0  # there was a collision
    assert float((linear - linear[0]).abs().max()) < 1e-12 * float(mass.sum())
    assert float((spin - spin[0]).abs().max()) < 1e-12 * float(mass.sum() * 5.0)


def test_energy_is_not_created() -> None:
    """What the blocks have after a collision is less than before."""
    states = list(rollout(pair_of_blocks(), 25))
    energy = [float((v * v).sum()) for _, v in (states[0], states[-1])]
    assert energy[1] < energy[0]


@pytest.mark.parametrize(("nearer", "limit"), [(0.0, 1e-6), (0.06, 1e-4)])
def test_gradient_equals_differences(nearer: float, limit: float) -> None:
    """Three control steps, before the parts touch and while they press on each other."""
    model = pair_of_blocks()
    sim, free = engine(model), engine(pair_of_blocks(self_contact=None))
    x, v, muscle = meeting(model, 9, nearer, speed=1.0 if nearer else 0.05)
    assert torch.equal(sim.step(x, v, muscle)[0], free.step(x, v, muscle)[0]) == (nearer == 0.0)
    weights = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def total(x: Tensor, v: Tensor) -> Tensor:
        for _ in range(3):
            x, v = sim.step(x, v, muscle)
        return (weights[0] * x).sum() + 0.1 * (weights[1] * v).sum()

    assert directional_error(total, (x, v), 1e-7) < limit


def brute_force(model: FemModel, x: np.ndarray, v: np.ndarray, allowed: np.ndarray, radius: float) -> np.ndarray:
    """Forces of every allowed pair, one by one."""
    law, f = pair_law(radius), np.zeros_like(x)
    assert model.self_contact is not None
    figures = np.array([model.self_contact.stiffness, model.self_contact.damping])
    rest = np.linalg.norm(model.vertices[:, None] - model.vertices, axis=2)
    for env in range(len(x)):
        for i, j in np.argwhere(np.triu(allowed)):
            if np.linalg.norm(x[env, i] - x[env, j]) < radius:
                pair = [i, j]
                reach = min(radius, rest[i, j])
                f[env, pair] += law.function(x=x[env, pair], v=v[env, pair], reach=reach, self_contact=figures)["f"]
    return f


def allowed_pairs(model: FemModel, hops: int) -> np.ndarray:
    """Which pairs of surface vertices are more than so many edges apart, by powers of the adjacency matrix."""
    adjacent = np.eye(len(model.vertices), dtype=bool)
    for tet in model.tets:
        adjacent[np.ix_(tet, tet)] = True
    near = np.linalg.matrix_power(adjacent.astype(float), hops) > 0
    outer = np.isin(np.arange(len(model.vertices)), model.surface())
    return ~near & outer[:, None] & outer


@pytest.mark.parametrize("build", [pair_of_blocks, lambda **changes: block(7, 4, 4, gravity=0.0, **changes)])
def test_forces_are_those_of_all_pairs(build: Callable[..., FemModel]) -> None:
    """Crumpled bodies, other pairs near in every environment: patches and blocks leave out nothing, and count once."""
    contact = SelfContact(stiffness=50.0, damping=0.7, radius=0.13, hops=2)
    zeros = np.zeros(len(build().tets))
    limp = {"mu": zeros, "lam": zeros, "eta": zeros, "strength": zeros, "material": "st-venant-kirchhoff"}
    model = build(**limp, self_contact=contact)
    model = replace(model, vertices=model.vertices + np.array([0.0, 5.0, 0.0]))
    g = np.random.default_rng(4)
    x = model.vertices + 0.05 * g.standard_normal((9, *model.vertices.shape))
    v = g.standard_normal(x.shape)
    sim = engine(model, dt=1e-3, substeps=1)
    muscle = torch.zeros(9, model.muscle_count, dtype=torch.float64)
    _, after = sim.step(torch.as_tensor(x), torch.as_tensor(v), muscle)
    found = (after.numpy() - v) * model.mass[:, None] / 1e-3
    expected = brute_force(model, x, v, allowed_pairs(model, 2), 0.13)
    assert (np.abs(expected).max(axis=(1, 2)) > 0.1).all()
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("hops", [1, 3])
def test_patches_hold_every_pair_once(hops: int) -> None:
    """The bits are the pairs of surface vertices that are more than `hops` edges apart."""
    model = block(5, 3, 3)
    patches = Patches.of(model.vertices, model.tets, model.surface(), replace(CONTACT, hops=hops))
    count = np.zeros((len(model.vertices),) * 2, dtype=int)
    for (a, b), mask in zip(patches.pairs, patches.masks.tolist(), strict=True):
        for bit in range(64):
            if mask >> bit & 1:
                count[patches.members[a, bit // 8], patches.members[b, bit % 8]] += 1
    assert ((count + count.T) == allowed_pairs(model, hops)).all()


def test_a_body_at_rest_feels_nothing() -> None:
    """Vertices nearer than the radius at rest keep their distance at rest: no bit of a still body changes."""
    model = pair_of_blocks(self_contact=SelfContact(stiffness=1e4, radius=0.3, hops=1))
    x = torch.as_tensor(model.vertices)[None]
    moved = [engine(m).step(x, 0.0 * x, torch.zeros(1, 0)) for m in (model, replace(model, self_contact=None))]
    assert torch.equal(moved[0][1], moved[1][1])


def results(model: FemModel, dtype: torch.dtype, n: int, **options: Any) -> list[Tensor]:
    """State and gradients after two steps of a collision."""
    sim = engine(model, dtype, **options)
    x, v, muscle = (y.to(dtype) for y in meeting(model, n, 0.06))
    leaves = [x.requires_grad_(), v.requires_grad_()]
    y, w = sim.step(*sim.step(*leaves, muscle), muscle)
    return [y.detach(), w.detach(), *torch.autograd.grad((y * y).sum() + w.sum(), leaves)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stores_threads_and_batches_agree(dtype: torch.dtype) -> None:
    """Repeated or kept, on one core or two, captured or not: the same bits; and one environment alone does the same."""
    model = pair_of_blocks()
    reference = results(model, dtype, 19, store="substep")
    for options in ({"store": "control"}, {"threads": 2}, {"capture": False}):
        for one, two in zip(reference, results(model, dtype, 19, **options), strict=True):
            assert torch.equal(one, two), options
    sim = engine(model, dtype)
    x, v, muscle = (y.to(dtype) for y in meeting(model, 19, 0.06))
    for i in (0, 7, 18):
        alone = (y[i : i + 1] for y in (x, v, muscle))
        y, _ = sim.step(*sim.step(*alone), muscle[:1])
        assert float((y[0] - reference[0][i]).abs().max()) <= 1e-6 * float(y.abs().max())


def test_unusable_figures_are_refused() -> None:
    """A radius or a number of hops that means nothing is named."""
    with pytest.raises(UsageError, match="positive radius, got 3 and -1"):
        SelfContact(stiffness=1.0, radius=-1.0)


def test_operations_count_the_broad_phase() -> None:
    """Self-contact off adds nothing to a step; on, it adds the comparison of patches."""
    on, off = (engine(pair_of_blocks(self_contact=c), dt=DT).operations() for c in (CONTACT, None))
    assert all(a > b for a, b in zip(on, off, strict=True))
