from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def every_core_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are too small to be worth another core; those of several threads are about what happens there."""
    monkeypatch.setattr("rfo.sim.simulation.WORTH_SHARING_SECONDS", 0.0)
