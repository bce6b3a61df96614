"""Where the files in assets/ are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from rfo.core.errors import UsageError

__all__ = ["asset_path"]


def asset_path(name: str) -> Path:
    """Returns the path of an asset, given relative to assets/."""
    here = Path(__file__).resolve().parent
    for root in (here / "assets", here.parents[1] / "assets"):
        if (root / name).is_file():
            return root / name
    raise UsageError(f"asset {name!r} is missing from this installation; reinstall rfo")
