"""The soft bodies that go somewhere: their sizes, their rest, and that they pass their own checks."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from rfo.core.check import check_task
from rfo.core.check_gradient import check_gradients
from rfo.core.task import CheckSituation, State
from rfo.sim.fem import SelfContact
from rfo_envs.fem.biped import BonedBiped, SoftBiped
from rfo_envs.fem.crawler import SoftCrawler
from rfo_envs.fem.jumper import SoftJumper
from rfo_envs.fem.locomotion import Flesh, SoftLocomotion
from rfo_envs.fem.starfish import SoftStarfish

SMALL = [SoftBiped, SoftCrawler, SoftJumper]


class SolidBiped(SoftBiped):
    """The biped with legs that cannot pass through each other."""

    flesh: ClassVar[Flesh] = replace(SoftBiped.flesh, self_contact=SelfContact(stiffness=8000.0))

    def check_situations(self, generator: torch.Generator, n: int) -> dict[str, CheckSituation]:
        """Legs that beat against each other in the air."""
        return {"legs": CheckSituation(kicked(self, n), limit=1e-4, steps=3)}


def kicked(task: SoftBiped, n: int) -> State:
    """Two metres over the ground, both shanks thrown towards each other at 3 m/s."""
    state = task.initial_state(torch.Generator().manual_seed(0), n)
    inward = torch.sign(0.25 - task._rest[:, 2]) * (task._rest[:, 1] < 0.25)
    speed = 3.0 * inward[:, None] * task._rest.new_tensor([0.0, 0.0, 1.0])
    return {**state, "x": state["x"] + task._rest.new_tensor([0.0, 2.0, 0.0]), "v": state["v"] + speed}


@pytest.mark.parametrize(
    ("task", "tets"), [(SoftBiped, 370), (SoftCrawler, 300), (SoftJumper, 220), (SoftStarfish, 5280)]
)
def test_bodies_have_their_size_and_rest_on_the_ground(task: type[SoftLocomotion], tets: int) -> None:
    """Each body is what its description says, settles upright, and its surface is drawn."""
    made = task()
    assert len(made.model.tets) == tets
    assert made.model.muscle_count == made.spec.action_dim
    state = made.initial_state(torch.Generator().manual_seed(0), 2)
    assert -0.02 < float(state["x"][..., 1].min()) < 0.0
    assert float(made.metrics(state)["up"].min()) > 0.9
    assert made.observe(state)["body"].shape == (2, *made.spec.observation_shapes["body"])
    assert len(made.scene(state, 1).meshes[0].faces) == len(made.model.surface())


@pytest.mark.parametrize("task", SMALL)
def test_check_passes(task: type[SoftLocomotion]) -> None:
    """`rfo check` passes: contract, isolation, and gradients in the air and in contact."""
    report = check_task(task)
    assert report.passed, [check for check in report.checks if not check.passed]


def test_check_passes_on_a_large_body() -> None:
    """The same for 5,280 tetrahedra resting on hundreds of vertices, with a few environments."""
    report = check_task(SoftStarfish, n=3)
    assert report.passed, [check for check in report.checks if not check.passed]


def test_check_passes_with_the_implicit_engine() -> None:
    """Bones a thousand times as stiff as flesh, two substeps per control step."""
    report = check_task(BonedBiped, n=9)
    assert report.passed, [check for check in report.checks if not check.passed]


@pytest.mark.parametrize(("task", "apart"), [(SolidBiped, True), (SoftBiped, False)])
def test_legs_keep_apart_where_the_flesh_says_so(task: type[SoftBiped], apart: bool) -> None:
    """One field of a task's flesh turns self-collision on; without it the legs pass through each other."""
    made = task()
    state, least = kicked(made, 2), 1.0
    legs = [(made._rest[:, 1] < 0.25) & side for side in (made._rest[:, 2] < 0.25, made._rest[:, 2] > 0.25)]
    with torch.no_grad():
        for _ in range(12):
            state = made.dynamics(state, torch.zeros(2, 8))
            z = state["x"][..., 2]
            least = min(least, float((z[:, legs[1]].amin(dim=1) - z[:, legs[0]].amax(dim=1)).min()))
    assert (least > 0.0) == apart


def test_gradients_hold_while_legs_collide() -> None:
    """`rfo check`'s comparison of gradients with differences, with both legs pressed against each other."""
    task = SolidBiped(dtype=torch.float64)
    checks = list(check_gradients(SolidBiped, task, None, 5, 0))
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


def test_the_jumper_is_paid_for_leaving_the_ground() -> None:
    """A body 0.1 m above its rest earns 2.5 more; one whose head alone is higher, a fifth of it for the same height."""
    task = SoftJumper()
    state = task.initial_state(torch.Generator().manual_seed(0), 1)
    action, rest = torch.zeros(1, 4), state["x"]
    lifted = {**state, "x": rest + torch.tensor([0.0, 0.1, 0.0])}
    gain = task.reward(state, action, lifted) - task.reward(state, action, state)
    assert gain.item() == pytest.approx(2.5, abs=1e-4)
    assert task.metrics(lifted)["clearance"].item() == pytest.approx(0.1, abs=1e-5)
    lowest = rest[..., 1].amin()
    stretched = {
        **state,
        "x": rest + torch.stack([0.0 * rest[..., 0], 0.2 * (rest[..., 1] - lowest), 0.0 * rest[..., 2]], -1),
    }
    height = task.metrics(stretched)["height"].item()
    assert task.metrics(stretched)["clearance"].item() == pytest.approx(0.0, abs=1e-5)
    gain = task.reward(state, action, stretched) - task.reward(state, action, state)
    assert gain.item() < 5.0 * height
