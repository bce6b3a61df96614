"""What a report of checks looks like when it is printed."""

from __future__ import annotations

from rfo.core.check import Check, CheckReport

FINE = Check("isolation", True, 0.0, 0.0, "no gradient crosses")
WRONG = Check("gradient", False, 0.25, 1e-6, "the derivative is wrong")


def test_every_finding_is_one_line_and_the_verdict_is_the_last() -> None:
    """A printed report has a line per check, marked by its outcome, and says how many failed."""
    lines = str(CheckReport("crane", (FINE, WRONG))).splitlines()
    assert lines[0] == "ok    isolation: 0 (limit 0); no gradient crosses"
    assert lines[1].startswith("FAIL  gradient: 0.25 (limit 1e-06)")
    assert lines[2:] == ["crane: 1 of 2 checks failed"]


def test_verdict_of_a_sound_task() -> None:
    """Where nothing failed the verdict says so."""
    assert CheckReport("crane", (FINE,)).verdict == "crane: every check passed"
