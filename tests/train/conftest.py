"""Experiments so small that a test of the loop takes tenths of a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rfo.train.config import Experiment, load_experiment

SMALL: dict[str, Any] = {
    "num_envs": 4,
    "horizon": 4,
    "env_steps": 96,
    "eval_interval": 32,
    "eval_episodes": 2,
    "checkpoint_interval": 0,
    "expected_return": None,
    "actor_hidden": [8, 8],
    "critic_hidden": [8, 8],
    "critic_epochs": 1,
    "flow_steps": 2,
    "threads": 1,
}


@pytest.fixture
def small() -> Callable[..., Experiment]:
    """Returns a function that makes a small experiment: six updates of 16 environment steps."""

    def small(config: str = "pendulum-swingup", **overrides: Any) -> Experiment:
        return load_experiment(config, SMALL | overrides)

    return small
