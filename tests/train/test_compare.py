"""Comparisons of configs over seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rfo.cli import main
from rfo.core.errors import UsageError
from rfo.train.compare import plan_runs, run_missing, summarize, train_and_evaluate, write_report

QUICK = {"env_steps": 256, "num_envs": 4, "eval_interval": 128, "eval_episodes": 2, "horizon": 8, "threads": 1}


def _config(folder: Path, name: str, algo: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(f"env: pendulum-swingup\nalgo: {algo}\nactor_hidden: [8]\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished comparison of two configs over two seeds."""
    folder = tmp_path_factory.mktemp("compare")
    plan = plan_runs([_config(folder, "one", "rfo"), _config(folder, "two", "bptt")], [0, 1], QUICK, folder)
    for runs in plan.values():
        for run in runs:
            assert train_and_evaluate(run) == ""
    return folder


def test_report_holds_every_config_with_its_command(folder: Path) -> None:
    """Table, JSON and figure are written; the table names command, versions and machine."""
    plan = plan_runs([str(folder / "one.yaml"), str(folder / "two.yaml")], [0, 1], QUICK, folder)
    assert run_missing(plan, jobs=1) == {}  # everything is there: nothing is run again
    compared = summarize(plan, {})
    markdown, figures, picture = write_report(compared, plan, folder, "rfo compare one two")
    text = markdown.read_text(encoding="utf-8")
    assert "| one | 2 |" in text and "| two | 2 |" in text
    assert "rfo compare one two" in text and "torch" in text and "cores" in text
    content = json.loads(figures.read_text(encoding="utf-8"))
    assert {found["name"] for found in content["configs"]} == {"one", "two"}
    for found in content["configs"]:
        value, low, high = found["figures"]["sampled_return"]
        assert low <= value <= high
    assert picture.stat().st_size > 1000
    first, second = (found.figures["return_at_env_steps"][0] for found in compared)
    assert first >= second


def test_what_is_missing_is_named(folder: Path) -> None:
    """A run that stopped early is not dropped silently."""
    plan = plan_runs([str(folder / "one.yaml")], [0, 1, 2], QUICK, folder)
    (found,) = summarize(plan, {plan["one"][2].folder: "diverged"})
    assert found.seeds == (0, 1) and found.stopped == {2: "diverged"}
    markdown = write_report([found], plan, folder, "rfo compare one")[0]
    assert "one, seed 2, did not finish: diverged" in markdown.read_text(encoding="utf-8")


def test_a_variant_replaces_keys_of_its_config(folder: Path) -> None:
    """What follows a colon holds for that row alone, and stands in its name."""
    one = str(folder / "one.yaml")
    plan = plan_runs([one, f"{one}:flow_steps=2:horizon=4"], [0], QUICK, folder)
    plain, variant = (runs[0] for runs in plan.values())
    assert list(plan) == ["one", "one flow_steps=2 horizon=4"]
    assert (plain.experiment.algorithm.flow_steps, plain.experiment.algorithm.horizon) == (4, 8)
    assert (variant.experiment.algorithm.flow_steps, variant.experiment.algorithm.horizon) == (2, 4)
    assert plain.folder != variant.folder


def test_a_folder_of_another_config_is_refused(folder: Path) -> None:
    """Runs of different settings never mix in one table, and a config is named once."""
    with pytest.raises(UsageError, match="another config"):
        plan_runs([str(folder / "one.yaml")], [0], {**QUICK, "env_steps": 512}, folder)
    with pytest.raises(UsageError, match="twice"):
        plan_runs([str(folder / "one.yaml")] * 2, [0], QUICK, folder)


def test_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`rfo compare` reads a finished comparison back and prints its table; bad input is told in one line."""
    settings = [word for key, value in QUICK.items() if key != "threads" for word in ("--set", f"{key}={value}")]
    command = ["compare", str(folder / "one.yaml"), "--seeds", "0", "1", "--output", str(folder), *settings]
    assert main(command) == 0
    assert "| one | 2 |" in capsys.readouterr().out
    assert main([*command, "--set", "seed=3"]) == 2
    assert "--seeds" in capsys.readouterr().err
