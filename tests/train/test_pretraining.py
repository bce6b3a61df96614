"""Runs that begin with a data set."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.data.offline import save
from rfo.train import loop
from rfo.train.collect import Quota, baseline_actor, collect
from rfo.train.config import Experiment, resolve
from rfo.train.logging import read_metrics
from rfo.train.loop import Trainer, load_run


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A run of five pretraining updates, two to a row, and then three rows on the environment."""
    monkeypatch.setattr(loop, "PRETRAINING_SLICE", 2)
    task, path = registry.make("pendulum-swingup"), tmp_path / "set.npz"
    save(collect(task, baseline_actor(task, "random", 0), Quota(path, steps=120, envs=2)), path)
    values: dict[str, Any] = {"env": "pendulum-swingup", "algo": "sac-flow", "num_envs": 2, "env_steps": 24}
    values |= {"horizon": 4, "batch_size": 8, "critic_hidden": [8], "actor_hidden": [8], "level_hidden": [8]}
    values |= {"dataset": str(path), "pretrain_updates": 5, "chunk": 3, "learning_starts": 6, "eval_episodes": 2}
    return resolve("small", values, "test")


def _rows(run_dir: Path) -> list[dict[str, float]]:
    timed = ("train_s", "env_steps_per_s", "seconds_")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in read_metrics(run_dir)]


def test_pretraining_is_logged_and_evaluated_before_the_first_step(experiment: Experiment, tmp_path: Path) -> None:
    """Its rows are at environment step 0, the last with an evaluation; then the environment's follow."""
    Trainer(experiment, tmp_path / "run").run()
    rows = _rows(tmp_path / "run")
    assert [row["env_steps"] for row in rows] == [0, 0, 0, 8, 16, 24]
    assert [row.get("pretrain_updates") for row in rows] == [2, 4, 5, None, None, None]
    assert ["eval/return_mean" in row for row in rows] == [False, False, True, False, False, True]
    assert "imitation_loss" in rows[0] and "critic_loss" in rows[-1]


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_stopping_in_and_after_pretraining_changes_nothing(
    experiment: Experiment, tmp_path: Path, stop_after: int
) -> None:
    """A run stopped within pretraining, at its end or later, and resumed, equals one that was not."""
    Trainer(experiment, tmp_path / "whole").run()
    count = iter(range(1, stop_after + 1))
    result = Trainer(experiment, tmp_path / "parts").run(lambda: next(count) == stop_after)
    assert not result.finished
    Trainer(experiment, tmp_path / "parts", resume=True).run()
    assert _rows(tmp_path / "parts") == _rows(tmp_path / "whole")


def test_a_finished_run_acts_without_its_data(experiment: Experiment, tmp_path: Path) -> None:
    """The file may be gone; going on with the training needs it."""
    Trainer(experiment, tmp_path / "run").run()
    Path(experiment.algorithm.dataset).unlink()
    _, task, algorithm = load_run(tmp_path / "run")
    seen = task.observe(task.initial_state(torch.Generator().manual_seed(0), 3))
    assert algorithm.act(copy.copy(seen), deterministic=True, generator=None).shape == (3, 1)
    with pytest.raises(UsageError, match="does not exist"):
        Trainer(experiment, tmp_path / "run", resume=True)


def test_a_missing_data_set_leaves_no_folder(experiment: Experiment, tmp_path: Path) -> None:
    """It is found out before anything is written."""
    Path(experiment.algorithm.dataset).unlink()
    with pytest.raises(UsageError, match="does not exist"):
        Trainer(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()
