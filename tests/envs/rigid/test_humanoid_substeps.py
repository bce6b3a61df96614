"""Why sixteen substeps are enough for the humanoid: first-order convergence, and stability under wild actions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rfo.sim.rigid import RigidEngine
from rfo_envs.rigid.humanoid import Humanoid


@pytest.fixture(scope="module")
def task() -> Humanoid:
    """The task in float32."""
    return Humanoid(threads=1)


def _actions(generator: torch.Generator, n: int) -> Callable[[], Tensor]:
    return lambda: 2.0 * torch.rand(n, 21, generator=generator, dtype=torch.float64) - 1.0


def test_error_falls_in_proportion_to_the_substep() -> None:
    """Along motions that fall to the ground, 48 substeps leave a third of the error of 16, as first order says.

    Measured against 192 substeps, whose own error of first order takes the ratio to (1/16 - 1/192) / (1/48 - 1/192).
    """
    task, n = Humanoid(dtype=torch.float64, threads=1), 16
    control_dt = task.spec.control_dt
    coarse, medium, fine = (
        RigidEngine(task.model, dt=control_dt / count, substeps=count, dtype=torch.float64, threads=1)
        for count in (16, 48, 192)
    )
    generator = torch.Generator().manual_seed(0)
    state, draw = task.initial_state(generator, n), _actions(generator, n)
    q, v, errors = state["q"], state["v"], []
    for _ in range(60):
        action = draw()
        expected = fine.step(q, v, action)
        errors.append([(engine.step(q, v, action)[0] - expected[0]).abs().mean() for engine in (coarse, medium)])
        q, v = expected
    coarse_error, medium_error = torch.tensor(errors, dtype=torch.float64).mean(dim=0).tolist()
    assert float(q[:, 2].min()) < 0.5  # some lie on the ground
    assert coarse_error < 3e-3
    assert coarse_error / medium_error == pytest.approx(11 / 3, rel=0.15)


def test_wild_actions_never_make_it_burst(task: Humanoid) -> None:
    """A thousand control steps of random torques of full strength, without resets, stay finite and no faster."""
    n = 16
    generator = torch.Generator().manual_seed(0)
    state, draw = task.initial_state(generator, n), _actions(generator, n)
    fastest = torch.zeros(())
    for _ in range(1000):
        state = task.dynamics(state, draw().float())
        fastest = torch.maximum(fastest, state["v"].abs().amax())
    assert float(fastest) < 150.0  # [rad/s]; 192 substeps reach 65 in 60 steps
