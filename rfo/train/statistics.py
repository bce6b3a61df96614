"""Statistics over seeds: the interquartile mean, its bootstrap interval, and curves read at one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "bootstrap_interval", "curve_at", "interquartile_mean"]

FloatArray = npt.NDArray[np.float64]

Estimate = tuple[float, float, float]
"""A statistic with the ends of its interval: (value, low, high)."""


def interquartile_mean(values: npt.ArrayLike) -> FloatArray:
    """Returns the mean of the middle half of the values (Agarwal et al., arXiv 2108.13264), along the last dimension.

    A value that lies across a quartile counts with the share of it inside, so that every number of seeds has an exact
    middle half; for a multiple of four it is the usual mean after cutting a quarter at each end.

    Args:
        values: Shape [..., n], n at least 1.

    Returns:
        Shape [...].
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    n = ordered.shape[-1]
    edges = np.arange(n + 1) / n
    inside = np.clip(edges, 0.25, 0.75)
    weights = 2.0 * np.diff(inside)
    result: FloatArray = ordered @ weights
    return result


def bootstrap_interval(
    values: npt.ArrayLike,
    statistic: Callable[[FloatArray], FloatArray] = interquartile_mean,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Returns a statistic of some runs with its percentile bootstrap interval.

    Args:
        values: One figure per run, shape [n].
        statistic: Reduces the last dimension.
        level: Probability that the interval covers.
        resamples: Draws of n runs with replacement.
        seed: Seed of the draws: one table is always the same.

    Returns:
        The statistic and the interval's ends; with a single run they are not known and NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    value = float(statistic(array))
    if len(array) < 2:
        return value, float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    low, high = np.quantile(statistic(array[drawn]), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return value, float(low), float(high)


def curve_at(rows: Sequence[Mapping[str, Any]], key: str, x: str, at: float) -> float:
    """Reads a curve at one place, linearly between its points and constant beyond its ends.

    Args:
        rows: Rows of metrics.jsonl; those without the key are skipped.
        key: What is read.
        x: Key of the place.
        at: The place.
    """
    pairs = [(float(row[x]), float(row[key])) for row in rows if key in row]
    places, values = zip(*sorted(pairs), strict=True)
    return float(np.interp(at, places, values))
