"""Statistics over seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rfo.train.statistics import bootstrap_interval, curve_at, interquartile_mean


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    """Multiples of four lose a quarter at each end; other numbers count what lies across a quartile in part."""
    assert interquartile_mean([100.0, 1.0, 3.0, -50.0]) == pytest.approx(2.0)
    assert interquartile_mean([7.0]) == pytest.approx(7.0)
    assert interquartile_mean([1.0, 5.0]) == pytest.approx(3.0)
    # Of five values each is a fifth: the second and fourth lie inside with 0.15 of 0.5, the middle one with 0.2.
    assert interquartile_mean([0.0, 10.0, 20.0, 40.0, 1000.0]) == pytest.approx(0.3 * 10.0 + 0.4 * 20.0 + 0.3 * 40.0)
    stacked = np.arange(12.0).reshape(3, 4)
    np.testing.assert_allclose(interquartile_mean(stacked), [1.5, 5.5, 9.5])


def test_interquartile_mean_is_not_moved_by_an_outlier() -> None:
    """The largest of five may be anything."""
    values = [1.0, 2.0, 3.0, 4.0]
    assert interquartile_mean([*values, 5.0]) == interquartile_mean([*values, 1e9])


def test_bootstrap_interval_covers_as_often_as_it_says() -> None:
    """Of samples of 20 from a normal law, about 95 % of the intervals hold its mean, or a little less."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        _, low, high = bootstrap_interval(generator.normal(size=20), resamples=500)
        hits += low <= 0.0 <= high
    assert 0.85 <= hits / 200 <= 0.99


def test_bootstrap_interval_is_repeatable_and_unknown_for_one_run() -> None:
    """One table is always the same, and a single seed has no interval."""
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    value, low, high = bootstrap_interval(values)
    assert min(values) <= low <= value <= high <= max(values)
    value, low, high = bootstrap_interval([2.0])
    assert value == 2.0 and math.isnan(low) and math.isnan(high)


def test_curves_are_read_between_their_points() -> None:
    """Linear inside, constant outside, and rows without the key do not count."""
    rows = [{"x": 0.0, "y": 1.0}, {"x": 1.0}, {"x": 2.0, "y": 3.0}]
    assert [curve_at(rows, "y", "x", at) for at in (-1.0, 0.0, 1.0, 2.0, 9.0)] == [1.0, 1.0, 2.0, 3.0, 3.0]
