"""What a run leaves behind: metrics.jsonl with one row per update, TensorBoard curves, the config and the versions."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from rfo.core.errors import UsageError

__all__ = ["RunLogger", "cpu_name", "read_metrics", "versions"]

PACKAGES = ("rfo", "torch", "warp-lang", "numpy", "trimesh", "tensorboard", "imageio", "matplotlib")


class RunLogger:
    """Writes the figures of a run, one row per update.

    Args:
        run_dir: Folder of the run.
        rows: Rows that are already there and stay; later ones, of an interrupted run, are removed.
        env_steps: Environment steps at which those rows end.

    Raises:
        UsageError: Rows should be there, but the file is not.
    """

    def __init__(self, run_dir: Path, *, rows: int = 0, env_steps: int = 0) -> None:
        self.path = run_dir / "metrics.jsonl"
        if rows and not self.path.is_file():
            raise UsageError(f"{run_dir} holds no metrics.jsonl to continue")
        kept = self.path.read_text(encoding="utf-8").splitlines(keepends=True)[:rows] if rows else []
        self.path.write_text("".join(kept), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=env_steps + 1 if rows else None)

    def write(self, row: dict[str, float]) -> None:
        """Writes a row; `env_steps` in it is the step of the TensorBoard curves."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, int(row["env_steps"]))

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """Returns the rows of a run's metrics.jsonl."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def versions(threads: int | None) -> dict[str, Any]:
    """Returns what a result depends on besides its config: packages, Python, CPU, threads."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {
        "python": sys.version.split()[0],
        "packages": found,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "engine_threads": threads,
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
    }


def cpu_name() -> str:
    """Returns the processor's name, as well as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
