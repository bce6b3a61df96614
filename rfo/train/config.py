"""Experiments as one flat, strict YAML: the run's own keys and the algorithm's, without sections.

Every key is a field of `ExperimentConfig` or of the algorithm's config dataclass; anything else is an error.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from rfo.core.errors import UsageError
from rfo.core.registry import did_you_mean
from rfo.train.algorithms import config_class

__all__ = [
    "SEED_LIMIT",
    "Experiment",
    "ExperimentConfig",
    "available_configs",
    "load_experiment",
    "parse_overrides",
    "save_experiment",
]

SEED_LIMIT = 2**62
"""Generators take 64 bits with a sign; evaluations add to the seed."""


@dataclass(frozen=True)
class ExperimentConfig:
    """What is run, for how long, and what it should reach.

    Attributes:
        env: Registered environment.
        algo: Algorithm.
        seed: Seed of networks, environments and every random draw.
        num_envs: Environments stepped together.
        env_steps: Budget, in control steps summed over environments.
        eval_interval: Environment steps between evaluations; 0 to evaluate only at the end.
        eval_episodes: Episodes per evaluation.
        checkpoint_interval: Environment steps between checkpoints; 0 to save only at the end.
        expected_return: Mean evaluation return that the run should reach, where one is known.
        threads: Cores the physics engine may use; None for all.
        device: Torch device.
    """

    env: str
    algo: str = "rfo"
    seed: int = 0
    num_envs: int = 32
    env_steps: int = 100_000
    eval_interval: int = 0
    eval_episodes: int = 16
    checkpoint_interval: int = 0
    expected_return: float | None = None
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("num_envs", 1), ("env_steps", 1), ("eval_episodes", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"config key {name!r} is {value}; it must be at least {least}")
        for name in ("seed", "eval_interval", "checkpoint_interval"):
            if getattr(self, name) < 0:
                raise UsageError(f"config key {name!r} is {getattr(self, name)}; it must not be negative")
        if self.seed >= SEED_LIMIT:
            raise UsageError(f"config key 'seed' is {self.seed}; it must be less than 2**62")


@dataclass(frozen=True)
class Experiment:
    """A config, resolved.

    Attributes:
        name: The config's name.
        config: What is run.
        algorithm: The algorithm's own config dataclass.
    """

    name: str
    config: ExperimentConfig
    algorithm: Any

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one update of the algorithm takes."""
        return self.config.num_envs * int(self.algorithm.horizon)


def available_configs() -> dict[str, Path]:
    """Returns the named configs: those of the working directory, of the repository, and those installed with rfo."""
    package = Path(__file__).resolve().parent.parent
    found: dict[str, Path] = {}
    for folder in (package / "configs", package.parent / "configs", Path("configs")):
        found.update({path.stem: path for path in sorted(folder.glob("*.yaml"))})
    return found


def load_experiment(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Reads a named config, or one given by its path.

    Args:
        name_or_path: Name of a config, or path of a YAML file.
        overrides: Keys to replace, with their values.

    Raises:
        UsageError: There is no such config, or a key or value in it is wrong.
    """
    path = _find(name_or_path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path} is not valid YAML{where}: {getattr(error, 'problem', None) or error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read config {path}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold `key: value` lines, one per config key")
    return resolve(path.stem, {**values, **(overrides or {})}, str(path))


def resolve(name: str, values: Mapping[str, Any], source: str) -> Experiment:
    """Builds the typed configs from flat keys and values.

    Raises:
        UsageError: A key is unknown or missing, or a value has the wrong type.
    """
    algo = values.get("algo", "rfo")
    algorithm = config_class(algo if isinstance(algo, str) else str(algo))
    known = [field.name for cls in (ExperimentConfig, algorithm) for field in fields(cls)]
    for key in values:
        if key not in known:
            raise UsageError(f"{source}: unknown config key {str(key)!r}{did_you_mean(str(key), known)}")
    return Experiment(name, _build(ExperimentConfig, values, source), _build(algorithm, values, source))


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Writes every key, defaults included, in the form `load_experiment` reads."""
    values = {**dataclasses.asdict(experiment.config), **dataclasses.asdict(experiment.algorithm)}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    path.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """Parses `key=value` arguments; values are read as YAML.

    Raises:
        UsageError: An argument is not of this form.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting!r}: write it as key=value, for example --set env_steps=50000")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {setting!r}: the value is not valid YAML") from error
    return parsed


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"config file {name_or_path} does not exist")
        return path
    named = available_configs()
    if name_or_path not in named:
        known = sorted(named)
        hint = did_you_mean(name_or_path, known)
        raise UsageError(
            f"unknown config {name_or_path!r}{hint} (known: {', '.join(known)}; or a path to a .yaml file)"
        )
    return named[name_or_path]


def _build(cls: type[Any], values: Mapping[str, Any], source: str) -> Any:
    hints = typing.get_type_hints(cls)
    chosen = {}
    for field in fields(cls):
        if field.name in values:
            chosen[field.name] = _convert(values[field.name], hints[field.name], f"{source}: config key {field.name!r}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{source}: config key {field.name!r} is missing")
    try:
        return cls(**chosen)
    except ValueError as error:  # a config dataclass refuses an impossible value
        raise UsageError(f"{source}: {error}") from error


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Returns `value` as the field's type, converting only what YAML itself leaves open (1e-3, 1e6, lists)."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _convert(value, kind, where)
    if origin is Literal:
        if value not in arguments:
            hint = did_you_mean(str(value), [str(argument) for argument in arguments])
            raise UsageError(f"{where} is {value!r}; it must be one of {', '.join(map(str, arguments))}{hint}")
        return value
    if origin is tuple:
        return _convert_tuple(value, arguments, where)
    return _convert_scalar(value, kind, where)


def _convert_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where} is {value!r}; it must be a list, for example [128, 128]")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(item, arguments[0], where) for item in value)
    if len(arguments) != len(value):
        raise UsageError(f"{where} has {len(value)} entries; it must have {len(arguments)}")
    return tuple(_convert(item, kind, where) for item, kind in zip(value, arguments, strict=True))


def _convert_scalar(value: Any, kind: Any, where: str) -> Any:
    if kind in (int, float) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3 as a string and 1e6 likewise; both are numbers to whoever wrote them.
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if math.isfinite(number) and (kind is float or isinstance(value, int)):
            return kind(value)
        if math.isfinite(number) and number.is_integer():
            return int(number)
    elif kind in (bool, str) and isinstance(value, kind):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise UsageError(f"{where} is {value!r}; it must be {names.get(kind, kind)}")
