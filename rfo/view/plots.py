"""Figures: learning curves over several runs, gradient reports, and how costs grow.

Every function returns a `matplotlib.figure.Figure` of its own: nothing is shown, and pyplot's global state is left
alone, so the functions work without a display and in threads. Save with `figure.savefig(path)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from rfo.core.colors import SERIES
from rfo.core.errors import UsageError

__all__ = ["PowerPanel", "mean_and_interval", "plot_curve", "plot_gradients", "plot_powers"]

FloatArray = npt.NDArray[np.float64]
Row = Mapping[str, Any]

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal quantile is within 4 %.
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

_INK, _GRID = "#343A42", "#E3E5E8"


def plot_curve(
    runs: Mapping[str, Sequence[Sequence[Row]]],
    keys: Sequence[str],
    *,
    x: str | Sequence[str] = "env_steps",
    title: str = "",
    labels: Mapping[str, str] | None = None,
    points: int = 200,
) -> Figure:
    """Plots learning curves, one panel per key and horizontal axis, one line per group of runs.

    A group of several runs (seeds) is drawn as their mean with the 95 % confidence interval of the mean (Student's
    t), over the range of x that all of them cover; each run is interpolated linearly onto a common grid.

    Args:
        runs: Rows of `metrics.jsonl`, as dictionaries, of each run of each named group. Rows without the key (or
            with a null) are skipped.
        keys: What to plot, one panel each.
        x: Key of the horizontal axis, or several.
        title: Above everything.
        labels: Axis labels of keys, where the key itself will not do.
        points: Grid points of a group of several runs.

    Raises:
        UsageError: There is nothing to plot, or no run has one of the keys.
    """
    if not keys or not runs:
        raise UsageError("plot: name at least one run and one key to plot")
    panels = [(column, key) for key in keys for column in ([x] if isinstance(x, str) else x)]
    names = {column: column.replace("_", " ") for column, _ in panels} | dict(labels or {})
    named = len(runs) > 1 or bool(next(iter(runs)))
    legend_rows = math.ceil(len(runs) / len(panels)) if named else 0
    figure = Figure(figsize=(5.6 * len(panels), 3.6 + 0.2 * legend_rows), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (column, key) in zip(axes, panels, strict=True):
        drawn = False
        for index, (name, group) in enumerate(runs.items()):
            curves = [curve for rows in group if len((curve := _curve(rows, column, key))[0])]
            if curves:
                _draw_group(axis, curves, name, SERIES[index % len(SERIES)], points)
                drawn = True
        if not drawn:
            known = sorted({name for group in runs.values() for rows in group for row in rows for name in row})
            raise UsageError(
                f"plot: no run has both {column!r} and {key!r}; there are: {', '.join(known) or 'no rows'}"
            )
        _style(axis, names[column], names.get(key, key))
    if named:
        # Below: with many groups there is no empty corner in a panel.
        place, entries = "outside lower center", axes[0].get_legend_handles_labels()
        figure.legend(*entries, loc=place, ncols=len(panels), frameon=False, fontsize=9, labelcolor=_INK)
    if title:
        figure.suptitle(title, color=_INK, fontsize=12)
    return figure


def mean_and_interval(values: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Returns the mean over runs and half the width of its 95 % confidence interval (Student's t).

    Args:
        values: Shape [runs, P].

    Returns:
        Two arrays of shape [P]; with a single run the interval is not known and NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    count = len(array)
    mean = array.mean(axis=0)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96
    return mean, quantile * array.std(axis=0, ddof=1) / math.sqrt(count)


def plot_gradients(
    step_norms: npt.ArrayLike,
    env_norms: npt.ArrayLike,
    *,
    title: str = "",
    step_label: str = "control step of the window",
) -> Figure:
    """Plots how gradients behave along a window and across environments.

    Left, on a logarithmic axis: the norm at each step, as the median over environments with the band of the middle
    80 % and the largest; exploding or vanishing gradients are straight lines there. Right: the distribution of
    per-environment norms; a long tail means that a few environments decide the update. Zeros and values that are not
    finite have no place on a logarithmic axis and are counted in the panel's title instead.

    Args:
        step_norms: Gradient norms per step, shape [H] or per step and environment, shape [H, N].
        env_norms: Gradient norm of each environment, shape [N].
        title: Above everything.
        step_label: Label of the left panel's horizontal axis.
    """
    steps = np.asarray(step_norms, dtype=np.float64)
    steps = steps[:, None] if steps.ndim == 1 else steps
    norms = np.asarray(env_norms, dtype=np.float64).ravel()
    if steps.ndim != 2 or not steps.size or not norms.size:
        raise UsageError(f"plot: step norms must be [H] or [H, N] and not empty, got shape {np.shape(step_norms)}")
    figure = Figure(figsize=(10.4, 3.7), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_steps(left, steps)
    _style(left, step_label, "gradient norm")
    _draw_histogram(right, norms)
    _style(right, "gradient norm of an environment", "environments")
    if title:
        figure.suptitle(title, color=_INK, fontsize=12)
    return figure


@dataclass(frozen=True)
class PowerPanel:
    """What one panel of `plot_powers` shows.

    Attributes:
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        series: Points (x, y) of each named line, all positive.
    """

    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]


def plot_powers(rows: Sequence[Sequence[PowerPanel]], *, title: str = "") -> Figure:
    """Plots how costs grow, on logarithmic axes: a power of the size is a straight line.

    Each panel has a thin line of slope 1 through the beginning of its first line: what is parallel is proportional.

    Args:
        rows: Panels, row by row; rows of equal length.
        title: Above everything.

    Raises:
        UsageError: A panel has no points.
    """
    if not rows or not all(panel.series and all(panel.series.values()) for row in rows for panel in row):
        raise UsageError("plot: every panel needs at least one line with points")
    figure = Figure(figsize=(4.4 * len(rows[0]), 3.7 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axis, panel in zip(axes.flat, (panel for row in rows for panel in row), strict=True):
        for index, (name, points) in enumerate(panel.series.items()):
            x, y = np.array(points, dtype=np.float64).T
            if index == 0:
                axis.plot(x, y[0] * x / x[0], color="#B9BEC5", linewidth=0.9, linestyle=(0, (2, 2)))
            axis.plot(x, y, color=SERIES[index], linewidth=1.6, marker="o", markersize=3.5, label=name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        _label_decades(axis.xaxis)
        _label_decades(axis.yaxis)
        _style(axis, panel.x, panel.y)
        axis.legend(frameon=False, fontsize=8, labelcolor=_INK)
    if title:
        figure.suptitle(title, color=_INK, fontsize=11)
    return figure


def _curve(rows: Sequence[Row], x: str, key: str) -> tuple[FloatArray, FloatArray]:
    pairs = [(row[x], row[key]) for row in rows if row.get(x) is not None and row.get(key) is not None]
    array = np.array(sorted(pairs), dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _draw_group(
    axis: Axes, curves: Sequence[tuple[FloatArray, FloatArray]], name: str, color: str, points: int
) -> None:
    if len(curves) == 1:
        axis.plot(*curves[0], color=color, linewidth=1.8, label=name)
        return
    begin, end = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
    if begin > end:
        raise UsageError(f"plot: the runs of {name!r} share no range of the horizontal axis; plot them one by one")
    grid = np.linspace(begin, end, points)
    mean, half = mean_and_interval([np.interp(grid, *curve) for curve in curves])
    axis.fill_between(grid, mean - half, mean + half, color=color, alpha=0.18, linewidth=0)
    axis.plot(grid, mean, color=color, linewidth=1.8, label=f"{name} (n = {len(curves)})")


def _draw_steps(axis: Axes, steps: FloatArray) -> None:
    shown = np.where(np.isfinite(steps) & (steps > 0.0), steps, np.nan)
    index = np.arange(len(steps))
    rows = np.flatnonzero(np.isfinite(shown).any(axis=1))
    if len(rows):
        low, median, high = np.nanquantile(shown[rows], (0.1, 0.5, 0.9), axis=1)
        if steps.shape[1] > 1:
            axis.fill_between(index[rows], low, high, color=SERIES[1], alpha=0.2, linewidth=0, label="middle 80 %")
            largest = np.nanmax(shown[rows], axis=1)
            axis.plot(index[rows], largest, color=SERIES[0], linewidth=1.0, linestyle=(0, (4, 2)), label="largest")
        axis.plot(index[rows], median, color=SERIES[1], linewidth=1.8, marker="o", markersize=3, label="median")
        axis.legend(frameon=False, fontsize=9, labelcolor=_INK)
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label_decades(axis.yaxis)
    _count_unshown(axis, steps)


def _draw_histogram(axis: Axes, norms: FloatArray) -> None:
    shown = norms[np.isfinite(norms) & (norms > 0.0)]
    if len(shown):
        low, high = math.log10(shown.min()), math.log10(shown.max())
        # At least a tenth of a decade, or equal norms would have bins of no width.
        middle, half = (low + high) / 2.0, max((high - low) / 2.0, 0.05)
        bins = np.logspace(middle - half, middle + half, int(np.clip(2.0 * math.sqrt(len(shown)), 8, 60)) + 1)
        bins[0], bins[-1] = min(bins[0], shown.min()), max(bins[-1], shown.max())
        axis.hist(shown, bins=bins.tolist(), color=SERIES[1], alpha=0.85, edgecolor="white", linewidth=0.6)
        axis.axvline(float(np.median(shown)), color=SERIES[0], linewidth=1.4, label="median")
        axis.legend(frameon=False, fontsize=9, labelcolor=_INK)
    axis.set_xscale("log")
    _label_decades(axis.xaxis)
    _count_unshown(axis, norms)


def _count_unshown(axis: Axes, values: FloatArray) -> None:
    zero, bad = int((values == 0.0).sum()), int((~np.isfinite(values)).sum())
    parts = [f"{count} {word}" for count, word in ((zero, "zero"), (bad, "not finite")) if count]
    if parts:
        axis.set_title(f"not shown: {', '.join(parts)} of {values.size}", fontsize=9, color=SERIES[0])


def _label_decades(axis: Axis) -> None:
    """Labels a logarithmic axis at 1, 2 and 5 where it spans little, else at powers of ten."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300.0 * low else (1.0,)))
    axis.set_major_formatter(_compact)
    axis.set_minor_formatter(NullFormatter())


def _style(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, color=_INK, fontsize=10)
    axis.set_ylabel(y, color=_INK, fontsize=10)
    axis.grid(color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", colors=_INK, labelsize=9, length=0)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(side == "bottom")
        axis.spines[side].set_color("#B9BEC5")
    if axis.get_xscale() == "linear" and max(map(abs, axis.get_xlim())) >= 1e4:
        axis.xaxis.set_major_formatter(_compact)


def _compact(value: float, _position: float | None = None) -> str:
    """Writes 250000 as 250k and 1500000 as 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
