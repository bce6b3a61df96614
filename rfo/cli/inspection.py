"""`rfo envs`, `check`, `bench` and `doctor`: commands that look and measure."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys

from rich.console import Console
from rich.table import Table

from rfo.core import registry
from rfo.core.errors import UsageError

__all__ = ["run_bench", "run_check", "run_doctor", "run_envs"]


def run_envs(options: argparse.Namespace) -> int:
    """Lists every environment that can be loaded; says on standard error which cannot."""
    rows = []
    for name in registry.ids():
        try:
            spec = registry.spec(name)
        except UsageError as error:
            print(f"rfo: {error}", file=sys.stderr)
            continue
        rows.append(
            {key: getattr(spec, key) for key in ("id", "engine", "differentiable", "action_dim", "episode_length")}
        )
    if options.json:
        print(json.dumps(rows))
        return 0
    table = Table("environment", "engine", "gradients", "actions", "episode")
    for row in rows:
        gradients = "yes" if row["differentiable"] else "no"
        table.add_row(row["id"], row["engine"], gradients, str(row["action_dim"]), f"{row['episode_length']} steps")
    Console().print(table)
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Checks one environment; exit code 1 if a check fails."""
    from rfo.core.check import CheckReport, iterate_checks

    task_class = registry.task_class(options.env)
    checks = []
    for check in iterate_checks(task_class, options.device, options.threads):
        checks.append(check)
        if not options.json:
            print(check, flush=True)
    report = CheckReport(options.env, tuple(checks))
    if options.json:
        # JSON has no infinity: a figure that is not finite is null.
        found = [dataclasses.asdict(check) for check in report.checks]
        found = [{**row, "figure": row["figure"] if math.isfinite(row["figure"]) else None} for row in found]
        print(json.dumps({"passed": report.passed, "checks": found}))
    else:
        print(report.verdict)
    return 0 if report.passed else 1


def run_bench(options: argparse.Namespace) -> int:
    """Measures one environment, or one algorithm's gradient update."""
    if (options.env is None) == (options.algo is None):
        raise UsageError("name an environment to measure, or an algorithm with --algo, and not both")
    if options.algo is not None:
        return _bench_update(options)
    if options.dtype == "bfloat16" or options.velocity is not None:
        raise UsageError("--dtype bfloat16 and --velocity go with --algo")
    import torch

    from rfo.train.bench import bench

    console = Console(stderr=True)
    with console.status("starting") as status:
        result = bench(
            options.env,
            envs=options.envs,
            horizon=options.horizon,
            threads=options.threads,
            device=options.device,
            dtype=getattr(torch, options.dtype),
            on_stage=lambda stage: status.update(f"{options.env}: {stage}"),
        )
    figures = dataclasses.asdict(result)
    if options.json:
        print(json.dumps(figures))
        return 0
    table = Table("figure", "value", title=f"{options.env}, {options.envs} environments, horizon {options.horizon}")
    figures |= figures.pop("roofline") or {}
    for name, value in figures.items():
        table.add_row(name, f"{value:,.1f}" if isinstance(value, float) else "-" if value is None else f"{value}")
    Console().print(table)
    return 0


def _bench_update(options: argparse.Namespace) -> int:
    from rfo.train.bench_update import bench_update

    if options.dtype == "float64":
        raise UsageError("--algo is measured in float32 or bfloat16")
    result = bench_update(
        options.algo,
        velocity=options.velocity,
        size=options.size,
        threads=options.threads,
        dtype=options.dtype,
        device=options.device,
    )
    figures = dataclasses.asdict(result)
    if options.json:
        print(json.dumps(figures))
        return 0
    table = Table("figure", "value", title=f"one update of {options.algo}, {options.size} size")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else "-" if value is None else f"{value}")
    Console().print(table)
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """Looks at the machine; exit code 1 if something is missing."""
    from rfo.train.doctor import examine

    findings = examine()
    ok = all(finding.ok for finding in findings)
    if options.json:
        print(json.dumps({"ok": ok, "findings": [dataclasses.asdict(finding) for finding in findings]}))
        return 0 if ok else 1
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.value}")
        if finding.advice:
            print(f"      {finding.advice}")
    return 0 if ok else 1
