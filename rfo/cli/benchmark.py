"""`rfo bench`: how fast, how much memory, and how both grow."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from rfo.core.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rfo.train.scaling import Scaling, Sweep

__all__ = ["run_bench"]

CAPTION = (
    "environment steps per second, forward and with gradient; what the engine holds, and the largest total of a "
    "window's tensors; last row: time or memory grows as size to this power"
)


def run_bench(options: argparse.Namespace) -> int:
    """Measures one environment, how its cost grows, or one algorithm's gradient update."""
    if (options.env is None) == (options.algo is None):
        raise UsageError("name an environment to measure, or an algorithm with --algo, and not both")
    if options.algo is not None:
        return _bench_update(options)
    if options.dtype == "bfloat16" or options.velocity is not None:
        raise UsageError("--dtype bfloat16 and --velocity go with --algo")
    if options.store != "auto" and options.scaling:
        raise UsageError("--scaling measures every store; leave out --store")
    return _bench_scaling(options) if options.scaling else _bench_environment(options)


def _bench_environment(options: argparse.Namespace) -> int:
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
            store=options.store,
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

    if options.scaling or options.store != "auto":
        raise UsageError("--scaling and --store measure an environment; leave out --algo")
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


def _bench_scaling(options: argparse.Namespace) -> int:
    """Sweeps the sizes; leaves figures and a picture in a folder."""
    import torch

    from rfo.train.scaling import measure_scaling

    folder = Path(options.output)
    console = Console(stderr=True)
    with console.status("starting") as status:
        found = measure_scaling(
            options.env,
            envs=options.envs,
            horizon=options.horizon,
            threads=options.threads,
            device=options.device,
            dtype=getattr(torch, options.dtype),
            on_stage=lambda stage: status.update(f"{options.env}: {stage}"),
        )
    figures = json.dumps(dataclasses.asdict(found))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling.json").write_text(figures + "\n", encoding="utf-8")
        _plot_scaling(found).savefig(folder / "scaling.png")
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}") from error
    if options.json:
        print(figures)
        return 0
    for sweep in found.sweeps:
        Console().print(_scaling_table(found, sweep))
    for text, name in (("figures", "scaling.json"), ("picture", "scaling.png")):
        print(f"{text}: {folder / name}")
    return 0


def _scaling_table(found: Scaling, sweep: Sweep) -> Table:
    """One row for each point, and the exponents in the last."""
    stores = list(sweep.points[0].stores)
    heads = ["forward\n1/s", *(f"gradient\n1/s\n{store}" for store in stores)]
    heads += [f"held\nMB\n{store}" for store in stores] + ["window\nkB/env"]
    first = sweep.points[0]
    fixed = {"envs": f"N = {first.envs}", "horizon": f"H = {first.horizon}", "elements": f"{first.elements} elements"}
    rest = ", ".join(
        text for axis, text in fixed.items() if axis != sweep.axis and (first.elements or axis != "elements")
    )
    table = Table(sweep.axis, *heads, title=f"{found.env}, {rest}", caption=CAPTION)
    for point in sweep.points:
        costs = list(point.stores.values())
        rates = [point.forward_env_steps_per_s, *(cost.gradient_env_steps_per_s if cost else None for cost in costs)]
        held = [cost.workspace_bytes / 1e6 if cost else None for cost in costs]
        window = next(cost.window_bytes_per_env / 1e3 for cost in costs if cost)
        cells = [*(_cell(rate, 0) for rate in rates), *(_cell(size, 1) for size in held), _cell(window, 1)]
        table.add_row(f"{getattr(point, sweep.axis):,}", *cells)
    table.add_section()
    names = ["forward_s", *(f"gradient_s, {store}" for store in stores)]
    names += [f"workspace_bytes, {store}" for store in stores] + [f"window_bytes, {stores[0]}"]
    table.add_row("exponent", *(_cell(sweep.exponents.get(name), 2) for name in names))
    return table


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # -0.0 + 0.0 is 0.0


def _plot_scaling(found: Scaling) -> Figure:
    """Seconds of a window above, memory below, a column for each sweep."""
    from rfo.view.plots import PowerPanel, plot_powers

    labels = {"envs": "environments N", "horizon": "horizon H", "elements": "elements"}
    rows: list[list[PowerPanel]] = [[], []]
    for sweep in found.sweeps:
        for row, unit, label in zip(rows, ("_s", "_bytes"), ("seconds of a window", "bytes"), strict=True):
            row.append(PowerPanel(labels[sweep.axis], label, _lines(sweep, unit)))
    cores = f"{found.threads} thread{'s' * (found.threads > 1)}"
    return plot_powers(rows, title=f"{found.env}, {cores}, {found.device}, {found.dtype}; exponents beside the names")


def _lines(sweep: Sweep, unit: str) -> dict[str, list[tuple[float, float]]]:
    """The costs of one unit, named with their exponents; a cost that is the same for every store is one line."""
    costs = [(float(getattr(point, sweep.axis)), point.costs()) for point in sweep.points]
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, exponent in sweep.exponents.items():
        cost, _, store = name.partition(", ")
        line = [(size, found[name]) for size, found in costs if name in found]
        if cost.endswith(unit) and line not in lines.values():
            shown = {"forward_s": "forward", "gradient_s": "forward + backward"}.get(cost, cost.removesuffix(unit))
            text = shown if cost in ("forward_s", "window_bytes") else f"{shown}, {store}"
            lines[f"{text}: {_cell(exponent, 2)}"] = line
    return lines
