"""The soft-body tasks: their bodies, the meaning of what they observe and pay, and that they pass their own checks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rfo.core.check import check_task
from rfo.core.shell import VectorEnv
from rfo_envs.fem.quadruped import SoftQuadruped
from rfo_envs.fem.quadruped_quick import SoftQuadrupedQuick


@pytest.fixture(scope="module")
def full() -> SoftQuadruped:
    """The published task."""
    return SoftQuadruped()


@pytest.fixture(scope="module")
def quick() -> SoftQuadrupedQuick:
    """The task of the demo."""
    return SoftQuadrupedQuick()


def test_full_body_has_the_published_size(full: SoftQuadruped) -> None:
    """204 vertices, 444 tetrahedra, 404 surface triangles, 222 activations, density 1."""
    model = full.model
    assert (len(model.vertices), len(model.tets), len(model.surface()), model.muscle_count) == (204, 444, 404, 222)
    assert model.mass.sum() == pytest.approx(model.volumes().sum())
    assert model.muscle_count == full.spec.action_dim
    assert (full.substeps, full.spec.episode_length) == (80, 300)


def test_quick_body_has_the_size_of_the_pilot(quick: SoftQuadrupedQuick) -> None:
    """102 vertices, 160 tetrahedra, 32 kg, and eight muscles of four tetrahedra each."""
    model = quick.model
    assert (len(model.vertices), len(model.tets), model.mass.sum()) == (102, 160, pytest.approx(32.0))
    assert np.bincount(model.muscle_of[model.muscle_of >= 0]).tolist() == [4] * 8


@pytest.mark.parametrize("body", ["full", "quick"])
def test_surface_is_closed_and_faces_outward(body: str, request: pytest.FixtureRequest) -> None:
    """The volume inside the surface triangles is the volume of the tetrahedra."""
    model = request.getfixturevalue(body).model
    a, b, c = model.vertices[model.surface()].transpose(1, 0, 2)
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0 == pytest.approx(model.volumes().sum())


def test_quick_observation_follows_the_body(quick: SoftQuadrupedQuick) -> None:
    """A shift changes the height only, a speed appears as a velocity, and axes are unit vectors of the rest shape."""
    state = quick.initial_state(torch.Generator().manual_seed(0), 3)
    state = {**state, "v": torch.zeros_like(state["v"]) + torch.tensor([0.3, -0.2, 0.1])}
    seen = quick.observe(state)["body"]
    moved = quick.observe({**state, "x": state["x"] + torch.tensor([1.0, 0.5, -2.0])})["body"]
    difference = moved - seen
    feet_height = list(range(13 + 24 + 3 + 12, 13 + 24 + 3 + 12 + 4))
    assert torch.allclose(difference[:, 0], torch.tensor(2.5))
    assert torch.allclose(difference[:, feet_height], torch.tensor(5.0), atol=1e-5)
    rest = [i for i in range(seen.shape[1]) if i not in (0, *feet_height)]
    assert torch.allclose(difference[:, rest], torch.tensor(0.0), atol=1e-5)
    assert torch.allclose(seen[:, 1:4], torch.tensor([0.3, -0.2, 0.1]), atol=1e-5)
    axes = quick.observe({**state, "x": quick._rest.expand(3, -1, -1)})["body"][:, 4:13]
    assert torch.allclose(axes, torch.tensor([0.0, 1, 0, 1, 0, 0, 0, 0, 1]), atol=1e-6)


def test_quick_reward_is_speed_less_effort_and_tilt(quick: SoftQuadrupedQuick) -> None:
    """An upright body that moves 1/60 m per step earns 1 m/s less the effort; a fallen one loses 1.2."""
    rest = {"x": quick._rest[None], "v": quick._rest[None] * 0}
    action = torch.full((1, 8), 0.5)
    ahead = {**rest, "x": rest["x"] + torch.tensor([1.0 / 60.0, 0.0, 0.0])}
    assert quick.reward(rest, action, ahead).item() == pytest.approx(1.0 - 0.05 * 0.25, abs=1e-4)
    x, y, z = rest["x"].unbind(-1)
    fallen = {**rest, "x": torch.stack([x, z, -y], dim=-1)}  # rolled onto its side: up now points along -z
    gained = quick.reward(fallen, torch.zeros(1, 8), fallen)
    assert gained.item() == pytest.approx(-1.2, abs=1e-4)


def test_quick_body_stands_still_without_action(quick: SoftQuadrupedQuick) -> None:
    """Settled and passive for five seconds, it stays upright within 15 cm of where it was."""
    env = VectorEnv(quick, 4)
    env.reset()
    start = quick.position(env.state)
    with torch.no_grad():
        for _ in range(299):
            env.step(torch.zeros(4, 8))
    assert (quick.position(env.state) - start).abs().max() < 0.15
    assert quick.metrics(env.state)["up"].min() > 0.95


def test_full_reward_is_the_published_one(full: SoftQuadruped) -> None:
    """10 v_x + 30 (height - start height) in tenths of metres, less 0.001 Σ a²."""
    x = full._rest[None]
    still = {"x": x, "v": torch.zeros_like(x)}
    following = {"x": x + torch.tensor([0.0, 0.5, 0.0]), "v": still["v"] + torch.tensor([2.0, 0.0, 0.0])}
    action = torch.full((1, 222), 0.5)
    assert full.reward(still, action, following).item() == pytest.approx(2.0 + 1.5 - 0.001 * 222 * 0.25, abs=1e-4)


def test_full_reset_is_drawn_as_published(full: SoftQuadruped) -> None:
    """Offsets of at most 0.8 m sideways and 0.4 m up, and sizes within a tenth."""
    x = full.initial_state(torch.Generator().manual_seed(0), 500)["x"]
    size = (x.amax(dim=1) - x.amin(dim=1)) / (full._rest.amax(dim=0) - full._rest.amin(dim=0))
    assert 0.9 <= size.min() < 0.91 and 1.09 < size.max() <= 1.1
    assert 0.7 < x.mean(dim=1)[:, [0, 2]].abs().max() <= 0.81
    assert x[..., 1].amin() >= 0.9 * full.start_height - 1e-6


@pytest.mark.parametrize("task", [SoftQuadruped, SoftQuadrupedQuick])
def test_check_passes(task: Callable[..., object]) -> None:
    """`rfo check` passes: contract, isolation, and gradients in the air and in contact."""
    report = check_task(task)
    assert report.passed, [check for check in report.checks if not check.passed]
