"""The soft bodies that go somewhere: their sizes, their rest, and that they pass their own checks."""

from __future__ import annotations

import pytest
import torch

from rfo.core.check import check_task
from rfo_envs.fem.biped import SoftBiped
from rfo_envs.fem.crawler import SoftCrawler
from rfo_envs.fem.jumper import SoftJumper
from rfo_envs.fem.locomotion import SoftLocomotion
from rfo_envs.fem.starfish import SoftStarfish

SMALL = [SoftBiped, SoftCrawler, SoftJumper]


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
