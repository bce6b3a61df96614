"""Configs: flat, strict, and answered in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rfo.algo.rfo import RFOConfig
from rfo.core import registry
from rfo.core.errors import UsageError
from rfo.train.config import available_configs, load_experiment, parse_overrides, save_experiment


@pytest.mark.parametrize("name", sorted(available_configs()))
def test_every_named_config_resolves(name: str) -> None:
    """Every config in configs/ has only known keys and a registered environment."""
    experiment = load_experiment(name)
    assert experiment.config.env in registry.ids()
    assert experiment.steps_per_update == experiment.config.num_envs * experiment.algorithm.horizon


def test_saved_config_is_the_config(tmp_path: Path) -> None:
    """What a run writes down reads back equal, tuples and null included."""
    experiment = load_experiment("pendulum-swingup", {"actor_hidden": [8, 9], "threads": None, "actor_lr": 3e-4})
    save_experiment(experiment, tmp_path / "config.yaml")
    loaded = load_experiment(str(tmp_path / "config.yaml"))
    assert (loaded.config, loaded.algorithm) == (experiment.config, experiment.algorithm)
    assert loaded.algorithm.actor_hidden == (8, 9)


def test_numbers_are_read_as_they_are_meant() -> None:
    """1e-3 and 1e6 are text to YAML 1.1, and numbers to whoever wrote them."""
    overrides = parse_overrides(["actor_lr=1e-3", "env_steps=1e6", "gamma=1", "expected_return=null"])
    experiment = load_experiment("pendulum-swingup", overrides)
    assert (experiment.algorithm.actor_lr, experiment.config.env_steps) == (1e-3, 1_000_000)
    assert isinstance(experiment.algorithm.gamma, float) and experiment.config.expected_return is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_env", 8, "unknown config key 'num_env'; did you mean 'num_envs'"),
        ("actor_lrs", 1, "did you mean 'actor_lr'"),
        ("num_envs", "many", "'num_envs' is 'many'; it must be a whole number"),
        ("num_envs", 2.5, "a whole number"),
        ("num_envs", True, "a whole number"),
        ("num_envs", 0, "'num_envs' is 0; it must be at least 1"),
        ("env_steps", -4, "at least 1"),
        ("seed", -1, "must not be negative"),
        ("actor_lr", "fast", "it must be a number"),
        ("actor_lr", ".nan", "it must be a number"),
        ("env", 3, "it must be text"),
        ("solver", "eulr", "it must be one of euler"),
        ("actor_hidden", 64, "it must be a list"),
        ("actor_hidden", [64, "x"], "a whole number"),
        ("betas", [0.9], "has 1 entries; it must have 2"),
        ("algo", "rof", "unknown algorithm 'rof'; did you mean 'rfo'"),
        ("horizon", 0, "horizon must be at least 1"),
    ],
)
def test_a_wrong_value_is_one_line(key: str, value: Any, words: str) -> None:
    """Every mistake names the key, the value and what it must be."""
    with pytest.raises(UsageError) as caught:
        load_experiment("pendulum-swingup", {key: value})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("- 1\n- 2\n", "key: value"), ("env: [\n", "not valid YAML in line"), ("algo: rfo\n", "'env' is missing")],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    """Broken YAML, a list, and a missing key are told with the file's name."""
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words) as caught:
        load_experiment(str(path))
    assert "mine.yaml" in str(caught.value)


def test_missing_configs_are_one_line() -> None:
    """A missing file and a misspelt name are told apart."""
    with pytest.raises(UsageError, match=r"nowhere.yaml does not exist"):
        load_experiment("nowhere.yaml")
    with pytest.raises(UsageError, match="did you mean 'pendulum-swingup'"):
        load_experiment("pendulum-swing")


def test_overrides_must_be_pairs() -> None:
    """--set without a value is answered with an example."""
    with pytest.raises(UsageError, match="key=value"):
        parse_overrides(["env_steps"])


def test_keys_of_run_and_algorithm_do_not_collide() -> None:
    """One flat file has one meaning for each key."""
    from dataclasses import fields

    from rfo.train.config import ExperimentConfig

    assert not {field.name for field in fields(ExperimentConfig)} & {field.name for field in fields(RFOConfig)}
