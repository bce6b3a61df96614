"""The transfers for CUDA: their arithmetic against the vectors', on a CPU, and that they compile without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import warp as wp
from mpm_cases import MATERIALS, disturbed, frames, make
from test_mpm_gradients import loss_of
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.kernel import Kernel, lanes_for
from rfo.sim.mpm import Ground, MpmEngine, MpmState, Shape, box, box_shell, capsule, grid
from rfo.sim.mpm.laws import particle_law
from rfo.sim.mpm.limits import MpmLimitError
from rfo.sim.mpm.threads import ThreadKernels

TOOLS: dict[str, tuple[Shape, ...]] = {
    "none": (),
    "one": (capsule(0.03, 0.1),),
    "two": (box((0.04, 0.04, 0.2), 0.01), box((0.04, 0.04, 0.2), 0.005)),
    "shell": (box_shell((0.1, 0.1, 0.1), 0.04),),
    "many": tuple(box((0.02 + 0.002 * i, 0.04, 0.06), 0.01) for i in range(18)),
}


def poses(engine: MpmEngine) -> Tensor:
    """The first tool presses into the block; others stand around it, some where they touch nothing."""
    result = frames(engine, 2).repeat(1, 1, len(engine.model.tools), 1)
    for tool in range(1, len(engine.model.tools)):
        result[:, :, tool, 0] -= 0.06 * (tool % 5)
        result[:, :, tool, 2] += 0.05 * (tool // 5)
    return result


def outcome(engine: MpmEngine, state: MpmState) -> list[Tensor]:
    """A loss after two control steps and its gradients."""
    leaves = [t.clone().requires_grad_() for t in (*state, poses(engine))]
    value = loss_of(engine, 2, bool(engine.model.tools))(*leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [value.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("stray", [False, True])
@pytest.mark.parametrize("tools", ["none", "one", "two", "many"])
def test_threads_compute_what_vectors_do(tools: str, stray: bool) -> None:
    """States and every gradient of two control steps agree to rounding in float64, though drops fly far apart too."""
    found = []
    for transfers in ("vectors", "threads"):
        model = {"tools": TOOLS[tools], "ground": Ground(0.5)}
        engine = make(MATERIALS["plasticine"], model=model, transfers=transfers, substeps=8)
        state = disturbed(engine, n=2)
        if stray:
            state.x[:, 7] += torch.tensor([0.08, 0.1, -0.07], dtype=torch.float64)
            state.x[:, 11] += torch.tensor([-0.06, 0.12, 0.09], dtype=torch.float64)
        found.append(outcome(engine, state))
    assert len(found[0]) == (6 if TOOLS[tools] else 5)
    for vectors, threads in zip(*found, strict=True):
        assert float((vectors - threads).norm()) <= 1e-10 * float(vectors.norm())


def test_tools_left_out_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring only tools that may reach a node gives what measuring all gives."""
    found = []
    for text in (grid._CANDIDATES, grid._CANDIDATES.replace("{far!r}", "1e9")):
        monkeypatch.setattr(grid, "_CANDIDATES", text)
        engine = make(MATERIALS["plasticine"], model={"tools": TOOLS["many"], "ground": Ground(0.5)}, substeps=8)
        found.append(outcome(engine, disturbed(engine, n=2)))
    assert all(torch.equal(some, every) for some, every in zip(*found, strict=True))


def test_threads_see_what_vectors_see() -> None:
    """The largest strain is the same number, and a particle outside the domain is noticed."""
    reached = []
    for transfers in ("vectors", "threads"):
        engine = make(MATERIALS["plasticine"], transfers=transfers)
        state = disturbed(engine, lift=0.03)
        inputs = {**state._asdict(), "flags": state.x.new_zeros(1, 3)}
        inputs["tools"] = state.x.new_zeros(1, *engine.inputs["tools"])
        inputs["figures"] = engine.figures.expand(1, *engine.inputs["figures"])
        flags = engine._simulation.step(inputs)["flags"][0].tolist()
        assert flags[1:] == [0.0, 0.0]
        reached.append(flags[0])
        x = state.x.clone()
        x[0, 3, 1] = 5.0
        with pytest.raises(MpmLimitError, match="left the domain"):
            engine.step(state._replace(x=x))
    assert reached[0] > 0
    assert reached[1] == pytest.approx(reached[0], rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tools", TOOLS)
def test_compiles_for_sm_80_and_sm_90(dtype: str, tools: str, tmp_path: Path) -> None:
    """NVRTC turns the transfers, the grid operation and the law of a particle into PTX for both generations."""
    model = make(MATERIALS["plasticine"], model={"tools": TOOLS[tools]}).model
    kernels = ThreadKernels(model, dtype, 5e-5, 192)
    modules = [kernels.grid.module, kernels.grid_adjoint.module]
    if tools == "none":
        names = ("reset", "search", "clear", "scatter", "gather", "gather_adjoint", "scatter_adjoint")
        modules += [getattr(kernels, name).module for name in names]
        law = particle_law(model.material, 5e-5, model.spacing)
        modules += [
            Kernel(each, dtype, lanes_for(dtype, cuda=True), cuda=True).warp_module()
            for each in (law, law.adjoint(["c", "s"], accumulate=["figures"]))
        ]
    for number, module in enumerate(modules):
        folder = tmp_path / str(number)
        folder.mkdir()
        wp.compile_aot_module(module, arch=[80, 90], module_dir=folder, use_ptx=True)
        assert {path.suffixes[-2] for path in folder.glob("*.ptx")} == {".sm80", ".sm90"}


def test_vectors_are_for_cpus() -> None:
    """An engine for CUDA refuses them in words."""
    with pytest.raises(UsageError, match="run on CPUs only"):
        make(MATERIALS["water"], device="cuda", transfers="vectors")
