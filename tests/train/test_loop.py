"""Runs: what they leave behind, that they repeat and continue bit for bit, and how they end early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rfo.cli import main
from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.core.task import State
from rfo.train.checkpoint import CHECKPOINT_FORMAT, load_checkpoint, save_atomically
from rfo.train.config import Experiment, load_experiment
from rfo.train.logging import read_metrics
from rfo.train.loop import Trainer, TrainingStoppedError, load_run
from rfo_envs.fem.quadruped_quick import SoftQuadrupedQuick
from rfo_envs.torch.pendulum import PendulumSwingup

Small = Callable[..., Experiment]

UPDATES = 6


class Diverging(PendulumSwingup):
    """A pendulum that breaks when the third environment has made five steps."""

    spec = replace(PendulumSwingup.spec, id="diverging")

    def initial_state(self, generator: torch.Generator, n: int) -> State:
        """Counts steps besides."""
        return {**super().initial_state(generator, n), "count": torch.zeros(n, dtype=self.dtype)}

    def dynamics(self, state: State, action: Tensor) -> State:
        """Breaks."""
        count = state["count"] + 1.0
        moved = super().dynamics(state, action)
        broken = (count == 5.0) & (torch.arange(len(count)) == 2)
        return {**moved, "rate": moved["rate"].where(~broken, torch.nan), "count": count}


def _without_times(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    timed = ("train_s", "env_steps_per_s", "seconds_")
    return [{key: value for key, value in row.items() if not key.startswith(timed)} for row in rows]


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)


def _content(run_dir: Path) -> dict[str, Any]:
    content = load_checkpoint(run_dir)
    content["counters"]["train_s"] = 0.0
    del content["rng"]  # of the whole process: a run draws from generators of its own
    return content


def _after(updates: int) -> Callable[[], bool]:
    count = iter(range(1, updates + 1))
    return lambda: next(count) == updates


def _assert_same_run(first: Path, second: Path) -> None:
    assert _without_times(read_metrics(first)) == _without_times(read_metrics(second))
    assert _equal(_content(first), _content(second))


def test_run_folder_holds_everything(small: Small, tmp_path: Path) -> None:
    """A run leaves its resolved config, versions, one row per update, curves, and a checkpoint."""
    experiment = small()
    result = Trainer(experiment, tmp_path / "run").run()
    assert (result.env_steps, result.finished) == (96, True)
    rows = read_metrics(tmp_path / "run")
    assert [row["update"] for row in rows] == list(range(1, UPDATES + 1))
    assert [row["env_steps"] for row in rows] == [16 * (i + 1) for i in range(UPDATES)]
    assert {"actor_loss", "critic_loss", "gradient_norm", "env_steps_per_s", "train_s"} <= rows[0].keys()
    assert ["eval/return_mean" in row for row in rows] == [False, True] * 3
    assert {"eval/return_mean", "eval/return_std", "eval/height"} <= rows[-1].keys()
    saved = load_experiment(str(tmp_path / "run" / "config.yaml"))
    assert (saved.config, saved.algorithm) == (experiment.config, experiment.algorithm)
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert _content(tmp_path / "run")["counters"]["updates"] == UPDATES


def test_two_seeded_runs_are_bitwise_equal(small: Small, tmp_path: Path) -> None:
    """One seed gives one run, down to the last bit; another seed gives another."""
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(5)  # what else the process draws does not matter
        Trainer(small(seed=seed), tmp_path / name).run()
    _assert_same_run(tmp_path / "a", tmp_path / "b")
    assert _without_times(read_metrics(tmp_path / "a")) != _without_times(read_metrics(tmp_path / "c"))


@pytest.mark.parametrize("config", ["pendulum-swingup", "soft-quadruped-quick"])
def test_resumed_run_equals_uninterrupted_one_bitwise(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    """2N updates equal N updates, a stop, and N more: every metric and every tensor of the checkpoint."""
    # Episodes of seven steps, so that resets fall into both halves.
    for task in (PendulumSwingup, SoftQuadrupedQuick):
        monkeypatch.setattr(task, "spec", replace(task.spec, episode_length=7))
    Trainer(small(config), tmp_path / "whole").run()
    first = Trainer(small(config), tmp_path / "halves").run(_after(UPDATES // 2))
    assert (first.env_steps, first.finished) == (48, False)
    torch.rand(5)
    experiment = load_experiment(str(tmp_path / "halves" / "config.yaml"))
    assert Trainer(experiment, tmp_path / "halves", resume=True).run().finished
    _assert_same_run(tmp_path / "whole", tmp_path / "halves")


def test_rows_after_the_last_checkpoint_are_made_again(small: Small, tmp_path: Path) -> None:
    """A run killed between checkpoints continues from the last one, and its metrics have no row twice."""
    Trainer(small(), tmp_path / "whole").run()
    trainer = Trainer(small(checkpoint_interval=32), tmp_path / "killed")

    def kill() -> bool:
        if trainer.counters.updates == 5:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        trainer.run(kill)
    assert _content(tmp_path / "killed")["counters"]["updates"] == 4
    Trainer(small(), tmp_path / "killed", resume=True).run()
    _assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_loaded_run_acts_as_the_trained_policy(small: Small, tmp_path: Path) -> None:
    """What `load_run` builds gives the same actions as the algorithm that was trained."""
    trainer = Trainer(small(), tmp_path / "run")
    trainer.run()
    _, task, algorithm = load_run(tmp_path / "run", {"threads": 1})
    observation = task.observe(task.initial_state(torch.Generator().manual_seed(0), 5))
    expected = trainer.algorithm.act(observation, deterministic=True, generator=None)
    assert torch.equal(algorithm.act(observation, deterministic=True, generator=None), expected)


def test_ctrl_c_keeps_the_run_and_says_how_to_resume(small: Small, tmp_path: Path) -> None:
    """SIGINT ends a running command after its update, with code 130, a checkpoint, and the command to go on."""
    run_dir = tmp_path / "run"
    command = [sys.executable, "-c", "import sys; from rfo.cli import main; sys.exit(main())", "train"]
    settings = ["env_steps=100000000", "num_envs=4", "horizon=4", "critic_epochs=1", "eval_interval=0"]
    options = [word for setting in settings for word in ("--set", setting)]
    process = subprocess.Popen(
        [*command, "pendulum-swingup", "--run-dir", str(run_dir), "--threads", "1", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60.0
        metrics = run_dir / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text()) and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"continue with: rfo train --resume {run_dir}" in err
    assert "Traceback" not in err
    updates = _content(run_dir)["counters"]["updates"]
    assert updates == len(read_metrics(run_dir)) > 0
    resumed = Trainer(load_experiment(str(run_dir / "config.yaml")), run_dir, resume=True)
    assert resumed.run(lambda: True).env_steps == 16 * (updates + 1)
    assert [row["update"] for row in read_metrics(run_dir)] == list(range(1, updates + 2))


def test_divergence_stops_with_a_dump_that_replays(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A NaN stops the run, names environment, step and tensor, and leaves what makes the step happen again."""
    point = EntryPoint("diverging", f"{__name__}:Diverging", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    # Clocks start together, so that the five steps are the five of an episode.
    trainer = Trainer(small(env="diverging"), tmp_path / "run")
    trainer.env._stagger = False
    with pytest.raises(TrainingStoppedError, match="'rate' is not finite in environment 2 at control step 5") as caught:
        trainer.run()
    dump = tmp_path / "run" / "diverged.pt"
    assert str(dump) in str(caught.value)
    content = torch.load(dump, weights_only=True)
    place = {key: content[key] for key in ("env_id", "env_index", "step", "tensor")}
    assert place == {"env_id": "diverging", "env_index": 2, "step": 5, "tensor": "rate"}
    replayed = Diverging().dynamics(content["state"], content["action"])
    assert replayed["rate"].isfinite().tolist() == [True, True, False, True]
    path = tmp_path / "diverging.yaml"
    path.write_text("env: diverging\nnum_envs: 4\nenv_steps: 1000\n")
    assert main(["train", str(path), "--run-dir", str(tmp_path / "again")]) == 1
    err = capsys.readouterr().err
    assert "'rate' is not finite in environment 2" in err
    assert len(err.splitlines()) == 1


def test_metric_that_is_not_finite_stops_the_run(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN among the figures is an end with a reason, not a row."""
    trainer = Trainer(small(), tmp_path / "run")
    monkeypatch.setattr(trainer.algorithm, "update", lambda env, progress: {"critic_loss": float("nan")})
    with pytest.raises(TrainingStoppedError, match="'critic_loss' is nan after 16 environment steps"):
        trainer.run()
    assert read_metrics(tmp_path / "run") == []


def test_checkpoint_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in the middle of writing leaves the old checkpoint whole."""
    path = tmp_path / "checkpoint.pt"
    save_atomically({"format": CHECKPOINT_FORMAT, "value": torch.arange(3)}, path)

    def crash(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
        patched.setattr(torch, "save", crash)
        save_atomically({"format": CHECKPOINT_FORMAT, "value": torch.arange(9)}, path)
    assert load_checkpoint(tmp_path)["value"].tolist() == [0, 1, 2]
    save_atomically({"format": CHECKPOINT_FORMAT, "value": torch.arange(9)}, path)
    assert len(load_checkpoint(tmp_path)["value"]) == 9
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_existing_run_is_not_overwritten(small: Small, tmp_path: Path) -> None:
    """A folder that holds a run is refused, with both ways out."""
    Trainer(small(), tmp_path / "run")
    with pytest.raises(UsageError, match=r"already holds a run; continue it with --resume .* or give a new --run-dir"):
        Trainer(small(), tmp_path / "run")


def test_folder_that_cannot_be_made_is_refused(small: Small, tmp_path: Path) -> None:
    """A file in the way of the folder is bad input."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot make the run's folder"):
        Trainer(small(), tmp_path / "file")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "checkpoint.pt").unlink(), "holds no checkpoint.pt"),
        (lambda run: (run / "checkpoint.pt").write_text("junk"), "is damaged or not a checkpoint"),
        (lambda run: torch.save([1], run / "checkpoint.pt"), "has format None"),
        (lambda run: torch.save({"format": 99}, run / "checkpoint.pt"), "has format 99"),
        (lambda run: _edit(run, "- 8", "- 16"), "does not fit its config.yaml"),
        (lambda run: _edit(run, "num_envs: 4", "num_envs: 5"), "has 4 environments, its config.yaml says 5"),
        (lambda run: (run / "metrics.jsonl").unlink(), "holds no metrics.jsonl"),
    ],
)
def test_damaged_run_is_refused_in_words(
    small: Small, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    """A run whose files are missing, damaged or do not fit each other cannot be resumed, and says why."""
    Trainer(small(), tmp_path).run(lambda: True)
    damage(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        Trainer(load_experiment(str(tmp_path / "config.yaml")), tmp_path, resume=True).run()
    assert "\n" not in str(caught.value)


def _edit(run_dir: Path, old: str, new: str) -> None:
    path = run_dir / "config.yaml"
    path.write_text(path.read_text().replace(old, new))
