"""The commands as a person or a program uses them: what they print, what they leave, how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rfo.cli import main
from rfo.train.checkpoint import load_checkpoint
from rfo.train.logging import read_metrics

TINY = ["--set", "env_steps=128", "--set", "num_envs=4", "--set", "eval_interval=0", "--set", "critic_epochs=1"]
MAIN = "import sys; from rfo.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates on the pendulum."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["train", "pendulum-swingup", "--seed", "3", "--run-dir", str(folder), "--threads", "1", *TINY]
    assert main([*arguments, "--set", "eval_episodes=2"]) == 0
    return folder


def _json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main(list(arguments)) == code

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_envs_lists_what_programs_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Every environment with exactly the promised keys."""
    rows = {row["id"]: row for row in _json(capsys, "envs", "--json")}
    assert rows["pendulum-swingup"] == {
        "id": "pendulum-swingup",
        "engine": "torch",
        "differentiable": True,
        "action_dim": 1,
        "episode_length": 120,
    }
    assert {"soft-quadruped", "soft-quadruped-quick"} <= set(rows)


def test_train_leaves_a_whole_run(run_dir: Path) -> None:
    """Config, versions, one row per update, curves and a checkpoint."""
    assert "seed: 3" in (run_dir / "config.yaml").read_text(encoding="utf-8")
    assert json.loads((run_dir / "versions.json").read_text(encoding="utf-8"))["packages"]["torch"]
    assert [row["env_steps"] for row in read_metrics(run_dir)] == [64, 128]
    assert list((run_dir / "tensorboard").iterdir())
    assert load_checkpoint(run_dir)["counters"]["updates"] == 2


def test_eval_gives_the_promised_figures(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The promised keys, the same twice, and every baseline beside them."""
    found = _json(capsys, "eval", str(run_dir), "--json", "--episodes", "3", "--baselines")
    assert {"return_mean", "return_std", "episodes", "distance_m"} <= set(found)
    assert (found["episodes"], found["distance_m"]) == (3, None)
    assert set(found["baselines"]) == {"zero", "random", "untrained"}
    again = _json(capsys, "eval", str(run_dir), "--json", "--episodes", "3")
    assert again["return_mean"] == found["return_mean"]


def test_check_gives_the_promised_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """A sound environment passes with exit code 0."""
    report = _json(capsys, "check", "pendulum-swingup", "--json")
    assert report["passed"] is True
    assert all({"name", "passed", "figure", "limit"} <= set(check) for check in report["checks"])


def test_check_fails_with_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without its gradient fails, in JSON that any program reads."""
    from rfo_envs.torch.pendulum import PendulumSwingup

    original = PendulumSwingup.dynamics
    monkeypatch.setattr(
        PendulumSwingup, "dynamics", lambda self, s, a: {k: v.detach() for k, v in original(self, s, a).items()}
    )
    assert _json(capsys, "check", "pendulum-swingup", "--json", code=1)["passed"] is False


def test_bench_gives_the_promised_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly the promised keys."""
    found = _json(capsys, "bench", "pendulum-swingup", "--envs", "4", "--horizon", "4", "--threads", "1", "--json")
    assert set(found) == {
        *("forward_env_steps_per_s", "gradient_env_steps_per_s", "memory_bytes_per_env_step", "peak_rss_bytes"),
        *("compile_s", "threads", "device", "dtype"),
    }


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Findings with name, verdict, value and advice."""
    report = json.loads((main(["doctor", "--json"]), capsys.readouterr().out)[1])
    assert all(set(finding) == {"name", "ok", "value", "advice"} for finding in report["findings"])


def test_record_films_runs_and_environments(run_dir: Path, tmp_path: Path) -> None:
    """A trained policy to .gif, and an environment nobody has trained on to .mp4."""
    small = ["--seconds", "0.2", "--fps", "10", "--width", "64", "--height", "48"]
    for subject, film in ((str(run_dir), tmp_path / "run.gif"), ("pendulum-swingup", tmp_path / "env.mp4")):
        assert main(["record", subject, "--output", str(film), *small]) == 0
        assert film.stat().st_size > 500


def test_demo_runs_the_whole_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training, comparison, film, frames, curve and summary; 1 because two updates reach nothing."""
    run = tmp_path / "demo"
    arguments = ["demo", "--config", "pendulum-swingup", "--run-dir", str(run), *TINY, "--set", "eval_episodes=2"]
    assert main([*arguments, "--seconds", "0.2"]) == 1
    for name in ("film.mp4", "strip.png", "curve.png", "summary.json"):
        assert (run / name).stat().st_size > 0
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert {"trained", "zero", "random", "untrained", "train_s"} <= set(summary)
    assert "untrained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "invalid choice: 'trian'; did you mean 'train'"),
        (["train"], "name a config"),
        (["train", "pendulum-swingpu"], "did you mean 'pendulum-swingup'"),
        (["train", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["train", "pendulum-swingup", "--set", "actor_rl=1"], "did you mean 'actor_lr'"),
        (["train", "pendulum-swingup", "--set", "env=pendulum-swing"], "did you mean 'pendulum-swingup'"),
        (["train", "pendulum-swingup", "--sed", "1"], "--sed"),
        (["train", "pendulum-swingup", "--seed", "one"], "--seed"),
        (["train", "pendulum-swingup", "--device", "cdua"], "cdua"),
        (["train", "pendulum-swingup", "--threads", "0"], "must be at least 1"),
        (["train", "--resume", "nowhere"], "no run to resume"),
        (["train", "pendulum-swingup", "--resume", "nowhere"], "leave out config"),
        (["eval", "nowhere"], "nowhere does not exist"),
        (["check", "pendulum"], "did you mean 'pendulum-swingup'"),
        (["bench", "pendulum-swingup", "--envs", "0"], "--envs is 0"),
        (["record", "pendulum-swingup", "--output", "film.avi"], ".mp4 or a .gif"),
        (["record", "pendulum-swingup", "--output", "no/such/folder/film.gif"], "does not exist"),
        (["record", "pendulum-swingup", "--policy", "trained"], "no trained policy"),
        (["record", "pendulum-swingup", "--seconds", "-1"], "--seconds is -1.0"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, one line on standard error that says what is wrong, and nothing left behind."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rfo: ") and captured.err.count("\n") == 1
    assert words in captured.err
    assert not list(tmp_path.iterdir())


def test_help_and_envs_are_quick() -> None:
    """`rfo --help` does not even import torch."""
    code = "import sys; from rfo.cli.parser import build_parser; build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ctrl_c_keeps_the_run(tmp_path: Path) -> None:
    """Ctrl-C finishes the update, saves, says how to go on, and exits with 130; the run then goes on."""
    run = tmp_path / "run"
    small = ["--set", "env_steps=1e9", "--set", "num_envs=4", "--set", "critic_epochs=1", "--threads", "1"]
    arguments = ["train", "pendulum-swingup", "--run-dir", str(run), *small, "--set", "eval_interval=0"]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    deadline = time.monotonic() + 120.0
    while not ((run / "metrics.jsonl").is_file() and read_metrics(run)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"rfo train --resume {run}" in errors and "Traceback" not in errors
    saved = load_checkpoint(run)["counters"]
    assert saved["updates"] == len(read_metrics(run)) > 0
