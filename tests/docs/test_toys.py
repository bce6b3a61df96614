"""The programs behind the pictures of toys run, with small budgets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOYS = Path(__file__).resolve().parents[2] / "docs" / "toys"
SMALL = {
    "gradient_growth.py": ["--seeds", "1", "--updates", "0", "2", "--steps", "2", "4"],
    "two_modes.py": ["--seeds", "1", "--steps", "500"],
}


def test_every_program_is_run_here() -> None:
    """A new program needs a small budget."""
    assert {path.name for path in TOYS.glob("*.py")} == set(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_toy_runs(name: str, tmp_path: Path) -> None:
    """It prints lines of JSON and leaves a picture."""
    picture = tmp_path / "toy.png"
    command = [sys.executable, str(TOYS / name), "--output", str(picture), *SMALL[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) >= 5
    assert picture.stat().st_size > 5000
