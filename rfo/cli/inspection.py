"""`rfo envs`, `check` and `doctor`: commands that look."""

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

__all__ = ["run_check", "run_doctor", "run_envs"]


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
