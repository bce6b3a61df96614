"""A fixed sequence of launches, recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import warp as wp

__all__ = ["Schedule"]


class Schedule:
    """Launches that always touch the same memory.

    `prepare` runs them once eagerly, which loads the kernels, and once more to record a graph, on the CPU as on CUDA;
    later runs replay it: a tenth of a microsecond per launch instead of ten.

    Args:
        launches: Issues the launches; no host decisions inside.
        device: Warp device.
        capture: False keeps every run eager, to debug or where a device cannot capture.
    """

    def __init__(self, launches: Callable[[], None], device: Any, *, capture: bool = True) -> None:
        self._launches, self._device, self._capture = launches, device, capture
        self._graph: Any = None

    def prepare(self) -> None:
        """Loads kernels and records, from the main thread: recording is not thread-safe, replaying is."""
        if self._capture and self._graph is None:
            self._launches()
            with wp.ScopedCapture(device=self._device) as capture:
                self._launches()
            self._graph = capture.graph

    @property
    def address(self) -> int:
        """Where the recorded graph lies, for a `Crew`; 0 where it is none of the CPU."""
        return 0 if self._graph is None or self._device.is_cuda else int(self._graph.apic_state)

    def run(self) -> None:
        """Runs the launches, on torch's current stream where there are streams."""
        if self._device.is_cuda:
            stream = wp.stream_from_torch(torch.cuda.current_stream(wp.device_to_torch(self._device)))
            with wp.ScopedStream(stream):
                self._run(stream)
        else:
            self._run(None)

    def _run(self, stream: Any) -> None:
        if self._graph is None:
            self._launches()
        else:
            wp.capture_launch(self._graph, stream=stream)
