from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rfo.sim.bridge import Buffer, warp_device
from rfo.sim.kernel import Kernel
from rfo.sim.rigid import RigidEngine, RigidModel
from rfo.sim.rigid.laws import substep_law
from rfo.sim.rigid.model import Parameter
from rfo.sim.simulation import Store

DT = 1e-3
STATES = ("q", "v", "control")


@pytest.fixture(scope="module")
def model(chain_path: Path) -> RigidModel:
    """The chain with contacts between its bodies as well."""
    return RigidModel.from_mjcf(chain_path).with_pairs(
        ("base:0", "slider:0"), ("welded:0", "rover:0"), ("slider:0", "rover:0"), ("base:0", "rover:0")
    )


def _engine(
    model: RigidModel, dtype: torch.dtype = torch.float64, store: Store = "auto", threads: int = 1
) -> RigidEngine:
    return RigidEngine(model, dt=DT, substeps=8, dtype=dtype, store=store, threads=threads)


@pytest.fixture(scope="module")
def engine(model: RigidModel) -> RigidEngine:
    """One engine in float64 for all tests."""
    return _engine(model)


def _state(model: RigidModel, n: int, *, height: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q = torch.as_tensor(model.q_rest).repeat(n, 1) + 0.1 * normal(n, model.q_count)
    q[:, 2] += height - 0.5
    q[:, model.joint["rz"].q_start] += height - 0.3
    for joint in model.joints:
        if joint.kind in ("free", "ball"):
            part = slice(joint.q_start + joint.q_count - 4, joint.q_start + joint.q_count)
            q[:, part] = q[:, part] / q[:, part].norm(dim=1, keepdim=True)
    return tuple(x.to(dtype) for x in (q, normal(n, model.v_count), normal(n, len(model.actuators))))


def _rollout(engine: RigidEngine, q: Tensor, v: Tensor, control: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    for _ in range(steps):
        q, v = engine.step(q, v, control)
    return q, v


def _worst_error(function: Callable[..., Tensor], point: tuple[Tensor, ...], steps: tuple[float, ...]) -> float:
    """Largest relative error over environments of a directional derivative, at the best step size of each."""
    generator = torch.Generator().manual_seed(1)
    leaves = [x.clone().requires_grad_() for x in point]
    gradients = torch.autograd.grad(function(*leaves).sum(), leaves)
    along = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in point]
    exact = sum((g * d).sum(dim=1) for g, d in zip(gradients, along, strict=True))
    errors = []
    for h in steps:
        plus = function(*(x + h * d for x, d in zip(point, along, strict=True)))
        minus = function(*(x - h * d for x, d in zip(point, along, strict=True)))
        errors.append(((plus - minus) / (2 * h) - exact).abs() / exact.abs())
    return float(torch.stack(errors).min(dim=0).values.max())


def _weighted(engine: RigidEngine, steps: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = (engine.model.q_count, engine.model.v_count)
    wq, wv = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)

    def function(q: Tensor, v: Tensor, control: Tensor) -> Tensor:
        q, v = _rollout(engine, q, v, control, steps)
        return q @ wq + 0.1 * (v @ wv)

    return function


def test_kernel_equals_the_law_run_on_numbers(engine: RigidEngine) -> None:
    """The compiled loop repeats what the law does in NumPy, contact included."""
    q, v, control = _state(engine.model, 3, height=0.1)
    after = engine.step(q, v, control)
    law = substep_law(engine.model, DT)
    for i in range(3):
        state = {"q": q[i].numpy(), "v": v[i].numpy()}
        for _ in range(engine.substeps):
            result = law.function(**state, control=control[i].numpy())
            state = {name: np.asarray(result[f"{name}_next"], dtype=float) for name in ("q", "v")}
        np.testing.assert_allclose(after[0][i], state["q"], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(after[1][i], state["v"], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_gradients_in_the_air_equal_differences(engine: RigidEngine, steps: int) -> None:
    """Directional derivatives to state and control are exact where nothing touches."""
    point = _state(engine.model, 6, height=50.0)
    assert _worst_error(_weighted(engine, steps), point, (1e-5, 1e-6, 1e-7)) < 1e-6


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_gradients_in_contact_equal_differences(engine: RigidEngine, steps: int) -> None:
    """The same with bodies pressed on the ground and against each other."""
    point = _state(engine.model, 6, height=0.1)
    assert _worst_error(_weighted(engine, steps), point, (1e-6, 1e-7, 1e-8, 1e-9)) < 1e-3


def test_adjoint_equals_full_reverse_differentiation(engine: RigidEngine) -> None:
    """Solving with the mass matrix instead of differentiating its factorisation changes nothing."""
    model, lanes, steps = engine.model, engine.lanes, engine.substeps
    kernel = Kernel(substep_law(model, DT).adjoint(["q", "v", "control"]), "float64", lanes)
    leaves = [x.requires_grad_() for x in _state(model, lanes, height=0.1)]
    q, v = engine.step(*leaves)
    seeds = [torch.randn_like(q), torch.randn_like(v)]
    found = torch.autograd.grad([q, v], leaves, seeds)

    workspace = engine.workspace(1, None, transient=True)
    for name, leaf in zip(STATES, leaves, strict=True):
        workspace.inputs[name].load(leaf)
    workspace.forward()
    sizes = {"q": model.q_count, "v": model.v_count}
    cpu = torch.device("cpu")
    bars = {name: Buffer(1, size * (steps + 1), lanes, torch.float64, cpu) for name, size in sizes.items()}
    control = Buffer(1, len(model.actuators), lanes, torch.float64, cpu)
    for (name, size), seed in zip(sizes.items(), seeds, strict=True):
        bars[name].entries(size, steps, 1).load(seed)
    arrays = {
        **workspace._arrays,  # type: ignore[attr-defined]
        **{f"bar_{name}": bar.array for name, bar in bars.items()},
        **{f"bar_{name}_next": bar.entries(sizes[name], 1, steps).array for name, bar in bars.items()},
        "bar_control": control.array,
    }
    kernel.launch(arrays, elements=steps, packs=1, device=warp_device(cpu))
    for name, expected in zip(STATES, (bars["q"], bars["v"], control), strict=True):
        exact = torch.empty(lanes, found[STATES.index(name)].shape[1], dtype=torch.float64)
        expected.head(exact.shape[1]).store(exact)
        torch.testing.assert_close(found[STATES.index(name)], exact, rtol=1e-9, atol=1e-10)


def test_stores_and_threads_agree_bitwise(model: RigidModel) -> None:
    """What a step keeps, and how many cores run it, changes no bit, for a number of environments that fills no pack."""
    point = _state(model, 21, height=0.1)
    results = []
    for store, threads in (("substep", 1), ("control", 1), ("substep", 2), ("control", 2)):
        engine = _engine(model, store=store, threads=threads)  # type: ignore[arg-type]
        leaves = [x.clone().requires_grad_() for x in point]
        q, v = _rollout(engine, *leaves, steps=3)
        results.append([q, v, *torch.autograd.grad((q.sin() + v.sum(1, keepdim=True)).sum(), leaves)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_parameters_have_gradients_and_ones_change_nothing(model: RigidModel, engine: RigidEngine) -> None:
    """Factors of masses, frictions and gains act as in a model scaled by them, and their derivatives are exact."""
    names: tuple[Parameter, ...] = ("mass", "friction", "gain")
    varied = RigidEngine(model, dt=DT, substeps=8, dtype=torch.float64, threads=1, parameters=names)
    state = _state(model, 6, height=0.1)
    ones = [torch.ones(6, model.parameter_count(name), dtype=torch.float64) for name in names]
    plain, same = engine.step(*state), varied.step(*state, **dict(zip(names, ones, strict=True)))
    torch.testing.assert_close(plain[1], same[1], rtol=1e-9, atol=1e-10)

    def function(*values: Tensor) -> Tensor:
        q, v = varied.step(*state, **dict(zip(names, values, strict=True)))
        return q.sum(dim=1) + v.square().sum(dim=1)

    assert _worst_error(function, tuple(ones), (1e-5, 1e-6, 1e-7)) < 1e-5
    for i, name in enumerate(names):
        leaf = ones[i].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(*ones[:i], leaf, *ones[i + 1 :]).sum(), leaf)
        assert bool((gradient != 0).any()), name


def test_environments_are_isolated(engine: RigidEngine) -> None:
    """The gradient of one environment to another's control is exactly zero."""
    q, v, control = _state(engine.model, 5, height=0.1)
    control.requires_grad_()
    result = engine.step(q, v, control)[1]
    (gradient,) = torch.autograd.grad(result[2].sum(), control)
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3, 4]].abs().sum() == 0


def test_float32_follows_float64(model: RigidModel, engine: RigidEngine) -> None:
    """Single precision gives the same step and gradient to its accuracy."""
    results = []
    for run, dtype in ((engine, torch.float64), (_engine(model, torch.float32), torch.float32)):
        leaves = [x.requires_grad_() for x in _state(model, 16, height=0.1, dtype=dtype)]
        q, v = run.step(*leaves)
        results.append([q.detach(), v.detach(), *torch.autograd.grad((q.sum() + v.sum()), leaves)])
    for double, single in zip(*results, strict=True):
        assert float((single.double() - double).norm() / double.norm()) < 1e-4


def test_energy_of_a_frictionless_chain_is_kept(tmp_path: Path) -> None:
    """A chain let go at 0.3 rad gains or loses less than 0.5 % of its energy over rest in 10 s at dt 1e-3."""
    path = tmp_path / "swing.xml"
    path.write_text(
        """<mujoco><worldbody><body pos="0 0 2"><joint name="a" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 -.5" size=".04"/>
        <body pos="0 0 -.5"><joint name="b" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 -.5" size=".04"/>
        </body></body></worldbody></mujoco>""",
        encoding="utf-8",
    )
    engine = RigidEngine(RigidModel.from_mjcf(path), dt=1e-3, substeps=100, dtype=torch.float64, threads=1)
    q, v = torch.tensor([[0.3, 0.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    start, rest = _energy(path, q, v), _energy(path, 0.0 * q, v)
    for _ in range(100):
        q, v = engine.step(q, v, torch.zeros(1, 0, dtype=torch.float64))
    assert abs(_energy(path, q, v) - start) < 0.005 * (start - rest)


def _energy(path: Path, q: Tensor, v: Tensor) -> float:
    import mujoco

    source = mujoco.MjModel.from_xml_path(str(path))
    source.opt.enableflags |= int(mujoco.mjtEnableBit.mjENBL_ENERGY)
    data = mujoco.MjData(source)
    data.qpos[:], data.qvel[:] = q[0].numpy(), v[0].numpy()
    mujoco.mj_forward(source, data)
    return float(data.energy.sum())


def test_a_free_body_keeps_its_momentum_and_unit_quaternion(tmp_path: Path) -> None:
    """A tumbling body without gravity flies straight on at constant speed."""
    path = tmp_path / "free.xml"
    path.write_text(
        """<mujoco><option gravity="0 0 0"/><worldbody><body><freejoint/>
        <geom type="box" size=".1 .2 .3" mass="1"/></body></worldbody></mujoco>""",
        encoding="utf-8",
    )
    model = RigidModel.from_mjcf(path)
    engine = RigidEngine(model, dt=1e-3, substeps=100, dtype=torch.float64, threads=1)
    q, v = torch.as_tensor(model.q_rest)[None], torch.tensor([[0.3, -0.2, 0.1, 1.0, 2.0, -1.5]], dtype=torch.float64)
    before = v[:, :3]
    for _ in range(10):
        q, v = engine.step(q, v, torch.zeros(1, 0, dtype=torch.float64))
    assert float((v[:, :3] - before).abs().max()) < 1e-12
    assert abs(float(q[0, 3:].norm()) - 1.0) < 1e-12
