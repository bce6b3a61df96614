"""`rfo collect`: a data set from a run, from a baseline or from a script."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfo.core.errors import UsageError

if TYPE_CHECKING:
    from rfo.core.task import Task
    from rfo.train.collect import Actor

__all__ = ["run_collect"]


def run_collect(options: argparse.Namespace) -> int:
    """Collects and writes; Ctrl-C writes what there is."""
    from rfo.cli.training import machine_overrides, stop_on_signal
    from rfo.data.offline import save
    from rfo.train.collect import Quota, collect, summary_line
    from rfo.train.progress import ProgressLine

    is_run = Path(options.subject).is_dir()
    policy = options.policy or ("trained" if is_run else "random")
    name = Path(options.subject).resolve().name if is_run else options.subject
    default = f"{name}-{policy.replace(':', '-')}.npz"
    given = {"episodes": options.episodes} if options.steps is None else {"steps": options.steps}
    quota = Quota(Path(options.output or default), **given, envs=options.envs, seed=options.seed, noise=options.noise)
    task, actor = _subject(options, policy, is_run, quota.width, machine_overrides(options))
    total = quota.episodes or quota.steps
    unit = "steps" if quota.episodes is None else "episodes"
    message = "\nrfo: writing what there is; press Ctrl-C again to stop without it"
    with stop_on_signal(message) as stop, ProgressLine(f"collecting {unit}", total) as progress:
        data = collect(
            task,
            actor,
            quota,
            on_progress=lambda done: progress.update(min(done, total), f"{done} {unit}"),
            should_stop=lambda: bool(stop),
        )
        save(data, quota.path)
    print(f"{quota.path}: {summary_line(data)}")
    if stop:
        print(f"rfo: stopped and saved {quota.path}", file=sys.stderr)
        return 130
    return 0


def _subject(
    options: argparse.Namespace, policy: str, is_run: bool, n: int, machine: dict[str, Any]
) -> tuple[Task, Actor]:
    from rfo.core import registry
    from rfo.train.algorithms import config_class, make_algorithm
    from rfo.train.collect import baseline_actor, oracle_actor, trained_actor
    from rfo.train.loop import load_run

    kind, _, script = policy.partition(":")
    if kind not in ("trained", "untrained", "zero", "random", "oracle") or (script and kind != "oracle"):
        raise UsageError(f"--policy {policy!r}: choose trained, untrained, zero, random, oracle or oracle:NAME")
    if kind == "trained" and not is_run:
        raise UsageError(f"{options.subject} is not the folder of a run, so there is no trained policy")
    algorithm = None
    if is_run:
        experiment, task, algorithm = load_run(Path(options.subject), machine)
        algo, settings = experiment.config.algo, experiment.algorithm
    else:
        task = registry.make(options.subject, device=machine.get("device", "cpu"), threads=machine.get("threads"))
        algo, settings = "flowrl", config_class("flowrl")()  # any flow policy of the default size
    if kind in ("zero", "random"):
        return task, baseline_actor(task, kind, options.seed)
    if kind == "oracle":
        return task, oracle_actor(task, script, n, options.seed)
    if kind == "untrained" or algorithm is None:
        algorithm = make_algorithm(algo, settings, task.spec, device=task.device, dtype=task.dtype, seed=options.seed)
    deterministic = not options.sampled
    return task, trained_actor(algorithm, deterministic=deterministic, device=task.device, seed=options.seed)
