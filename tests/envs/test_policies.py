"""The trained policies that come along: each can be read, acts, and says what return to expect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rfo.core.shell import VectorEnv
from rfo.train.evaluate import trained_policy
from rfo.train.loop import load_run

FOLDER = Path(__file__).parents[2] / "assets" / "policies"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_a_policy_acts_and_is_small(name: str) -> None:
    """It fits its config, acts within bounds for a few steps, and weighs no more than 2 MB."""
    folder = FOLDER / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2 << 20
    experiment, task, algorithm = load_run(folder, {"threads": 1})
    assert experiment.config.expected_return is not None
    policy = trained_policy(algorithm, deterministic=True, device=task.device, seed=0)
    env = VectorEnv(task, 2, seed=0)
    observation = env.reset()
    with torch.no_grad():
        for _ in range(2):
            action = policy(observation)
            assert bool((action.abs() <= 1.0).all())
            observation = env.step(action).observation
