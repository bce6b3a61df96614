"""The training loop: updates until the budget is spent, with evaluations, logs and checkpoints in between."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rfo.core import registry
from rfo.core.errors import SimulationDivergedError, UsageError
from rfo.core.machine import require_machine
from rfo.core.shell import VectorEnv
from rfo.core.task import Task
from rfo.train.algorithms import Algorithm, Pretraining, VariableHorizon, make_algorithm
from rfo.train.bench import available_cores
from rfo.train.checkpoint import CHECKPOINT_FORMAT, POLICY_FILE, load_checkpoint, load_policy, save_atomically
from rfo.train.config import Experiment, load_experiment, save_experiment
from rfo.train.evaluate import Evaluation, evaluate, trained_policy
from rfo.train.logging import RunLogger, versions
from rfo.train.progress import ProgressLine

__all__ = ["EVALUATION_SEED", "TrainResult", "Trainer", "TrainingStoppedError", "build", "load_run"]

EVALUATION_SEED = 1_000_003
"""Added to a run's seed for its evaluations, which must not see the initial states it trains on."""


PRETRAINING_SLICE = 500
"""Updates on a data set that make one row of the log."""


class TrainingStoppedError(RuntimeError):
    """A run stopped because something was not finite; the message says what, where, and what was saved."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        env_steps: Environment steps taken.
        train_s: Seconds spent in updates, evaluations and checkpoints excluded.
        finished: Whether the budget was spent; False where the run was asked to stop.
        evaluation: Last evaluation, where there was one.
    """

    env_steps: int
    train_s: float
    finished: bool
    evaluation: Evaluation | None


@dataclass
class _Counters:
    updates: int = 0
    env_steps: int = 0
    train_s: float = 0.0
    best_return: float = -math.inf
    best_env_steps: int = 0


def build(experiment: Experiment) -> tuple[Task, Algorithm]:
    """Builds the task and the algorithm of an experiment, in float32."""
    config = experiment.config
    torch.set_num_threads(config.threads or available_cores())
    task = registry.make(config.env, device=config.device, dtype=torch.float32, threads=config.threads)
    algorithm = make_algorithm(
        config.algo, experiment.algorithm, task.spec, device=task.device, dtype=task.dtype, seed=config.seed
    )
    return task, algorithm


def load_run(run_dir: Path, overrides: dict[str, Any] | None = None) -> tuple[Experiment, Task, Algorithm]:
    """Builds what a run trained, from its config and its checkpoint, or from an exported policy.

    Raises:
        UsageError: The folder does not hold a run.
    """
    if not run_dir.is_dir():
        raise UsageError(f"run {run_dir} does not exist")
    if not (run_dir / "config.yaml").is_file():
        raise UsageError(f"{run_dir} holds no config.yaml; give the folder of a run that `rfo train` made")
    experiment = load_experiment(str(run_dir / "config.yaml"), overrides)
    device = experiment.config.device
    require_machine(device, experiment.config.threads)
    exported = (run_dir / POLICY_FILE).is_file()
    content = load_policy(run_dir, device) if exported else load_checkpoint(run_dir, device)["algorithm"]
    task, algorithm = build(experiment)
    _restore(algorithm.load_policy_state_dict if exported else algorithm.load_state_dict, content, run_dir)
    return experiment, task, algorithm


def _restore(load: Callable[[dict[str, Any]], None], content: dict[str, Any], run_dir: Path) -> None:
    try:
        load(content)
    except (KeyError, RuntimeError, ValueError) as error:  # other networks than those that were saved
        raise UsageError(
            f"the checkpoint in {run_dir} does not fit its config.yaml; restore the config it was trained with"
        ) from error


