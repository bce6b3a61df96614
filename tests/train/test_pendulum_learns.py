"""A task of forty lines in plain torch is trained to its goal: the contract serves a newcomer."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from rfo.core.shell import VectorEnv
from rfo.train.config import load_experiment
from rfo.train.loop import EVALUATION_SEED, Trainer

SECONDS = 60.0
"""Of processor time on one core, so that what else the machine does has no say."""


def test_pendulum_swings_up_and_stays_up(tmp_path: Path) -> None:
    """RFO with the shipped config swings it up within a minute; over the last half of an episode it stands."""
    experiment = load_experiment("pendulum-swingup", {"threads": 1})
    started = time.process_time()
    trainer = Trainer(experiment, tmp_path / "run")
    result = trainer.run()
    assert time.process_time() - started < SECONDS
    wanted = experiment.config.expected_return
    assert result.evaluation is not None
    assert wanted is not None
    assert result.evaluation.return_mean >= wanted
    length = trainer.task.spec.episode_length
    env = VectorEnv(trainer.task, 16, seed=EVALUATION_SEED)
    observation, heights = env.reset(), []
    with torch.no_grad():
        for _ in range(length - 1):  # the last step would begin a new episode
            action = trainer.algorithm.act(observation, deterministic=True, generator=None)
            observation = env.step(action).observation
            heights.append(trainer.task.metrics(env.state)["height"])
    height = torch.stack(heights)
    assert float(height[0].max()) < -0.9  # it begins hanging
    assert float(height[length // 2 :].mean()) > 0.95
