"""The MPM tasks: what they promise, and that an action moves what it should."""

from __future__ import annotations

import pytest
import torch

from rfo.core.shell import VectorEnv
from rfo.core.task import Task
from rfo_envs.mpm.fluid_move import FluidMove, FluidMoveQuick
from rfo_envs.mpm.hand import hand_hinges, hand_links
from rfo_envs.mpm.hand_flip import HandFlip, HandFlipQuick
from rfo_envs.mpm.rolling_flat import RollingFlat, RollingFlatQuick

QUICK: list[type[Task]] = [RollingFlatQuick, FluidMoveQuick, HandFlipQuick]


@pytest.mark.parametrize("task_class", QUICK)
def test_a_step_keeps_what_the_spec_says(task_class: type[Task]) -> None:
    """Observations and state have the promised shapes, and the picture holds meshes."""
    task = task_class(threads=1)
    env = VectorEnv(task, 2)
    env.reset()
    with torch.no_grad():
        transition = env.step(0.5 * torch.ones(2, task.spec.action_dim))
    shapes = {key: tuple(value.shape[1:]) for key, value in transition.observation.items()}
    assert shapes == dict(task.spec.observation_shapes)
    scene = task.scene(env.state, 0)
    assert all(mesh.faces.max() < len(mesh.vertices) for mesh in scene.meshes)
    assert all(len(mesh.colors) == len(mesh.vertices) for mesh in scene.meshes)
    assert len(scene.balls[0].centers) == task.engine.model.particle_count  # type: ignore[attr-defined]


@pytest.mark.parametrize("task_class", QUICK)
def test_the_reward_of_contact_has_a_gradient(task_class: type[Task]) -> None:
    """In the situations of the gradient check a tool touches matter: the reward depends on every action."""
    task = task_class(threads=1)
    situation = task.check_situations(torch.Generator().manual_seed(0), 2)["contact"]
    action = torch.zeros(2, task.spec.action_dim, requires_grad=True)
    after = task.dynamics(situation.state, action)
    (gradient,) = torch.autograd.grad(after["x"].square().sum(), action)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("task_class", "figures"),
    [(RollingFlat, (2592, 48, 40, 5e-5)), (FluidMove, (2880, 48, 40, 5e-4)), (HandFlip, (2500, 48, 40, 5e-5))],
)
def test_published_figures(task_class: type[Task], figures: tuple[int, int, int, float]) -> None:
    """Particles, nodes, substeps and substep are those of the public suite."""
    task = task_class(threads=1)
    engine = task.engine  # type: ignore[attr-defined]
    assert (engine.model.particle_count, engine.model.nodes[0], engine.substeps) == figures[:3]
    assert engine.dt == pytest.approx(figures[3])


def test_an_untouched_block_earns_what_it_should() -> None:
    """At the published size a block that nobody touches earns a quarter per step, 75 in an episode."""
    env = VectorEnv(RollingFlat(threads=1), 1)
    env.reset()
    with torch.no_grad():
        reward = env.step(torch.zeros(1, 3)).reward
    assert float(reward) == pytest.approx(0.25, abs=0.005)


def test_the_pin_flattens() -> None:
    """A pin that presses down and rolls lowers the block."""
    task = RollingFlatQuick(threads=1)
    env = VectorEnv(task, 1)
    env.reset()
    with torch.no_grad():
        for t in range(60):
            env.step(torch.tensor([[1.0 if t % 40 < 20 else -1.0, -1.0, -1.0 if t % 40 < 20 else 1.0]]))
    assert float(task.metrics(env.state)["height"][0]) < 0.05


def test_carried_water_follows_and_is_not_spilt() -> None:
    """Water in a box that moves gently arrives with it."""
    task = FluidMoveQuick(threads=1)
    env = VectorEnv(task, 1)
    env.reset()
    start = env.state["x"].mean(dim=1)
    with torch.no_grad():
        for _ in range(40):
            env.step(torch.tensor([[0.6, 0.2, 0.0]]))
    moved = env.state["x"].mean(dim=1) - start
    assert float(moved[0, 0]) == pytest.approx(0.12, abs=0.02)
    assert float(task.metrics(env.state)["spilt"][0]) < 0.02


def test_the_box_is_tight() -> None:
    """Water in a box at rest, wherever it stands in the grid, neither leaks nor sinks into the bottom."""
    task = FluidMoveQuick(threads=1)
    state = task.initial_state(torch.Generator().manual_seed(0), 3)
    low = (state["x"][..., 1] - state["joint"][:, None, 1]).amin(dim=1)
    shift = torch.tensor([0.0, 0.011, 0.027])
    state["x"] = state["x"] + torch.stack([shift, shift, shift], dim=1)[:, None]
    state["joint"] = state["joint"] + torch.stack([shift, shift, shift], dim=1)
    with torch.no_grad():
        for _ in range(80):
            state = task.dynamics(state, torch.zeros(3, 3))
    assert float(task.spilt(state).max()) < 1e-3
    sunk = low - (state["x"][..., 1] - state["joint"][:, None, 1]).amin(dim=1)
    assert float(sunk.max()) < 0.02


def test_spilt_water_has_a_gradient() -> None:
    """The spill term pulls particles outside the box back in."""
    task = FluidMoveQuick(threads=1)
    state = task.initial_state(torch.Generator().manual_seed(0), 1)
    x = state["x"].clone()
    x[:, 0, 0] = 0.5 * 0.18 + 0.75 * task.wall + 0.01
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(task.spilt({**state, "x": x}).sum(), x)
    assert float(gradient[0, 0, 0]) > 1e-3


def test_the_hand() -> None:
    """24 hinges, parents first; a palm and three links for each of five fingers."""
    hinges, links = hand_hinges(), hand_links()
    assert len(hinges) == 24
    assert len(links) == 16
    assert all(hinge.parent < number for number, hinge in enumerate(hinges))
    assert all(hinge.low < 0.0 < hinge.high for hinge in hinges)


def test_a_slab_out_of_the_hand_earns_nothing() -> None:
    """However folded it lies on the ground, what was thrown out of the hand does not count; in the hand it does."""
    task = HandFlipQuick(dtype=torch.float64, threads=1)
    state = task.initial_state(torch.Generator().manual_seed(0), 2)
    x = state["x"]
    folded = {**state, "x": x.mean(dim=1, keepdim=True) + 0.3 * (x - x.mean(dim=1, keepdim=True))}
    ground = folded["x"][:, :, 1].min() * x.new_tensor([0.0, 1.0, 0.0])
    fallen = {**folded, "x": folded["x"] - ground}
    action = torch.zeros(2, 24, dtype=torch.float64)
    assert float(task.reward(state, action, folded).min()) > 0.65
    assert float(task.reward(state, action, fallen).abs().max()) < 1e-3
