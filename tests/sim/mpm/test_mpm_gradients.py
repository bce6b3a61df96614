"""Gradients of the MPM engine: against differences, between strategies, and between environments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mpm_cases import MATERIALS, disturbed, frames, make
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.mpm import Ground, MpmEngine, MpmState, box, water
from rfo.sim.mpm.limits import MpmLimitError
from rfo.sim.mpm.tools import quaternion_about, smooth_clamp, tool_frames

SIZES = {"x": 1e-2, "v": 1.0, "c": 10.0, "s": 1e-3, "tools": 1e-2}


def loss_of(engine: MpmEngine, steps: int, tools_used: bool) -> Callable[..., Tensor]:
    """A weighted sum of everything in the last state."""
    generator = torch.Generator().manual_seed(2)
    weights: list[Tensor] = []

    def loss(x: Tensor, v: Tensor, c: Tensor, s: Tensor, tools: Tensor) -> Tensor:
        state = MpmState(x, v, c, s)
        for _ in range(steps):
            state = engine.step(state, tools if tools_used else None)
        if not weights:
            draws = (torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in state)
            weights.extend(draw.to(t.dtype) for draw, t in zip(draws, state, strict=True))
        return torch.stack([(w * t * k).sum() for w, t, k in zip(weights, state, (10, 1, 0.01, 1), strict=True)]).sum()

    return loss


def relative_errors(inputs: list[Tensor], loss: Callable[..., Tensor]) -> dict[str, float]:
    """Smallest relative error over step sizes of one directional derivative for each input."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(loss(*leaves), leaves, allow_unused=True)
    generator = torch.Generator().manual_seed(3)
    errors = {}
    for i, (name, size) in enumerate(SIZES.items()):
        if gradients[i] is None:
            continue
        along = size * torch.randn(inputs[i].shape, generator=generator, dtype=torch.float64)
        exact = float((gradients[i] * along).sum())
        found = []
        for h in (1e-5, 1e-6, 1e-7, 1e-8):
            ends = []
            for sign in (1, -1):
                moved = [t + sign * h * along if k == i else t for k, t in enumerate(inputs)]
                with torch.no_grad():
                    ends.append(float(loss(*moved)))
            found.append(abs((ends[0] - ends[1]) / (2 * h) - exact) / abs(exact))
        errors[name] = min(found)
    return errors


@pytest.mark.parametrize("name", MATERIALS)
def test_gradients_without_contact(name: str) -> None:
    """In the air, through one, four and eight control steps, gradients equal differences to 1e-6."""
    engine = make(MATERIALS[name])
    state = disturbed(engine, lift=0.03)
    for steps in (1, 4, 8):
        errors = relative_errors([*state, frames(engine)], loss_of(engine, steps, False))
        assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize("name", MATERIALS)
@pytest.mark.parametrize("friction", [None, 0.5])
def test_gradients_in_contact(name: str, friction: float | None) -> None:
    """Under the tool and on the ground, through 1, 4 and 8 control steps, to 1e-5; the tool's own gradient too."""
    engine = make(MATERIALS[name], tool=True, model={"ground": Ground(friction)})
    state = disturbed(engine)
    for steps in (1, 4, 8):
        errors = relative_errors([*state, frames(engine)], loss_of(engine, steps, True))
        assert errors.keys() == SIZES.keys()
        assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("name", MATERIALS)
def test_gradients_to_material_parameters(name: str) -> None:
    """Mass, volume and every parameter of every particle have a gradient, equal to differences, where asked for."""
    engine = make(MATERIALS[name], tool=True, parameter_gradients=True)
    state, tools = disturbed(engine), frames(engine)
    figures = engine.figures.expand(1, engine.model.particle_count, -1)
    loss = loss_of(engine, 1, True)
    generator = torch.Generator().manual_seed(4)

    def of(figures: Tensor) -> Tensor:
        after = engine.step(engine.step(state, tools, figures), tools, figures)
        return loss(*after, tools)

    leaf = figures.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of(leaf), leaf)
    for k in range(figures.shape[2]):
        along = torch.zeros_like(figures)
        along[..., k] = figures[..., k] * torch.randn(figures.shape[1], generator=generator, dtype=torch.float64)
        exact = float((gradient * along).sum())
        errors = []
        for h in (1e-4, 1e-5, 1e-6):
            difference = float(of(figures + h * along) - of(figures - h * along)) / (2 * h)
            errors.append(abs(difference - exact) / abs(exact))
        assert min(errors) < 1e-5, (k, errors)
    with pytest.raises(UsageError, match="parameter_gradients"):
        make(MATERIALS[name], tool=True).step(state, tools, leaf)


