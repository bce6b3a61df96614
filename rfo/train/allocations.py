"""Bytes that torch holds in tensors, counted one storage at a time.

Engines allocate their buffers as torch tensors too, so the count is complete but for a model's constants and what an
operation needs while it runs. It is exact and repeats itself, unlike the growth of a process, which the allocator
rounds, keeps and returns as it likes.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Allocations"]


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages allocated in its context, on the thread that entered it, until they are freed.

    Attributes:
        held: Bytes allocated in the context and still alive.
        peak: Largest value of `held` since `reset_peak`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._seen: set[int] = set()

    def reset_peak(self) -> None:
        """Begins to look for the peak anew."""
        self.peak = self.held

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and looks at the storages of its results."""
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata  # of the storage itself: views share it, and data pointers of empty ones are equal
        if address in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(address)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._freed, address, size).atexit = False

    def _freed(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.held -= size
