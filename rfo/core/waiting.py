"""A line about work that keeps a person waiting, such as compiling a large model."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

__all__ = ["waiting"]

PATIENCE = 2.0
"""Seconds of silence: shorter work is not worth a line."""

LIVE_INTERVAL, PLAIN_INTERVAL = 1.0, 10.0
"""Seconds between updates of the line on a terminal, and between plain lines."""


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says on standard error what is being done, and for how long, while the block takes its time.

    Args:
        what: For example "compiling ant: substep".
    """
    started, done = time.monotonic(), Event()
    shown = Event()
    teller = Thread(target=_tell, args=(what, started, done, shown), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        if shown.is_set():
            _write(f"{what}  {time.monotonic() - started:.0f} s, done\n")


def _tell(what: str, started: float, done: Event, shown: Event) -> None:
    pause = PATIENCE
    while not done.wait(pause):
        live = sys.stderr.isatty()
        _write(f"{what}  {time.monotonic() - started:.0f} s" + ("" if live else " so far\n"))
        shown.set()
        pause = LIVE_INTERVAL if live else PLAIN_INTERVAL


def _write(text: str) -> None:
    # A carriage return keeps it one line where lines can be written over.
    print(("\r" if sys.stderr.isatty() else "") + text, end="", file=sys.stderr, flush=True)
