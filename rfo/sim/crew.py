"""Threads that run shares of a step beside the one that asks for it, each on a core of its own."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Crew"]


class Crew:
    """Runs functions side by side, the first in the calling thread.

    Linux likes to wake a thread on the core of the one that wakes it, where both then take turns for as long as they
    exchange work so quickly. So each thread of the crew avoids, by its affinity, the core that it is called from.

    Args:
        size: Threads, the calling one included.
    """

    def __init__(self, size: int) -> None:
        self._executor = ThreadPoolExecutor(size - 1) if size > 1 else None
        self._mine = threading.local()
        pinned = hasattr(os, "sched_setaffinity")
        self._cores = os.sched_getaffinity(0) if pinned else set()
        self._current_core = ctypes.CDLL(None).sched_getcpu if pinned else lambda: -1

    def run(self, shares: Sequence[Callable[[], None]]) -> None:
        """Returns once all have returned."""
        own, *others = shares
        if self._executor is None:
            own()
            return
        core = self._current_core()
        waiting = [self._executor.submit(self._apart, core, share) for share in others]
        own()
        for other in waiting:
            other.result()

    def _apart(self, core: int, share: Callable[[], None]) -> None:
        if len(self._cores) > 1 and getattr(self._mine, "avoided", None) != core:
            os.sched_setaffinity(0, self._cores - {core})  # of this thread
            self._mine.avoided = core
        share()
