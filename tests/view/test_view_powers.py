"""Figures of how costs grow."""

import pytest

from rfo.core.errors import UsageError
from rfo.view.plots import PowerPanel, plot_powers


def test_every_panel_is_logarithmic_and_shows_its_lines() -> None:
    """A guide of slope one through the beginning of the first line, then one line for each series."""
    panel = PowerPanel("N", "seconds", {"a": [(1.0, 2.0), (10.0, 30.0)], "b": [(1.0, 5.0)]})
    figure = plot_powers([[panel, panel], [panel, panel]], title="growth")
    assert len(figure.axes) == 4
    for axis in figure.axes:
        guide, first, second = axis.get_lines()
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        assert list(guide.get_ydata()) == [2.0, 20.0]
        assert list(first.get_ydata()) == [2.0, 30.0]
        assert list(second.get_ydata()) == [5.0]


def test_an_empty_panel_is_an_error() -> None:
    """There is nothing to plot without lines, or in a line without points."""
    for series in ({}, {"a": []}):
        with pytest.raises(UsageError):
            plot_powers([[PowerPanel("N", "seconds", series)]])
