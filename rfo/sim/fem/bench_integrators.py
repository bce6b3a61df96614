"""Explicit against implicit: env-steps per CPU second and error for one body at several stiffnesses, in one process.

    python -m rfo.sim.fem.bench_integrators assets/bodies/soft_quadruped_quick.npz

Sixteen environments fall 1 cm and move their muscles for half a second; float32, one thread, moduli times 1 to 1000,
everything else unchanged. The explicit engine takes the fewest substeps with which it stays within 5 cm of the
reference. The error is the root mean square of the vertices' distance from the reference: the explicit engine in
float64 with four times as many substeps.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rfo.sim.fem.contact import FemContact
from rfo.sim.fem.engine import FemEngine, FemPhysics
from rfo.sim.fem.implicit import ImplicitFemEngine
from rfo.sim.fem.mesh import SoftBody
from rfo.sim.fem.model import FemModel

__all__ = ["main"]

STIFFNESSES = (1.0, 10.0, 100.0, 1000.0)
IMPLICIT_SUBSTEPS = (1, 4, 16)
N, STEPS, GRADIENT_STEPS, CONTROL_DT = 16, 30, 16, 1.0 / 60.0


def _model(body: SoftBody, factor: float) -> FemModel:
    return body.model(
        mu=5.36e4 * factor,
        lam=2.14e5 * factor,
        eta=100.0,
        strength=4e4,
        contact=FemContact(stiffness=8000.0, damping=1.0, friction=0.9),
        damping="objective",
    )


def _engine(kind: type[FemPhysics], model: FemModel, substeps: int, dtype: torch.dtype = torch.float32) -> FemPhysics:
    return kind(model, dt=CONTROL_DT / substeps, substeps=substeps, dtype=dtype, threads=1, store="substep")


def _rollout(engine: FemPhysics, steps: int, *, gradient: bool = False) -> Tensor:
    """Vertices after some control steps; with a gradient of them to every activation, which must be finite."""
    x = torch.as_tensor(engine.model.vertices, dtype=engine.dtype).repeat(N, 1, 1)
    x[..., 1] += 0.01
    v = torch.zeros_like(x)
    generator = torch.Generator().manual_seed(0)
    phase = 2.0 * math.pi * torch.rand(N, engine.model.muscle_count, generator=generator, dtype=torch.float64)
    muscles = [
        torch.sin(phase + 4.0 * math.pi * CONTROL_DT * t).to(engine.dtype).requires_grad_(gradient)
        for t in range(steps)
    ]
    for muscle in muscles:
        x, v = engine.step(x, v, muscle)
    if gradient:
        found = torch.autograd.grad(x[..., 0].mean() + v.mean(), muscles)
        if not all(bool(g.isfinite().all()) for g in found):
            raise FloatingPointError("a gradient is not finite")
    return x.detach().double()


def _rate(run: Callable[[], object], steps: int) -> float:
    """Control steps of all environments per CPU second, the best of three runs after one to warm up."""
    run()
    best = math.inf
    for _ in range(3):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return N * steps / best


def _fewest_substeps(model: FemModel, factor: float) -> tuple[int, Tensor]:
    """The explicit engine's fewest stable substeps, in steps of a tenth, and the reference."""
    fine = math.ceil(40 * math.sqrt(factor))
    reference = _rollout(_engine(FemEngine, model, fine), STEPS)
    substeps = stable = fine
    while substeps > 2:
        error = (_rollout(_engine(FemEngine, model, substeps), STEPS) - reference).square().mean().sqrt()
        if not float(error) < 0.05:  # nor if it is not a number
            break
        stable, substeps = substeps, int(substeps / 1.1)
    return stable, _rollout(_engine(FemEngine, model, 4 * stable, torch.float64), STEPS)


def main() -> None:
    """Prints the table of docs/fem.md."""
    torch.set_num_threads(1)
    body = SoftBody.load(Path(sys.argv[1]))
    print("| stiffness | integrator | substeps | error [mm] | forward /s | forward + backward /s |")
    print("|---|---|---|---|---|---|")
    for factor in STIFFNESSES:
        model = _model(body, factor)
        stable, reference = _fewest_substeps(model, factor)
        runs = [("explicit", FemEngine, stable)] + [("implicit", ImplicitFemEngine, n) for n in IMPLICIT_SUBSTEPS]
        for name, kind, substeps in runs:
            engine = _engine(kind, model, substeps)
            error = 1e3 * float((_rollout(engine, STEPS) - reference).square().sum(dim=2).mean().sqrt())
            forward = _rate(lambda engine=engine: _rollout(engine, STEPS), STEPS)  # type: ignore[misc]
            both = _rate(lambda engine=engine: _rollout(engine, GRADIENT_STEPS, gradient=True), GRADIENT_STEPS)  # type: ignore[misc]
            print(f"| x {factor:g} | {name} | {substeps} | {error:.2g} | {forward:,.0f} | {both:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
