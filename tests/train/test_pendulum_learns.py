"""The whole path on the smallest task: RFO swings a pendulum up and holds it."""

from __future__ import annotations

import time
from pathlib import Path

from rfo.train.config import load_experiment
from rfo.train.loop import Trainer


def test_pendulum_is_swung_up_within_a_minute(tmp_path: Path) -> None:
    """A motor too weak to lift the bob learns to swing it up: upright at the end of every episode, on one core."""
    experiment = load_experiment("pendulum-swingup", {"threads": 1, "checkpoint_interval": 0})
    started = time.process_time()  # what one core works, however many others share the machine
    result = Trainer(experiment, tmp_path / "run").run()
    assert time.process_time() - started < 60.0
    assert result.evaluation is not None and experiment.config.expected_return is not None
    assert result.evaluation.return_mean >= experiment.config.expected_return
    assert result.evaluation.metrics["height"] > 0.95
