"""A run that is interrupted and continued is the run that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfo.core.errors import UsageError
from rfo.train.checkpoint import load_checkpoint, save_atomically
from rfo.train.config import Experiment, load_experiment
from rfo.train.logging import read_metrics
from rfo.train.loop import Trainer, load_run

UPDATES = 8
CLOCKS = ("train_s", "env_steps_per_s", "seconds_rollout", "seconds_backward", "seconds_critic")


def _experiment(**overrides: Any) -> Experiment:
    small = {"num_envs": 4, "env_steps": UPDATES * 64, "eval_interval": 128, "eval_episodes": 2, "threads": 1}
    return load_experiment("pendulum-swingup", {**small, "checkpoint_interval": 0, "critic_epochs": 2, **overrides})


def _require_equal(first: Any, second: Any, where: str) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            _require_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            _require_equal(*pair, f"{where}[{index}]")
    elif not where.endswith("train_s"):
        assert first == second, where


def _stop_after(updates: int) -> Any:
    remaining = iter([False] * (updates - 1) + [True])
    return lambda: next(remaining)


def test_interrupted_run_continues_bit_for_bit(tmp_path: Path) -> None:
    """2N updates equal N, a new process's objects, and N: weights, optimisers, environments and logged figures."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert Trainer(_experiment(), whole).run().finished
    assert not Trainer(_experiment(), halves).run(_stop_after(UPDATES // 2)).finished
    assert load_checkpoint(halves)["counters"]["updates"] == UPDATES // 2
    torch.manual_seed(17)  # whatever another process would have done
    resumed = load_experiment(str(halves / "config.yaml"))
    assert Trainer(resumed, halves, resume=True).run().finished
    _require_equal(load_checkpoint(whole), load_checkpoint(halves), "checkpoint")
    rows = [[{k: v for k, v in row.items() if k not in CLOCKS} for row in read_metrics(d)] for d in (whole, halves)]
    assert rows[0] == rows[1]
    assert [row["update"] for row in rows[0]] == list(range(1, UPDATES + 1))


def test_rows_after_the_checkpoint_are_written_anew(tmp_path: Path) -> None:
    """A run that died after its last checkpoint leaves no row twice."""
    run_dir = tmp_path / "run"
    Trainer(_experiment(), run_dir).run(_stop_after(3))
    with open(run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"update": 4, "env_steps": 256}\n{"upda')
    Trainer(_experiment(), run_dir, resume=True).run()
    assert [row["update"] for row in read_metrics(run_dir)] == list(range(1, UPDATES + 1))


def test_two_seeded_runs_are_equal(tmp_path: Path) -> None:
    """The seed decides everything."""
    for name in ("a", "b"):
        Trainer(_experiment(env_steps=128), tmp_path / name).run()
    _require_equal(load_checkpoint(tmp_path / "a"), load_checkpoint(tmp_path / "b"), "checkpoint")


def test_saved_policy_acts_as_the_trained_one(tmp_path: Path) -> None:
    """What `load_run` builds acts like the learner that was saved."""
    trainer = Trainer(_experiment(env_steps=128), tmp_path / "run")
    trainer.run()
    _, task, algorithm = load_run(tmp_path / "run")
    observation = task.observe(task.initial_state(torch.Generator().manual_seed(5), 3))
    options: dict[str, Any] = {"deterministic": True, "generator": None}
    assert torch.equal(algorithm.act(observation, **options), trainer.algorithm.act(observation, **options))


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    """A second run into the same folder is refused, with what to do instead."""
    Trainer(_experiment(), tmp_path / "run")
    with pytest.raises(UsageError, match="--resume"):
        Trainer(_experiment(), tmp_path / "run")


def test_checkpoint_survives_a_failed_write(tmp_path: Path) -> None:
    """A write that fails half-way leaves the old file whole."""
    path = tmp_path / "checkpoint.pt"
    save_atomically({"format": 1, "value": 1}, path)
    with pytest.raises(AttributeError):
        save_atomically({"format": 1, "value": lambda: None}, path)  # cannot be pickled
    assert load_checkpoint(tmp_path)["value"] == 1


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    """A file that is no checkpoint is named as such."""
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        load_checkpoint(tmp_path)


def test_more_than_one_update_per_evaluation_interval(tmp_path: Path) -> None:
    """Evaluations happen when a multiple of the interval is passed, and at the end."""
    Trainer(_experiment(env_steps=5 * 64, eval_interval=130), tmp_path / "run").run()
    evaluated = [row["env_steps"] for row in read_metrics(tmp_path / "run") if "eval/return_mean" in row]
    assert evaluated == [192, 320]


def test_name_does_not_enter_the_result(tmp_path: Path) -> None:
    """Renaming a config changes nothing that is trained."""
    first = _experiment(env_steps=64)
    Trainer(first, tmp_path / "a").run()
    Trainer(replace(first, name="other"), tmp_path / "b").run()
    _require_equal(load_checkpoint(tmp_path / "a"), load_checkpoint(tmp_path / "b"), "checkpoint")
