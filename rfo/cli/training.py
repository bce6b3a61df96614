"""`rfo train`, `eval` and `record`: commands that make and use runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rfo.core.errors import UsageError
from rfo.train.config import Experiment, load_experiment, parse_overrides, save_experiment
from rfo.train.evaluate import Evaluation

__all__ = [
    "collect_overrides",
    "default_run_dir",
    "episode_count",
    "evaluation_line",
    "machine_overrides",
    "run_eval",
    "run_record",
    "run_train",
    "stop_on_signal",
    "train",
]

SAVING = "\nrfo: finishing the update and saving; press Ctrl-C again to stop without saving"


def run_train(options: argparse.Namespace) -> int:
    """Trains, or continues a run."""
    from rfo.train.loop import TrainingStoppedError

    experiment, run_dir = _resume(options) if options.resume else _begin(options)
    try:
        finished, evaluation = train(experiment, run_dir, resume=bool(options.resume))
    except TrainingStoppedError as error:
        print(f"rfo: {error}", file=sys.stderr)
        return 1
    if not finished:
        print(f"rfo: stopped and saved; continue with: rfo train --resume {run_dir}", file=sys.stderr)
        return 130
    if evaluation is not None:
        print(evaluation_line(evaluation))
        wanted = experiment.config.expected_return
        if wanted is not None:
            print(f"expected return {wanted:g}: {'reached' if evaluation.return_mean >= wanted else 'not reached'}")
    print(f"run: {run_dir}")
    return 0


def run_eval(options: argparse.Namespace) -> int:
    """Evaluates a run, and baselines where asked."""
    from rfo.train.baselines import evaluate_baselines
    from rfo.train.evaluate import evaluate, trained_policy
    from rfo.train.loop import EVALUATION_SEED, load_run
    from rfo.train.progress import ProgressLine

    experiment, task, algorithm = load_run(Path(options.run), machine_overrides(options))
    episodes = episode_count(options, experiment)
    seed = experiment.config.seed + EVALUATION_SEED
    policy = trained_policy(algorithm, deterministic=not options.sampled, device=task.device, seed=seed)
    with ProgressLine("evaluating", task.spec.episode_length) as progress:
        found = evaluate(task, policy, episodes=episodes, seed=seed, on_step=lambda step: progress.update(step + 1))
    baselines = evaluate_baselines(experiment, task, episodes=episodes, seed=seed) if options.baselines else {}
    if options.json:
        report: dict[str, Any] = {**found.summary(), "metrics": found.metrics}
        if baselines:
            report["baselines"] = {name: evaluation.summary() for name, evaluation in baselines.items()}
        print(json.dumps(report))
        return 0
    print(f"trained: {evaluation_line(found)}")
    for name, evaluation in baselines.items():
        print(f"{name}: {evaluation_line(evaluation)}")
    return 0


def run_record(options: argparse.Namespace) -> int:
    """Records a film of a run or of an environment."""
    from rfo.train.record import Film, record_environment, record_run

    run_dir = Path(options.subject)
    is_run = run_dir.is_dir()
    if not is_run and options.policy == "trained":
        raise UsageError(
            f"{options.subject} is not the folder of a run, so there is no trained policy; try --policy random"
        )
    default = run_dir / "film.mp4" if is_run else Path(f"{options.subject}.mp4")
    output = default if options.output is None else Path(options.output)
    film = Film(
        output,
        **{name: getattr(options, name) for name in ("seconds", "fps", "width", "height", "seed", "renderer", "start")},
        strip=None if options.strip is None else Path(options.strip),
    )
    if is_run:
        record_run(run_dir, film, options.policy or "trained", machine_overrides(options))
    else:
        record_environment(options.subject, film, options.policy or "random", machine_overrides(options))
    print(output)
    return 0


def train(experiment: Experiment, run_dir: Path, *, resume: bool) -> tuple[bool, Evaluation | None]:
    """Trains until the budget is spent or Ctrl-C; returns whether it was spent, and the last evaluation."""
    from rfo.train.loop import Trainer

    with stop_on_signal(SAVING) as stop:
        result = Trainer(experiment, run_dir, resume=resume).run(lambda: bool(stop))
    return result.finished, result.evaluation


def default_run_dir(experiment: Experiment) -> Path:
    """Returns a new folder under runs/."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{experiment.name}-seed{experiment.config.seed}-{stamp}"


def collect_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the config keys that the command line replaces."""
    overrides = parse_overrides(options.settings)
    if options.seed is not None:
        overrides["seed"] = options.seed
    return overrides | machine_overrides(options)


def episode_count(options: argparse.Namespace, experiment: Experiment) -> int:
    """Returns the number of episodes that the command line or the config gives."""
    episodes: int = experiment.config.eval_episodes if options.episodes is None else options.episodes
    if episodes < 1:
        raise UsageError(f"--episodes is {episodes}; it must be at least 1")
    return episodes


def evaluation_line(evaluation: Evaluation) -> str:
    """Returns an evaluation as one line for people."""
    parts = [f"return {evaluation.return_mean:.1f} ± {evaluation.return_std:.1f} over {evaluation.episodes} episodes"]
    if evaluation.distance_m is not None:
        parts.append(f"distance {evaluation.distance_m:.2f} m")
    parts += [f"{name} {value:.3g}" for name, value in evaluation.metrics.items()]
    return ", ".join(parts)


def _begin(options: argparse.Namespace) -> tuple[Experiment, Path]:
    if options.config is None:
        raise UsageError("name a config to train, for example `rfo train pendulum-swingup`, or a run with --resume RUN")
    experiment = load_experiment(options.config, collect_overrides(options))
    return experiment, Path(options.run_dir) if options.run_dir else default_run_dir(experiment)


def _resume(options: argparse.Namespace) -> tuple[Experiment, Path]:
    given = [name.replace("_", "-") for name in ("config", "seed", "run_dir") if getattr(options, name) is not None]
    settings = parse_overrides(options.settings)
    given += [f"set {key}" for key in settings if key != "env_steps"]
    if given:
        what, may = given[0], "threads may change, and --set env_steps"
        raise UsageError(f"--resume continues a run with its own config; leave out {what} ({may})")
    run_dir = Path(options.resume)
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UsageError(f"{run_dir} holds no run to resume: there is no config.yaml in it")
    # A longer run from now on, also when it is resumed again; what cannot be resumed is left as it is.
    if settings and (run_dir / "checkpoint.pt").is_file():
        save_experiment(load_experiment(str(path), settings), path)
    experiment = load_experiment(str(path), machine_overrides(options))
    return dataclasses.replace(experiment, name=run_dir.name), run_dir


def machine_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the threads and the device that the command line gives."""
    return {key: value for key in ("threads", "device") if (value := getattr(options, key)) is not None}


@contextmanager
def stop_on_signal(message: str) -> Iterator[list[int]]:
    """Yields a list that Ctrl-C (or SIGTERM) fills, and prints a message; a second Ctrl-C stops at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print(message, file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
