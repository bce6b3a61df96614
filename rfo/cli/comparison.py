"""`rfo compare`: several configs over several seeds, as one table and one figure."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from rfo.core.errors import UsageError
from rfo.train.config import parse_overrides

__all__ = ["run_compare"]


def run_compare(options: argparse.Namespace) -> int:
    """Runs what is missing and writes the report; exit code 1 if a run stopped early."""
    from rfo.train.bench import available_cores
    from rfo.train.compare import plan_runs, run_missing, summarize, write_report

    threads = options.threads or 1
    jobs = options.jobs or (1 if options.device != "cpu" else max(1, available_cores() // threads))
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}; it must be at least 1")
    folder = Path(options.output)
    overrides = parse_overrides(options.settings) | {"threads": threads, "device": options.device}
    if "seed" in overrides:
        raise UsageError("--set seed: the seeds of a comparison are given with --seeds")
    plan = plan_runs(options.configs, options.seeds, overrides, folder)
    stopped = run_missing(plan, jobs)
    command = _command(options, threads, jobs)
    markdown, figures, picture = write_report(summarize(plan, stopped), plan, folder, command)
    print(markdown.read_text(encoding="utf-8"))
    for text, path in (("table", markdown), ("figures", figures), ("picture", picture)):
        print(f"{text}: {path}")
    return 1 if stopped else 0


def _command(options: argparse.Namespace, threads: int, jobs: int) -> str:
    words = ["rfo", "compare", *options.configs, "--seeds", *map(str, options.seeds)]
    for setting in options.settings:
        words += ["--set", setting]
    words += ["--threads", str(threads), "--jobs", str(jobs), "--device", options.device, "--output", options.output]
    return shlex.join(words)
