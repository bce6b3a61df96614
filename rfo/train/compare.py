"""Comparisons: several configs over several seeds, run where they are missing, as one table and one figure."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfo.core.errors import SimulationDivergedError, UsageError
from rfo.train.config import Experiment, load_experiment, parse_overrides
from rfo.train.logging import read_metrics, versions
from rfo.train.progress import ProgressLine
from rfo.train.statistics import Estimate, bootstrap_interval, curve_at

__all__ = ["Comparison", "Run", "plan_runs", "run_missing", "summarize", "write_report"]

EVALUATION_EPISODES = 64
"""Episodes of the final evaluations, deterministic and sampled."""


@dataclass(frozen=True)
class Run:
    """One config with one seed, and the folder it lives in."""

    experiment: Experiment
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it has been trained and evaluated."""
        return (self.folder / "evaluation.json").is_file()


@dataclass(frozen=True)
class Comparison:
    """What is known of one config's runs.

    Attributes:
        name: The config.
        seeds: Seeds that finished.
        stopped: Seeds that did not, with the reason.
        figures: Interquartile means with their 95 % intervals, by name.
        env_steps_per_s: Mean speed of the training.
    """

    name: str
    seeds: tuple[int, ...]
    stopped: dict[int, str]
    figures: dict[str, Estimate]
    env_steps_per_s: float


def plan_runs(
    configs: Sequence[str], seeds: Sequence[int], overrides: Mapping[str, Any], folder: Path
) -> dict[str, list[Run]]:
    """Resolves every config with every seed.

    Args:
        configs: Names or paths; `NAME:KEY=VALUE`, with as many keys as wanted, is a variant of a config.
        seeds: Seeds.
        overrides: Config keys to replace in all of them.
        folder: Where the runs live, one folder per config and seed.

    Raises:
        UsageError: A config is wrong or named twice, or a folder holds a run of another config.
    """
    plan: dict[str, list[Run]] = {}
    for config in configs:
        base, *settings = config.split(":")
        own = {**overrides, **parse_overrides(settings)}
        experiments = [load_experiment(base, {**own, "seed": seed}) for seed in seeds]
        name = " ".join([experiments[0].name, *settings])
        if name in plan:
            raise UsageError(f"config {name!r} is named twice")
        plan[name] = [Run(e, folder / name.replace(" ", ",") / f"seed{e.config.seed}") for e in experiments]
        for run in plan[name]:
            _require_same(run)
    return plan


def run_missing(plan: Mapping[str, Sequence[Run]], jobs: int) -> dict[Path, str]:
    """Trains and evaluates what has not finished, `jobs` runs side by side; unfinished ones continue.

    Returns:
        Why runs stopped early, by folder.
    """
    missing = [run for runs in plan.values() for run in runs if not run.finished]
    stopped: dict[Path, str] = {}
    if not missing:
        return stopped
    context = multiprocessing.get_context("spawn")  # a forked torch or CUDA is a broken one
    total = sum(len(runs) for runs in plan.values())
    with ProcessPoolExecutor(min(jobs, len(missing)), mp_context=context) as pool:
        futures = {pool.submit(train_and_evaluate, run): run for run in missing}
        try:
            with ProgressLine("comparing", total, total - len(missing)) as progress:
                for count, future in enumerate(as_completed(futures), total - len(missing) + 1):
                    reason = future.result()
                    if reason:
                        stopped[futures[future].folder] = reason
                    progress.update(count, f"{count} of {total} runs")
        except KeyboardInterrupt:
            # The workers were interrupted as well: each finishes its update and saves.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return stopped


