"""How cost grows: sweeps, stores and exponents."""

from __future__ import annotations

import pytest

from rfo.core.errors import UsageError
from rfo.train.bench import Runner
from rfo.train.scaling import Axes, Scaling, Sweep, measure_scaling


@pytest.fixture(scope="module")
def found() -> Scaling:
    """The soft quadruped at a few small sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rfo.train.bench.LEAST_SECONDS", 0.0)
        axes = Axes(envs=(16, 32), horizons=(1, 2, 4), refinements=2)
        return measure_scaling("soft-quadruped", envs=16, horizon=2, threads=1, axes=axes, repeats=1)


def _memory(sweep: Sweep, store: str) -> list[tuple[int, int]]:
    costs = [point.stores[store] for point in sweep.points]
    return [(cost.workspace_bytes, cost.window_bytes) for cost in costs if cost is not None]


def test_axes_cross_where_they_should(found: Scaling) -> None:
    """Three sweeps, each of which moves one size."""
    envs, horizon, elements = found.sweeps
    assert [(p.envs, p.horizon, p.elements) for p in envs.points] == [(16, 2, 444), (32, 2, 444)]
    assert [(p.envs, p.horizon, p.elements) for p in horizon.points] == [(16, h, 444) for h in (1, 2, 4)]
    assert [(p.envs, p.horizon, p.elements) for p in elements.points] == [(16, 2, 444), (16, 2, 888)]


def test_control_holds_the_same_workspaces_at_every_horizon(found: Scaling) -> None:
    """Its workspaces are constant in horizon and environments, the window's states grow; substeps grow with both."""
    envs, horizon, _ = found.sweeps
    for sweep in (envs, horizon):
        held, windows = zip(*_memory(sweep, "control"), strict=True)
        assert len(set(held)) == 1
        assert list(windows) == sorted(set(windows))
    (first, _), (second, _), (third, _) = _memory(horizon, "substep")
    assert third - second == 2 * (second - first) > 0


def test_both_stores_have_the_same_windows(found: Scaling) -> None:
    """What differs between the stores is in the workspaces."""
    for sweep in found.sweeps:
        pairs = zip(_memory(sweep, "control"), _memory(sweep, "substep"), strict=True)
        assert all(control[1] == substep[1] for control, substep in pairs)


def test_exponents_are_slopes(found: Scaling) -> None:
    """Memory that is proportional has exponent one, memory that is constant zero."""
    exponents = found.sweeps[0].exponents
    assert exponents["workspace_bytes, control"] == pytest.approx(0.0, abs=1e-9)
    assert exponents["window_bytes, control"] == pytest.approx(1.0, abs=0.01)


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that would take more than half of the free memory has no cost; if neither fits, that is an error."""
    monkeypatch.setattr("rfo.train.bench.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("rfo.train.scaling._free", lambda device: 100_000_000)
    axes = Axes(envs=(16,), horizons=(4,), refinements=1)
    sizes = {"envs": 16, "horizon": 4, "threads": 1, "axes": axes, "repeats": 1}
    (point,) = measure_scaling("soft-quadruped", **sizes).sweeps[0].points  # type: ignore[arg-type]
    assert point.stores["substep"] is None
    assert point.stores["control"] is not None
    monkeypatch.setattr("rfo.train.scaling._free", lambda device: 0)
    with pytest.raises(UsageError, match="does not fit"):
        measure_scaling("soft-quadruped", **sizes)  # type: ignore[arg-type]


def test_a_task_without_stores_has_autograd_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task in plain torch, and one that cannot be refined, has two sweeps."""
    monkeypatch.setattr("rfo.train.bench.LEAST_SECONDS", 0.0)
    axes = Axes(envs=(2, 4), horizons=(2,))
    found = measure_scaling("pendulum-swingup", envs=2, horizon=2, threads=1, axes=axes, repeats=1)
    assert [sweep.axis for sweep in found.sweeps] == ["envs", "horizon"]
    assert list(found.sweeps[0].points[0].stores) == ["autograd"]


def test_bench_counts_memory_at_every_size() -> None:
    """A few bytes per step are counted as well as megabytes, and twice the environments change nothing."""
    from rfo.core import registry
    from rfo.train.bench import _memory_per_env_step

    figures = [_memory_per_env_step(Runner(registry.make("pendulum-swingup"), n), 4) for n in (1, 2, 64)]
    assert all(figure is not None and figure > 0 for figure in figures)
    assert figures[1] == pytest.approx(figures[2], rel=0.5)  # type: ignore[arg-type]
