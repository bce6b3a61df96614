"""Configs are strict: what is not known, or not of the right kind, is an error that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rfo.core.errors import UsageError
from rfo.train.config import available_configs, load_experiment, parse_overrides, save_experiment

ROOT = Path(__file__).parents[2]


def _refused(overrides: dict[str, Any], config: str = "pendulum-swingup") -> str:
    with pytest.raises(UsageError) as caught:
        load_experiment(config, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_config_loads_and_survives_saving(path: Path, tmp_path: Path) -> None:
    """Every shipped config is valid, and its resolved form reads back as the same experiment."""
    experiment = load_experiment(path.stem)
    save_experiment(experiment, tmp_path / path.name)
    assert load_experiment(str(tmp_path / path.name)) == experiment
    assert path.stem in available_configs()


@pytest.mark.parametrize(
    ("key", "suggestion"), [("sed", "seed"), ("num_env", "num_envs"), ("actor_Ir", "actor_lr"), ("Horizon", "horizon")]
)
def test_unknown_key_is_refused_with_a_suggestion(key: str, suggestion: str) -> None:
    """Keys of the run and of the algorithm are known, and misspelt ones get the closest."""
    assert f"unknown config key {key!r}; did you mean {suggestion!r}?" in _refused({key: 1})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("env_steps", "many", "must be a whole number"),
        ("env_steps", 1.5, "must be a whole number"),
        ("env_steps", True, "must be a whole number"),
        ("env_steps", float("inf"), "must be a whole number"),
        ("seed", None, "must be a whole number"),
        ("actor_lr", "fast", "must be a number"),
        ("actor_lr", float("inf"), "must be a number"),
        ("env", 3, "must be text"),
        ("actor_hidden", 64, "must be a list"),
        ("actor_hidden", [64, "x"], "must be a whole number"),
        ("betas", [0.9], "has 1 entries; it must have 2"),
        ("num_envs", 0, "must be at least 1"),
        ("threads", 0, "must be at least 1"),
        ("eval_interval", -1, "must not be negative"),
        ("seed", -1, "must not be negative"),
        ("seed", 2**70, "must be less than 2**62"),
        ("horizon", 0, "must be at least 1"),
        ("gamma", 1.5, "must lie in [0, 1]"),
        ("actor_hidden", [], "needs widths of at least 1"),
        ("critic_hidden", [8, 0], "needs widths of at least 1"),
        ("solver", "rk9", "rk9"),
    ],
)
def test_wrong_value_is_refused(key: str, value: Any, words: str) -> None:
    """Wrong types and impossible values name the key and what it must be."""
    message = _refused({key: value})
    assert key in message
    assert words in message


def test_numbers_as_people_write_them_are_read() -> None:
    """YAML reads 1e-3 and 1e5 as text; a config reads them as the numbers they are."""
    experiment = load_experiment("pendulum-swingup", parse_overrides(["actor_lr=1e-3", "env_steps=1e5", "gamma=1"]))
    assert experiment.algorithm.actor_lr == 1e-3
    assert experiment.config.env_steps == 100_000
    assert isinstance(experiment.config.env_steps, int)
    assert experiment.algorithm.gamma == 1.0


def test_overrides_replace_keys_of_the_run_and_of_the_algorithm() -> None:
    """`--set` reaches both dataclasses, reads YAML values, and leaves the rest as it was."""
    settings = parse_overrides(["seed=7", "actor_hidden=[16, 16]", "threads=null", "c_past=0"])
    experiment, plain = load_experiment("pendulum-swingup", settings), load_experiment("pendulum-swingup")
    assert (experiment.config.seed, experiment.config.threads) == (7, None)
    assert (experiment.algorithm.actor_hidden, experiment.algorithm.c_past) == ((16, 16), 0.0)
    assert experiment.config.num_envs == plain.config.num_envs
    assert experiment.steps_per_update == experiment.config.num_envs * experiment.algorithm.horizon


@pytest.mark.parametrize("setting", ["seed", "=3", "seed=[1"])
def test_malformed_override_is_refused(setting: str) -> None:
    """An override that is no key=value says how to write it."""
    with pytest.raises(UsageError, match="--set"):
        parse_overrides([setting])


def test_unknown_algorithm_and_config_are_refused_with_what_is_known(tmp_path: Path) -> None:
    """Names are answered with the closest known one, files with their path."""
    assert "unknown algorithm 'rf0'; did you mean 'rfo'?" in _refused({"algo": "rf0"})
    assert "did you mean 'pendulum-swingup'?" in _refused({}, "pendulum-swing")
    assert "does not exist" in _refused({}, str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("env: [", "is not valid YAML"),
        ("just words", "must hold `key: value` lines"),
        ("", "must hold `key: value` lines"),
        ("seed: 1", "config key 'env' is missing"),
        ("{env: pendulum-swingup, 3: 4}", "unknown config key '3'"),
    ],
)
def test_malformed_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """A file that is no config says what is wrong with it."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert words in _refused({}, str(path))


def test_config_of_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config in ./configs is found by name and replaces a shipped one of that name."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "pendulum-swingup.yaml").write_text("env: pendulum-swingup\nseed: 42\n")
    monkeypatch.chdir(tmp_path)
    assert load_experiment("pendulum-swingup").config.seed == 42