def train_and_evaluate(run: Run) -> str:
    """Trains one run to its end, evaluates it, and returns why it stopped early, if it did."""
    from rfo.train.loop import Trainer, TrainingStoppedError

    interrupted: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: interrupted.append(number))
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "log.txt", "a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        resume = (run.folder / "checkpoint.pt").is_file()
        try:
            result = Trainer(run.experiment, run.folder, resume=resume).run(lambda: bool(interrupted))
            found = _evaluate(run) if result.finished else {}
        except (TrainingStoppedError, SimulationDivergedError) as error:
            return str(error)
    if not found:
        return "interrupted"
    (run.folder / "evaluation.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return ""


def summarize(plan: Mapping[str, Sequence[Run]], stopped: Mapping[Path, str]) -> list[Comparison]:
    """Reduces the runs to one line per config, best first.

    Curves are read at the environment steps, and at the seconds of training, that every finished run reached.

    Raises:
        UsageError: No run has finished.
    """
    rows = {run.folder: read_metrics(run.folder) for runs in plan.values() for run in runs if run.finished}
    if not rows:
        raise UsageError("no run has finished: " + "; ".join(stopped.values()))
    ends = {key: min(found[-1][key] for found in rows.values()) for key in ("env_steps", "train_s")}
    compared = [_summarize_config(name, runs, rows, ends, stopped) for name, runs in plan.items()]

    def rank(comparison: Comparison) -> float:
        return -comparison.figures.get("return_at_env_steps", (-math.inf, 0.0, 0.0))[0]

    return sorted(compared, key=rank)


def write_report(
    compared: Sequence[Comparison], plan: Mapping[str, Sequence[Run]], folder: Path, command: str
) -> list[Path]:
    """Writes the table as markdown and JSON, and the figure.

    The figure has a panel for each horizontal axis on which the evaluations of every config's runs overlap.

    Args:
        compared: From `summarize`.
        plan: The runs.
        folder: Where to write.
        command: What made the report; it stands under the table.

    Returns:
        The files: table, figures, and the picture where there is one.
    """
    from rfo.view.plots import plot_curve

    rows = {name: [read_metrics(run.folder) for run in runs if run.finished] for name, runs in plan.items()}
    rows = {name: found for name, found in rows.items() if found}
    ends = {key: min(run[-1][key] for runs in rows.values() for run in runs) for key in ("env_steps", "train_s")}
    config = next(iter(plan.values()))[0].experiment.config
    facts = versions(config.threads)
    markdown, figures, picture = (folder / f"comparison.{suffix}" for suffix in ("md", "json", "png"))
    markdown.write_text(_markdown(compared, ends, facts, command), encoding="utf-8")
    content = {
        "command": command,
        "equal": ends,
        "versions": facts,
        "configs": [dataclasses.asdict(comparison) for comparison in compared],
    }
    figures.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    labels = {
        "env_steps": "environment steps",
        "train_s": "seconds of training",
        "eval/return_mean": "return of an episode",
    }
    axes = [axis for axis in ("env_steps", "train_s") if all(_overlap(runs, axis) for runs in rows.values())]
    if not axes:
        return [markdown, figures]
    plot_curve(rows, ["eval/return_mean"], x=axes, title=config.env, labels=labels).savefig(picture)
    return [markdown, figures, picture]


def _overlap(runs: Sequence[Sequence[Mapping[str, float]]], axis: str) -> bool:
    places = [[row[axis] for row in rows if "eval/return_mean" in row] for rows in runs]
    return max(map(min, places)) <= min(map(max, places))


def _evaluate(run: Run) -> dict[str, Any]:
    from rfo.train.evaluate import evaluate, trained_policy
    from rfo.train.loop import EVALUATION_SEED, load_run

    machine = {"threads": run.experiment.config.threads, "device": run.experiment.config.device}
    experiment, task, algorithm = load_run(run.folder, machine)
    seed = experiment.config.seed + EVALUATION_SEED + 1  # other episodes than those of the learning curve
    found = {}
    for name, deterministic in (("deterministic", True), ("sampled", False)):
        policy = trained_policy(algorithm, deterministic=deterministic, device=task.device, seed=seed)
        found[name] = dataclasses.asdict(evaluate(task, policy, episodes=EVALUATION_EPISODES, seed=seed))
    return found


def _summarize_config(
    name: str,
    runs: Sequence[Run],
    rows: Mapping[Path, list[dict[str, float]]],
    ends: Mapping[str, float],
    stopped: Mapping[Path, str],
) -> Comparison:
    finished = [run for run in runs if run.folder in rows]
    curves = [rows[run.folder] for run in finished]
    scores: dict[str, list[float]] = {
        f"return_at_{key}": [curve_at(curve, "eval/return_mean", key, end) for curve in curves]
        for key, end in ends.items()
    }
    final = [json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8")) for run in finished]
    for kind in ("deterministic", "sampled"):
        scores[f"{kind}_return"] = [found[kind]["return_mean"] for found in final]
        distances = [found[kind]["distance_m"] for found in final]
        if distances and None not in distances:
            scores[f"{kind}_distance_m"] = distances
    figures = {key: bootstrap_interval(values) for key, values in scores.items() if values}
    speeds = [curve[-1]["env_steps"] / curve[-1]["train_s"] for curve in curves]
    reasons = {run.experiment.config.seed: stopped.get(run.folder, "unfinished") for run in runs if run not in finished}
    seeds = tuple(run.experiment.config.seed for run in finished)
    return Comparison(name, seeds, reasons, figures, sum(speeds) / len(speeds) if speeds else 0.0)


def _markdown(compared: Sequence[Comparison], ends: Mapping[str, float], facts: Mapping[str, Any], command: str) -> str:
    columns = {
        "return_at_env_steps": f"return at {ends['env_steps']:,.0f} steps",
        "return_at_train_s": f"return at {ends['train_s']:.0f} s",
        "deterministic_return": "final, deterministic",
        "sampled_return": "final, sampled",
        "deterministic_distance_m": "distance [m]",
    }
    columns = {key: title for key, title in columns.items() if any(key in found.figures for found in compared)}
    lines = [
        "| config | seeds | " + " | ".join(columns.values()) + " | env steps/s |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for found in compared:
        cells = [_cell(found.figures.get(key)) for key in columns]
        lines.append(
            f"| {found.name} | {len(found.seeds)} | " + " | ".join(cells) + f" | {found.env_steps_per_s:,.0f} |"
        )
    for found in compared:
        lines += [f"\n{found.name}, seed {seed}, did not finish: {reason}" for seed, reason in found.stopped.items()]
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    lines += [
        "",
        "Interquartile mean over seeds with its 95 % bootstrap interval. The first two columns are read from the "
        "learning curves (deterministic policy), linearly between evaluations; a run's learning rates decay with its "
        f"own budget, so the column at equal time shows slower runs before their end. Final: {EVALUATION_EPISODES} "
        "episodes per seed.",
        "",
        f"    {command}",
        "",
        f"{packages}; Python {facts['python']}; {facts['cpu']}, {facts['cores']} cores, {facts['engine_threads']} "
        f"engine threads per run; {facts['platform']}; CUDA {facts['cuda']}",
    ]
    return "\n".join(lines) + "\n"


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    value, low, high = (f"{number:.1f}" if abs(number) < 100 else f"{number:.0f}" for number in estimate)
    return value if low == "nan" else f"{value} [{low}, {high}]"


def _require_same(run: Run) -> None:
    path = run.folder / "config.yaml"
    if not path.is_file():
        return
    config = run.experiment.config
    there = load_experiment(str(path), {"threads": config.threads, "device": config.device})
    if (there.config, there.algorithm) != (config, run.experiment.algorithm):
        raise UsageError(f"{run.folder} holds a run of another config than {run.experiment.name}; use another --output")
