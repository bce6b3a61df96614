"""`rfo demo`: train, compare with baselines, film and plot, with one table at the end."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rfo.cli.training import collect_overrides, default_run_dir, train
from rfo.core.errors import UsageError
from rfo.train.config import Experiment, load_experiment
from rfo.train.evaluate import Evaluation

__all__ = ["run_demo"]


def run_demo(options: argparse.Namespace) -> int:
    """Runs the whole path once; exit code 1 if the expected return is not reached."""
    from rfo.train.loop import TrainingStoppedError

    if not options.seconds > 0:
        raise UsageError(f"--seconds is {options.seconds}; it must be positive")
    experiment = load_experiment(options.config, collect_overrides(options))
    run_dir = Path(options.run_dir) if options.run_dir else default_run_dir(experiment)
    try:
        finished, _ = train(experiment, run_dir, resume=False)
    except TrainingStoppedError as error:
        print(f"rfo: {error}", file=sys.stderr)
        return 1
    if not finished:
        print(f"rfo: stopped and saved; continue with: rfo train --resume {run_dir}", file=sys.stderr)
        return 130
    evaluations, train_s = _evaluate(run_dir)
    _film_and_plot(experiment, run_dir, options.seconds)
    summary = {name: dataclasses.asdict(evaluation) for name, evaluation in evaluations.items()}
    (run_dir / "summary.json").write_text(
        json.dumps({"train_s": train_s, **summary}, indent=2) + "\n", encoding="utf-8"
    )
    _show(experiment, run_dir, evaluations, train_s)
    wanted = experiment.config.expected_return
    if wanted is None or evaluations["trained"].return_mean >= wanted:
        return 0
    print(f"rfo: the expected return {wanted:g} was not reached", file=sys.stderr)
    return 1


def _evaluate(run_dir: Path) -> tuple[dict[str, Evaluation], float]:
    from rfo.train.baselines import evaluate_baselines
    from rfo.train.evaluate import evaluate, trained_policy
    from rfo.train.logging import read_metrics
    from rfo.train.loop import EVALUATION_SEED, load_run

    # Read back from the folder: what is shown is what was saved.
    experiment, task, algorithm = load_run(run_dir)
    episodes, seed = experiment.config.eval_episodes, experiment.config.seed + EVALUATION_SEED
    with Console(stderr=True).status("evaluating"):
        found = {}
        for name, deterministic in (("trained", True), ("trained, sampled", False)):
            policy = trained_policy(algorithm, deterministic=deterministic, device=task.device, seed=seed)
            found[name] = evaluate(task, policy, episodes=episodes, seed=seed)
        found |= evaluate_baselines(experiment, task, episodes=episodes, seed=seed)
    return found, read_metrics(run_dir)[-1]["train_s"]


def _film_and_plot(experiment: Experiment, run_dir: Path, seconds: float) -> None:
    from rfo.train.logging import read_metrics
    from rfo.train.record import Film, record_run
    from rfo.view.plots import plot_curve

    config = experiment.config
    film = Film(run_dir / "film.mp4", seconds=seconds, seed=config.seed, strip=run_dir / "strip.png")
    record_run(run_dir, film, "trained", {})
    rows = read_metrics(run_dir)
    labels = {
        "env_steps": "environment steps",
        "eval/distance_m": "distance in an episode [m]",
        "eval/return_mean": "return of an episode",
    }
    keys = [key for key in ("eval/distance_m", "eval/return_mean") if key in rows[-1]]
    title = f"{experiment.name}, seed {config.seed}"
    plot_curve({"": [rows]}, keys, title=title, labels=labels).savefig(run_dir / "curve.png")


def _show(experiment: Experiment, run_dir: Path, evaluations: dict[str, Evaluation], train_s: float) -> None:
    config = experiment.config
    title = f"{config.env}: {config.env_steps:,} environment steps in {train_s:.0f} s of training, seed {config.seed}"
    table = Table("policy", "return", "distance", "lowest up", title=title)
    for name, evaluation in evaluations.items():
        distance = "-" if evaluation.distance_m is None else f"{evaluation.distance_m:.2f} m"
        up = f"{evaluation.metrics['up_min']:.2f}" if "up_min" in evaluation.metrics else "-"
        table.add_row(name, f"{evaluation.return_mean:.1f} ± {evaluation.return_std:.1f}", distance, up)
    console = Console()
    console.print(table)
    for text, name in (
        ("film", "film.mp4"),
        ("its frames", "strip.png"),
        ("curve", "curve.png"),
        ("figures", "summary.json"),
    ):
        print(f"{text}: {run_dir / name}")
    print(f"all curves: tensorboard --logdir {run_dir}")
