"""What stops being finite stops the run, named, with what replays it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rfo.algo.rfo import RFO
from rfo.core.shell import VectorEnv
from rfo.core.task import State
from rfo.train.config import load_experiment
from rfo.train.loop import Trainer, TrainingStoppedError
from rfo_envs.torch.pendulum import PendulumSwingup

SMALL = {"num_envs": 4, "env_steps": 256, "eval_interval": 0, "critic_epochs": 1}


def test_divergence_is_named_and_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, step and tensor are in the message; the dumped step gives the NaN again."""
    original, calls = PendulumSwingup.dynamics, [0]

    def dynamics(self: PendulumSwingup, state: State, action: Tensor) -> State:
        next_state = original(self, state, action)
        calls[0] += 1
        if calls[0] == 5:
            broken = torch.arange(len(action)) == 2
            next_state["rate"] = next_state["rate"].masked_fill(broken, torch.nan)
        return next_state

    monkeypatch.setattr(PendulumSwingup, "dynamics", dynamics)
    with pytest.raises(
        TrainingStoppedError, match=r"pendulum-swingup: 'rate' is not finite in environment 2 .*diverged\.pt"
    ):
        Trainer(load_experiment("pendulum-swingup", SMALL), tmp_path / "run").run()
    dump = torch.load(tmp_path / "run" / "diverged.pt", weights_only=True)
    assert (dump["env_id"], dump["env_index"], dump["tensor"]) == ("pendulum-swingup", 2, "rate")
    assert dump["action"].shape == (4, 1)
    assert not dump["state"]["rate"].isnan().any()
    calls[0] = 4
    replayed = PendulumSwingup().dynamics(dump["state"], dump["action"])
    assert replayed["rate"].isnan().tolist() == [False, False, True, False]


def test_metric_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN among the logged figures is not logged and trained on, but told."""

    def update(self: RFO, env: VectorEnv, progress: float) -> dict[str, float]:
        return {"critic_loss": float("nan")}

    monkeypatch.setattr(RFO, "update", update)
    with pytest.raises(TrainingStoppedError, match="'critic_loss' is nan after 64 environment steps"):
        Trainer(load_experiment("pendulum-swingup", SMALL), tmp_path / "run").run()
