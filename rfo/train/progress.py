"""Progress of long work: one live line on a terminal, an occasional plain line everywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["ProgressLine"]

PLAIN_INTERVAL = 10.0
"""Seconds between plain lines."""


class ProgressLine:
    """Shows how far some work is and a few figures of it, on standard error.

    Args:
        title: What is being done.
        total: Units of work.
        done: Units that were done before.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done = title, total, done
        self._started = self._printed = time.monotonic()
        self._first = done
        self._live: Progress | None = None
        self._task: TaskID | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                auto_refresh=False,
            )
            self._task = self._live.add_task(title, total=total, completed=done, figures="")

    def __enter__(self) -> ProgressLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()

    def update(self, done: int, figures: str = "") -> None:
        """Tells that `done` units are done, with figures to show beside."""
        now, self._done = time.monotonic(), done
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, figures=figures)
            if now - self._printed > 0.1 or done >= self._total:
                self._printed = now
                self._live.refresh()
        elif now - self._printed > PLAIN_INTERVAL or (done >= self._total and now - self._started > PLAIN_INTERVAL):
            self._printed = now
            worked = done - self._first
            left = (now - self._started) * (self._total - done) / worked if worked else float("nan")
            print(
                f"{self._title}  {100 * done // self._total:3d}%  {figures}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