class Trainer:
    """One run in one folder.

    Args:
        experiment: What to run.
        run_dir: Folder to write into; made where it does not exist.
        resume: Continue from the folder's checkpoint, bit for bit.

    Raises:
        UsageError: The folder already holds a run, or none to resume.
    """

    def __init__(self, experiment: Experiment, run_dir: Path, *, resume: bool = False) -> None:
        self.experiment, self.run_dir = experiment, run_dir
        if not resume and (run_dir / "config.yaml").exists():
            raise UsageError(
                f"{run_dir} already holds a run; continue it with --resume {run_dir} or give a new --run-dir"
            )
        require_machine(experiment.config.device, experiment.config.threads)
        checkpoint = load_checkpoint(run_dir, experiment.config.device) if resume else None
        self.task, self.algorithm = build(experiment)
        config = experiment.config
        self.env = VectorEnv(self.task, config.num_envs, seed=config.seed, stagger=True)
        self.counters = _Counters()
        self._last_steps = 0
        self.evaluation: Evaluation | None = None
        if checkpoint is not None:
            self._restore(checkpoint)
        if isinstance(self.algorithm, Pretraining):
            self.algorithm.prepare()
        if checkpoint is not None:
            return
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the run's folder {run_dir}: {error.strerror}") from error
        save_experiment(experiment, run_dir / "config.yaml")
        (run_dir / "versions.json").write_text(json.dumps(versions(config.threads), indent=2) + "\n", encoding="utf-8")

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> TrainResult:
        """Trains until the budget is spent or `should_stop` says so after an update.

        Raises:
            TrainingStoppedError: Something was not finite.
        """
        config, counters = self.experiment.config, self.counters
        logger = RunLogger(self.run_dir, rows=counters.updates, env_steps=counters.env_steps)
        title = f"{self.experiment.name} seed {config.seed}"
        try:
            stopped = self._pretrain(logger, title, should_stop)
            with ProgressLine(title, config.env_steps, counters.env_steps) as progress:
                while counters.env_steps < config.env_steps and not stopped:
                    row = self._update()
                    stopped = should_stop()
                    finished = counters.env_steps >= config.env_steps
                    if self._crossed(config.eval_interval) or finished:
                        row |= self._evaluate()
                    logger.write(row)
                    if self._crossed(config.checkpoint_interval) or finished or stopped:
                        self.save()
                    progress.update(min(counters.env_steps, config.env_steps), self._figures(row))
        finally:
            logger.close()
        done = counters.env_steps >= config.env_steps
        return TrainResult(counters.env_steps, counters.train_s, done, self.evaluation)

    def _pretrain(self, logger: RunLogger, title: str, should_stop: Callable[[], bool]) -> bool:
        """Learns from the data set, where there is one, and evaluates once; returns whether to stop."""
        algorithm, counters = self.algorithm, self.counters
        if not isinstance(algorithm, Pretraining) or algorithm.pretraining_left <= 0:
            return False
        total, stopped = algorithm.pretraining_left, False
        with ProgressLine(f"{title} pretraining", total) as progress:
            while algorithm.pretraining_left > 0 and not stopped:
                started = time.perf_counter()
                try:
                    metrics = algorithm.pretrain(min(PRETRAINING_SLICE, algorithm.pretraining_left))
                except FloatingPointError as error:
                    raise TrainingStoppedError(f"{error} (in pretraining)") from error
                counters.train_s += time.perf_counter() - started
                counters.updates += 1
                row = {"update": counters.updates, "env_steps": 0, "train_s": counters.train_s} | metrics
                stopped = should_stop()
                finished = algorithm.pretraining_left <= 0
                logger.write(row | self._evaluate() if finished else row)
                if stopped or finished:
                    self.save()
                progress.update(total - algorithm.pretraining_left, f"loss {metrics.get('imitation_loss', 0.0):.3g}")
        return stopped

    def save(self) -> None:
        """Writes checkpoint.pt."""
        content = {
            "format": CHECKPOINT_FORMAT,
            "algorithm": self.algorithm.state_dict(),
            "env": self.env.state_dict(),
            "rng": torch.get_rng_state(),
            "counters": asdict(self.counters),
        }
        save_atomically(content, self.run_dir / "checkpoint.pt")

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        _restore(self.algorithm.load_state_dict, checkpoint["algorithm"], self.run_dir)
        env_state = checkpoint["env"]
        if len(env_state["elapsed"]) != self.env.n:
            raise UsageError(
                f"the checkpoint in {self.run_dir} has {len(env_state['elapsed'])} environments, its config.yaml says "
                f"{self.env.n}; restore the config it was trained with"
            )
        # Generators keep their state on the CPU whatever the device.
        self.env.load_state_dict({**env_state, "generator": env_state["generator"].cpu()})
        torch.set_rng_state(checkpoint["rng"].cpu())
        self.counters = _Counters(**checkpoint["counters"])

    def _update(self) -> dict[str, float]:
        config, counters = self.experiment.config, self.counters
        self._last_steps = self._steps_of_next_update()
        started = time.perf_counter()
        try:
            metrics = self.algorithm.update(self.env, counters.env_steps / config.env_steps)
        except SimulationDivergedError as error:
            raise self._stopped(error) from error
        except FloatingPointError as error:
            raise TrainingStoppedError(f"{error} (at {counters.env_steps} environment steps)") from error
        seconds = time.perf_counter() - started
        counters.updates += 1
        counters.env_steps += self._last_steps
        counters.train_s += seconds
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise TrainingStoppedError(
                f"{config.env}: {bad[0]!r} is {metrics[bad[0]]} after {counters.env_steps} environment steps; "
                "try a smaller learning rate or a shorter horizon"
            )
        head = {"update": counters.updates, "env_steps": counters.env_steps, "train_s": counters.train_s}
        return {**head, "env_steps_per_s": self._last_steps / seconds, **metrics}

    def _steps_of_next_update(self) -> int:
        if isinstance(self.algorithm, VariableHorizon):
            return self.experiment.config.num_envs * self.algorithm.horizon
        return self.experiment.steps_per_update

    def _stopped(self, error: SimulationDivergedError) -> TrainingStoppedError:
        dump = self.run_dir / "diverged.pt"
        place = {"env_id": error.env_id, "env_index": error.env_index, "step": error.step, "tensor": error.tensor}
        save_atomically({**place, **error.replay}, dump)
        return TrainingStoppedError(f"{error}; the state before the step and its action are in {dump}")

    def _evaluate(self) -> dict[str, float]:
        config, counters = self.experiment.config, self.counters
        seed = config.seed + EVALUATION_SEED
        policy = trained_policy(self.algorithm, deterministic=True, device=self.task.device, seed=seed)
        try:
            found = evaluate(self.task, policy, episodes=config.eval_episodes, seed=seed)
        except SimulationDivergedError as error:
            raise self._stopped(error) from error
        self.evaluation = found
        if found.return_mean > counters.best_return:
            counters.best_return, counters.best_env_steps = found.return_mean, counters.env_steps
        row = {"eval/return_mean": found.return_mean, "eval/return_std": found.return_std}
        if found.distance_m is not None:
            row["eval/distance_m"] = found.distance_m
        return row | {f"eval/{name}": value for name, value in found.metrics.items()}

    def _crossed(self, interval: int) -> bool:
        """Returns whether the last update passed a multiple of `interval`."""
        now, before = self.counters.env_steps, self.counters.env_steps - self._last_steps
        return interval > 0 and now // interval > before // interval

    def _figures(self, row: dict[str, float]) -> str:
        parts = [f"{self.counters.env_steps} steps"]
        if self.evaluation is not None:
            parts.append(f"return {self.evaluation.return_mean:.1f}")
            if self.evaluation.distance_m is not None:
                parts.append(f"distance {self.evaluation.distance_m:.2f} m")
        elif "episode_return" in row:
            parts.append(f"return {row['episode_return']:.1f}")
        return "  ".join([*parts, f"{row['env_steps_per_s']:.0f} steps/s"])
