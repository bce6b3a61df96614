"""Every command from inside: what it prints, for people and for programs, and the code it ends with."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest

import rfo
import rfo.train.record
from rfo.cli import main
from rfo.train.record import Film

TINY = {
    "env_steps": 32,
    "num_envs": 4,
    "horizon": 4,
    "eval_interval": 0,
    "eval_episodes": 2,
    "critic_epochs": 1,
    "expected_return": "null",
}
SETTINGS = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
SMALL_FILM = ["--seconds", "0.2", "--width", "96", "--height", "54"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "pendulum-swingup", "--run-dir", str(run_dir), "--threads", "1", *SETTINGS]) == 0
    return run_dir


def _json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_help_and_version_print_and_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments and with --help the commands are listed; --version says the version."""
    for arguments in ([], ["--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for command in ("envs", "train", "eval", "record", "check", "bench", "doctor", "demo"):
            assert command in out
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"rfo {rfo.__version__}\n")


def test_envs_json_has_the_promised_keys(run: Run) -> None:
    """A list of objects with exactly the five keys, and the pendulum's figures."""
    code, out, _ = run("envs", "--json")
    rows = _json(out)
    assert code == 0
    assert all(row.keys() == {"id", "engine", "differentiable", "action_dim", "episode_length"} for row in rows)
    pendulum = {
        "id": "pendulum-swingup",
        "engine": "torch",
        "differentiable": True,
        "action_dim": 1,
        "episode_length": 120,
    }
    assert pendulum in rows
    assert {"soft-quadruped", "soft-quadruped-quick"} <= {row["id"] for row in rows}


def test_envs_table_names_every_environment(run: Run) -> None:
    """People get a table."""
    code, out, _ = run("envs")
    assert code == 0
    assert "pendulum-swingup" in out
    assert "soft-quadruped-quick" in out


def test_check_json_has_the_promised_keys(run: Run) -> None:
    """`passed`, and checks with name, passed, figure and limit; code 0."""
    code, out, _ = run("check", "pendulum-swingup", "--json")
    report = _json(out)
    assert code == 0
    assert report.keys() == {"passed", "checks"}
    assert report["passed"] is True
    assert all(row.keys() == {"name", "passed", "figure", "limit", "message"} for row in report["checks"])


def test_check_that_fails_ends_with_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose gradients are cut fails with code 1, in words, and as JSON without infinities."""
    from rfo_envs.torch.pendulum import PendulumSwingup

    plain = PendulumSwingup.dynamics
    monkeypatch.setattr(PendulumSwingup, "dynamics", lambda *args: {k: v.detach() for k, v in plain(*args).items()})
    code, out, _ = run("check", "pendulum-swingup", "--json")
    assert code == 1
    report = _json(out)
    assert report["passed"] is False
    failed = next(row for row in report["checks"] if row["name"] == "gradient, reset")
    assert failed["figure"] is None
    assert "look for detach()" in failed["message"]
    code, out, _ = run("check", "pendulum-swingup")
    assert code == 1
    assert "FAIL  gradient, reset" in out
    assert "checks failed" in out


def test_bench_json_has_the_promised_keys(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The eight keys, with figures that can be, and a roofline for tasks on an engine of this package."""
    monkeypatch.setattr("rfo.train.bench.LEAST_SECONDS", 0.0)
    code, out, _ = run("bench", "pendulum-swingup", "--envs", "3", "--horizon", "2", "--threads", "1", "--json")
    figures = _json(out)
    assert code == 0
    assert figures.keys() == {
        "forward_env_steps_per_s",
        "gradient_env_steps_per_s",
        "memory_bytes_per_env_step",
        "peak_rss_bytes",
        "compile_s",
        "threads",
        "device",
        "dtype",
        "roofline",
    }
    assert figures["forward_env_steps_per_s"] > figures["gradient_env_steps_per_s"] > 0
    assert figures["peak_rss_bytes"] > 10**7
    assert (figures["threads"], figures["device"], figures["dtype"]) == (1, "cpu", "float32")
    code, out, _ = run("bench", "pendulum-swingup", "--envs", "2", "--horizon", "1", "--threads", "1")
    assert code == 0
    assert "forward_env_steps_per_s" in out


def test_bench_scaling_leaves_a_table_figures_and_a_picture(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for each size, the same figures as JSON, and a picture; what has no gradients to measure is refused."""
    from rfo.train.scaling import Axes, measure_scaling

    assert measure_scaling.__kwdefaults__
    monkeypatch.setattr("rfo.train.bench.LEAST_SECONDS", 0.0)
    for name, value in (("axes", Axes((2, 3), (1, 2))), ("repeats", 1)):
        monkeypatch.setitem(measure_scaling.__kwdefaults__, name, value)
    command = ("bench", "pendulum-swingup", "--scaling", "--envs", "2", "--horizon", "2", "--threads", "1")
    code, out, _ = run(*command, "--output", "growth")
    assert code == 0
    assert "exponent" in out
    assert iio.imread(tmp_path / "growth" / "scaling.png").ndim == 3
    code, out, _ = run(*command, "--json")
    found = _json(out)
    assert code == 0
    assert [sweep["axis"] for sweep in found["sweeps"]] == ["envs", "horizon"]
    assert found == _json((tmp_path / "runs" / "scaling" / "scaling.json").read_text())
    for arguments in (("--algo", "sac", "--scaling"), ("gym-swimmer", "--scaling")):
        assert run("bench", *arguments)[0] == 2


def test_train_says_how_it_ended_and_where(run: Run, tmp_path: Path) -> None:
    """The last evaluation and the folder; without --run-dir a new one under runs/."""
    code, out, err = run("train", "pendulum-swingup", "--seed", "3", "--threads", "1", *SETTINGS)
    assert (code, err) == (0, "")
    assert out.startswith("return -")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("pendulum-swingup-seed3-")
    assert f"run: runs/{folder.name}" in out
    code, out, _ = run("train", "--resume", f"runs/{folder.name}")
    assert (code, out) == (0, f"run: runs/{folder.name}\n")


def test_a_resumed_run_may_be_given_more_steps(run: Run, tmp_path: Path) -> None:
    """It goes on from where it ended, keeps the new budget, and nothing else of its config can be replaced."""
    folder = tmp_path / "longer"
    assert run("train", "pendulum-swingup", "--run-dir", str(folder), "--threads", "1", *SETTINGS)[0] == 0
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    steps = _json(rows[-1])["env_steps"]
    assert run("train", "--resume", str(folder), "--set", f"env_steps={2 * steps}")[0] == 0
    longer = (folder / "metrics.jsonl").read_text().splitlines()
    assert longer[: len(rows)] == rows and _json(longer[-1])["env_steps"] == 2 * steps
    assert f"env_steps: {2 * steps}\n" in (folder / "config.yaml").read_text()
    code, _, error = run("train", "--resume", str(folder), "--set", "actor_lr=0.1")
    assert code == 2 and "leave out set actor_lr" in error


def test_eval_json_has_the_promised_keys(run: Run, trained: Path) -> None:
    """The four keys, and the task's metrics; baselines under their names where asked."""
    keys = {"return_mean", "return_std", "episodes", "distance_m"}
    code, out, _ = run("eval", str(trained), "--episodes", "3", "--json")
    report = _json(out)
    assert code == 0
    assert report.keys() == keys | {"metrics"}
    assert (report["episodes"], report["distance_m"]) == (3, None)
    code, out, _ = run("eval", str(trained), "--baselines", "--sampled", "--json")
    report = _json(out)
    assert code == 0
    assert report["baselines"].keys() == {"zero", "random", "untrained"}
    assert all(row.keys() == keys for row in report["baselines"].values())
    code, out, _ = run("eval", str(trained), "--baselines")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == ["trained", "zero", "random", "untrained"]


def test_export_keeps_the_policy_and_what_to_expect_of_it(run: Run, trained: Path, tmp_path: Path) -> None:
    """An exported policy acts as the run's does, says what return to expect, and cannot be trained on."""
    kept = tmp_path / "kept"
    assert run("export", str(trained), "--output", str(kept))[0] == 0
    assert sorted(path.name for path in kept.iterdir()) == ["config.yaml", "policy.pt"]
    before, after = (_json(run("eval", str(folder), "--json")[1]) for folder in (trained, kept))
    assert before == after
    assert f"expected_return: {before['return_mean']:.1f}" in (kept / "config.yaml").read_text()
    config = (kept / "config.yaml").read_text()
    for more in ((), ("--set", "env_steps=99999")):
        code, _, error = run("train", "--resume", str(kept), *more)
        assert code == 2 and "holds an exported policy, which can act but not learn on" in error
    assert (kept / "config.yaml").read_text() == config
    assert run("export", str(trained), "--output", str(kept))[0] == 2


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_record_writes_a_film(run: Run, trained: Path, tmp_path: Path, suffix: str) -> None:
    """Six pictures of a fifth of a second, of the size that was asked for, and not of one colour."""
    code, out, _ = run("record", str(trained), "--output", f"film.{suffix}", *SMALL_FILM)
    assert (code, out) == (0, f"film.{suffix}\n")
    frames = iio.imread(tmp_path / f"film.{suffix}")
    assert frames.shape == (6, 54, 96, 3)
    assert frames.std() > 5.0


def test_record_films_an_environment_without_a_run(run: Run, tmp_path: Path) -> None:
    """An environment is filmed under random or no actions, into a file of its name, with a sheet of frames beside."""
    code, out, _ = run("record", "pendulum-swingup", "--policy", "zero", "--strip", "sheet.png", *SMALL_FILM)
    assert (code, out) == (0, "pendulum-swingup.mp4\n")
    assert (tmp_path / "pendulum-swingup.mp4").stat().st_size > 0
    assert iio.imread(tmp_path / "sheet.png").shape == (27, 3 * 48 + 2 * 6, 3)


def test_collect_writes_a_data_set(run: Run, trained: Path, tmp_path: Path) -> None:
    """From a run and from an environment; the file is told, and read by the reader."""
    from rfo.data.offline import load

    for subject, more in ((str(trained), ["--sampled"]), ("pendulum-swingup", ["--policy", "untrained"])):
        path = tmp_path / f"{more[0]}.npz"
        code, out, _ = run("collect", subject, *more, "--steps", "12", "--envs", "3", "--output", str(path))
        assert code == 0 and out.startswith(f"{path}: 12 transitions, 3 episodes")
        assert load(path).action.shape == (12, 1)


def test_collect_keeps_what_there_is_when_it_is_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends with 130 and leaves every transition."""
    import os
    import signal

    import rfo.train.collect
    from rfo.data.offline import load

    class Interrupting(rfo.train.collect.VectorEnv):
        steps = 0

        def step(self, action: Any) -> Any:
            self.steps += 1
            if self.steps == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(action)

    monkeypatch.setattr(rfo.train.collect, "VectorEnv", Interrupting)
    path = tmp_path / "kept.npz"
    code, _, err = run("collect", "pendulum-swingup", "--steps", "1000", "--envs", "2", "--output", str(path))
    assert code == 130 and "stopped and saved" in err and len(load(path)) == 6


def test_demo_leaves_film_strip_curve_and_figures(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path on a tiny budget: one table, four files; code 1, and why, where the goal is missed."""
    small = functools.partial(Film, seconds=0.2, width=96, height=54)
    monkeypatch.setattr(rfo.train.record, "Film", small)
    arguments = ["demo", "--config", "pendulum-swingup", "--threads", "1", *SETTINGS]
    code, out, _ = run(*arguments, "--run-dir", "demo", "--set", "seed=5")
    assert code == 0
    assert "seed 5" in out  # the config's seed holds where none is given
    for name in ("film.mp4", "strip.png", "curve.png", "summary.json"):
        assert f"demo/{name}" in out
        assert (tmp_path / "demo" / name).stat().st_size > 0
    summary = _json((tmp_path / "demo" / "summary.json").read_text())
    assert summary.keys() == {"train_s", "trained", "trained, sampled", "zero", "random", "untrained"}
    code, _, err = run(*arguments, "--run-dir", "missed", "--set", "expected_return=100")
    assert code == 1
    assert "rfo: the expected return 100 was not reached" in err


def test_doctor_json_lists_findings(run: Run) -> None:
    """Everything that was looked at, whether it is fine, and what to do where it is not."""
    code, out, _ = run("doctor", "--json")
    report = _json(out)
    assert code == (0 if report["ok"] else 1)
    assert [row["name"] for row in report["findings"]][:3] == ["python", "torch", "warp"]
    assert all(row.keys() == {"name", "ok", "value", "advice"} for row in report["findings"])
    assert all(bool(row["advice"]) or row["ok"] for row in report["findings"])
    code, out, _ = run("doctor")
    assert f"{'ok  ' if report['findings'][0]['ok'] else 'FAIL'}  python:" in out


REFUSED = [
    ("check pendulm-swingup", "unknown environment 'pendulm-swingup'; did you mean 'pendulum-swingup'?"),
    ("bench nope", "unknown environment 'nope'"),
    ("record nope", "unknown environment 'nope'"),
    ("train pendulum-swing", "unknown config 'pendulum-swing'; did you mean 'pendulum-swingup'?"),
    ("demo --config nope", "unknown config 'nope'"),
    ("train absent.yaml", "config file absent.yaml does not exist"),
    ("train pendulum-swingup --set sed=1", "unknown config key 'sed'; did you mean 'seed'?"),
    ("train pendulum-swingup --set env=nope", "unknown environment 'nope'"),
    ("train pendulum-swingup --set env_steps=lots", "must be a whole number"),
    ("train pendulum-swingup --set horizon=0", "horizon must be at least 1"),
    ("train pendulum-swingup --set num_envs=0", "'num_envs' is 0; it must be at least 1"),
    ("train pendulum-swingup --threads 0", "'threads' is 0; it must be at least 1"),
    ("train pendulum-swingup --seed -1", "must not be negative"),
    ("train pendulum-swingup --device gpu9", "device 'gpu9' is not known to torch"),
    ("train pendulum-swingup --device cuda:99", "device 'cuda:99' is not there"),
    ("train pendulum-swingup --run-dir file", "cannot make the run's folder file"),
    ("train", "name a config to train"),
    ("train pendulum-swingup --resume nope", "leave out config"),
    ("train --resume nope", "nope holds no run to resume"),
    ("train pendulum-swingup --speed 3", "unrecognized arguments: --speed 3"),
    ("eval nope", "run nope does not exist"),
    ("eval .", "holds no config.yaml"),
    ("eval RUN --episodes 0", "--episodes is 0"),
    ("eval RUN --device gpu9", "device 'gpu9' is not known to torch"),
    ("eval RUN --threads 0", "'threads' is 0"),
    ("bench pendulum-swingup --envs 0", "--envs is 0; it must be at least 1"),
    ("bench pendulum-swingup --horizon 0", "--horizon is 0; it must be at least 1"),
    ("bench pendulum-swingup --threads 0", "--threads is 0; it must be at least 1"),
    ("bench pendulum-swingup --envs many", "invalid int value: 'many'"),
    ("bench pendulum-swingup --store control", "--store control is for tasks on this package's engines"),
    ("bench ant --scaling --store control", "--scaling measures every store; leave out --store"),
    ("bench pendulum-swingup --dtype float8", "invalid choice"),
    ("bench pendulum-swingup --device gpu9", "device 'gpu9' is not known to torch"),
    ("bench pendulum-swingup --device meta", "device 'meta' is not there"),
    ("check pendulum-swingup --device gpu9", "device 'gpu9' is not known to torch"),
    ("check pendulum-swingup --threads 0", "threads is 0; it must be at least 1"),
    ("check", "the following arguments are required: ID"),
    ("envs --all", "unrecognized arguments: --all"),
    ("fly", "invalid choice: 'fly'"),
    ("record pendulum-swingup --output film.avi", "a film is a .mp4 or a .gif file"),
    ("record RUN --output film", "a film is a .mp4 or a .gif file"),
    ("record RUN --output nowhere/film.mp4", "the folder nowhere does not exist"),
    ("record RUN --policy best", "invalid choice: 'best'"),
    ("record pendulum-swingup --policy trained", "there is no trained policy; try --policy random"),
    ("record pendulum-swingup --width 0", "--width is 0"),
    ("record pendulum-swingup --start -1", "--start is -1"),
    ("record pendulum-swingup --strip sheet.jpg", "a sheet of frames is a .png file"),
    ("record pendulum-swingup --strip nowhere/sheet.png", "the folder nowhere does not exist"),
    ("record pendulum-swingup --policy zero --renderer mujoco", "pendulum-swingup has no renderer 'mujoco'"),
    ("record pendulum-swingup --seconds inf", "--seconds is inf"),
    ("record pendulum-swingup --fps nan", "--fps is nan"),
    ("record pendulum-swingup --seed -1", "--seed is -1"),
    ("record pendulum-swingup --device gpu9", "device 'gpu9' is not known to torch"),
    ("record pendulum-swingup --threads 0", "threads is 0"),
    ("collect pendulum-swingup", "one of the arguments --episodes --steps is required"),
    ("collect pendulum-swingup --steps 5 --output a.csv", "is an .npz, .h5 or .hdf5 file"),
    ("collect pendulum-swingup --steps 5 --output nowhere/a.npz", "no folder nowhere"),
    ("collect pendulum-swingup --episodes 0", "--episodes is 0"),
    ("collect pendulum-swingup --steps 5 --policy best", "choose trained, untrained, zero, random, oracle"),
    ("collect pendulum-swingup --steps 5 --policy trained", "there is no trained policy"),
    ("collect pendulum-swingup --steps 5 --policy oracle", "has no scripted oracle"),
    ("collect nowhere --steps 5", "unknown environment 'nowhere'"),
]


@pytest.mark.parametrize(("command", "words"), REFUSED, ids=[command for command, _ in REFUSED])
def test_bad_input_is_one_line_and_code_two(run: Run, trained: Path, tmp_path: Path, command: str, words: str) -> None:
    """Whatever is wrong with the arguments is told in one line on standard error, and nothing is left behind."""
    (tmp_path / "file").touch()
    code, out, err = run(*(str(trained) if word == "RUN" else word for word in command.split()))
    assert (code, out) == (2, "")
    assert err.startswith("rfo: ")
    assert words in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
