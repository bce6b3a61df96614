"""Checkpoints: everything a run needs to continue bit for bit, written so that a crash never leaves half a file.

An exported policy is a run's folder with `policy.pt` in place of `checkpoint.pt`: it acts, and does not learn on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from rfo.core.errors import UsageError

__all__ = ["CHECKPOINT_FORMAT", "POLICY_FILE", "POLICY_FORMAT", "load_checkpoint", "load_policy", "save_atomically"]

CHECKPOINT_FORMAT = 2
"""Raised whenever a checkpoint's keys change their meaning."""

POLICY_FILE = "policy.pt"
"""What an exported policy's folder holds instead of a checkpoint."""

POLICY_FORMAT = 1
"""Likewise for exported policies, which outlive changes to what only learning needs."""


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """Writes to a temporary file in the same folder and renames it, which replaces the old file at once."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(run_dir: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads the checkpoint of a run.

    Raises:
        UsageError: There is none, or it cannot be read.
    """
    path = run_dir / "checkpoint.pt"
    if not path.is_file() and (run_dir / POLICY_FILE).is_file():
        raise UsageError(
            f"{run_dir} holds an exported policy, which can act but not learn on; train its config.yaml anew, or "
            "resume the run it came from"
        )
    if not path.is_file():
        raise UsageError(f"{run_dir} holds no checkpoint.pt; give the folder of a run that `rfo train` made")
    return _read(path, device, CHECKPOINT_FORMAT)


def load_policy(run_dir: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads the policy of an export.

    Raises:
        UsageError: It cannot be read.
    """
    return _read(run_dir / POLICY_FILE, device, POLICY_FORMAT)


def _read(path: Path, device: str | torch.device, wanted: int) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises whatever the unpickler met; the file is what is wrong
        raise UsageError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != wanted:
        raise UsageError(f"{path} has format {found}, this version of rfo reads {wanted}")
    return content
