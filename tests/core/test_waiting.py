from __future__ import annotations

import time

import pytest

from rfo.core import waiting


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """What is over before anyone wonders leaves no line."""
    with waiting.waiting("compiling ant: substep"):
        pass
    assert capsys.readouterr().err == ""


def test_long_work_says_what_and_how_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Off a terminal, lines come one by one and end with the time it took."""
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)
    monkeypatch.setattr(waiting, "PLAIN_INTERVAL", 0.05)
    with waiting.waiting("compiling ant: substep"):
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling ant: substep  0 s so far"
    assert lines[-1].endswith("s, done")


def test_a_failure_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error passes through, and the line ends."""
    monkeypatch.setattr(waiting, "PATIENCE", 0.01)
    with pytest.raises(RuntimeError, match="broken"), waiting.waiting("compiling ant: substep"):
        time.sleep(0.1)
        raise RuntimeError("broken")