def test_several_tools_act_each_where_it_is_nearest() -> None:
    """Two boxes at the two ends: each has its gradient, equal to differences."""
    tools = (box((0.04, 0.04, 0.2), 0.01), box((0.04, 0.04, 0.2), 0.005))
    engine = make(MATERIALS["plasticine"], model={"tools": tools})
    state = disturbed(engine)
    both = frames(engine).repeat(1, 1, 2, 1)
    both[:, :, 1, 0] -= 0.06
    both[:, :, 1, 1] += 0.005
    errors = relative_errors([*state, both], loss_of(engine, 2, True))
    assert max(errors.values()) < 1e-4, errors
    leaf = both.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(engine, 2, True)(*state, leaf), leaf)
    assert (gradient.abs().amax(dim=(0, 1, 3)) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strategies_agree_to_the_bit(dtype: torch.dtype) -> None:
    """Storing substeps or control steps, on one thread or two, replayed or eager: the same bits."""
    results = []
    for store, threads, capture in [("substep", 1, True), ("control", 2, True), ("control", 1, False)]:
        engine = make(MATERIALS["plasticine"], tool=True, dtype=dtype, threads=threads, store=store, capture=capture)
        state = disturbed(engine, n=3)
        leaves = [t.clone().requires_grad_() for t in (*state, frames(engine, 3))]
        value = loss_of(engine, 2, True)(*leaves)
        results.append([value.detach(), *torch.autograd.grad(value, leaves)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_environments_do_not_touch_each_other() -> None:
    """Three environments together equal each alone, and no gradient crosses from one to another."""
    engine = make(MATERIALS["plasticine"], tool=True)
    state, tools = disturbed(engine, n=3), frames(engine, 3).requires_grad_()
    after = engine.step(state, tools)
    alone = engine.step(MpmState(*(t[1:2] for t in state)), tools[1:2])
    assert torch.equal(after.x[1:2], alone.x)
    (gradient,) = torch.autograd.grad(after.x[1].sum(), tools)
    assert float(gradient[1].abs().max()) > 0
    assert float(gradient[[0, 2]].abs().max()) == 0


def test_single_precision_gradient() -> None:
    """The float32 gradient to the tool is that of float64 to 1e-3."""
    found = []
    for dtype in (torch.float64, torch.float32):
        engine = make(MATERIALS["plasticine"], tool=True, dtype=dtype)
        leaf = frames(engine).requires_grad_()
        state = disturbed(engine)
        (gradient,) = torch.autograd.grad(loss_of(engine, 4, True)(*state, leaf), leaf)
        found.append(gradient.double())
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-3


def test_what_leaves_the_domain_or_is_torn_is_reported() -> None:
    """Particles outside the grid and strains beyond a law's reach stop the run."""
    engine = make(water(1000.0, 0.3))
    state = disturbed(engine, lift=0.05)
    with pytest.raises(MpmLimitError, match="left the domain"):
        engine.step(state._replace(x=state.x + 1.0))
    engine = make(MATERIALS["plasticine"])
    state = disturbed(engine, lift=0.05)
    with pytest.raises(MpmLimitError, match="try more substeps"):
        engine.step(state._replace(c=state.c * 200.0))
    with pytest.raises(UsageError, match="tools have shape"):
        engine.step(state, torch.zeros(1, 3, 1, 13))


def test_memory_of_a_stored_control_step() -> None:
    """A step that stores control steps keeps 21 numbers for each particle of plasticine, and nothing else."""
    engine = make(MATERIALS["plasticine"], store="control", dtype=torch.float32)
    state = disturbed(engine)
    leaf = state.v.clone().requires_grad_()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        engine.step(state._replace(v=leaf))
    assert sum(kept.values()) <= 1.1 * 4 * 21 * engine.model.particle_count + 4096


def test_smooth_clamp_bends_and_keeps_a_gradient() -> None:
    """Inside it is the identity, outside it stays near the limit and its gradient is positive."""
    x = torch.tensor([0.0, 0.9, 1.02], dtype=torch.float64, requires_grad=True)
    one = torch.ones(3, dtype=torch.float64)
    y = smooth_clamp(x, -one, one, 0.01 * one)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y[0].item() == pytest.approx(0.0, abs=1e-12)
    assert y[2].item() < 1.0
    assert (gradient > 0.1).all()


def test_frames_move_and_turn_evenly() -> None:
    """Velocity and angular velocity are those of the poses, whose quaternions stay of unit length."""
    angle = torch.tensor([[0.3]], dtype=torch.float64)
    x = torch.tensor([[[0.0, 0.1, 0.2]]], dtype=torch.float64)
    result = tool_frames((x, quaternion_about(1, angle)), (x + 0.01, quaternion_about(1, angle + 0.1)), 10, 1e-3)
    assert torch.allclose(result[0, :, 0, 7:10], torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(result[0, :, 0, 10:], torch.tensor([0.0, 10.0, 0.0], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(result[0, :, 0, 3:7].norm(dim=-1), torch.ones(10, dtype=torch.float64))
