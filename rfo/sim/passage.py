"""Launches between tensors: what comes in is copied to lanes, what goes out from lanes, on the core that computes.

A recorded schedule finds its memory at fixed addresses, but torch's tensors are new ones at every step. On a CPU the
copies are launches of the same schedule: they read from a small table where the tensors of this step lie, so a whole
step runs without the interpreter, on any core. On a GPU torch's own copies, on the same stream, do as much.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
import warp as wp
from torch import Tensor

from rfo.sim.bridge import PLACE, Buffer, scalar_name
from rfo.sim.emit import native_kernel
from rfo.sim.schedule import Schedule

__all__ = ["Crossing", "Passage"]

# A tensor is seen as [pack][component][item], where items are environments or, for one environment per pack, elements.
# `filled` of a pack's items exist; what is left of its width repeats the last one, which keeps it finite. Packs are
# the inner loop: components of a large batch lie a power of two apart, where one would drive the other from the cache.
_COPY = """\
typedef wp::{dtype} S;
const int width = {width};
const long long* at = (const long long*)place.data;
const long long item = at[2], component = at[3];
{absent}
for (int c = 0; c < element_count; ++c) {{
    for (int pack = 0; pack < buffer.shape[0]; ++pack) {{
        S* const lanes = (S*)((char*)buffer.data + pack * (size_t)buffer.strides[0]) + c * (size_t)width;
        S* const rows = (S*)at[0] + pack * at[1] + c * component;
        const long long filled = at[4] - pack * at[5];
        const long long count = filled < 0 ? 0 : filled < width ? filled : width;
        {copy}
    }}
}}"""

_LOAD = {
    "absent": """\
if (!at[0]) {
    for (int pack = 0; pack < buffer.shape[0]; ++pack) {
        S* const lanes = (S*)((char*)buffer.data + pack * (size_t)buffer.strides[0]);
        for (int k = 0; k < element_count * width; ++k) lanes[k] = 0;
    }
    return;
}""",
    "copy": """\
if (item == 1 && count == width) {
            for (int k = 0; k < width; ++k) lanes[k] = rows[k];
            continue;
        }
        for (int k = 0; k < count; ++k) lanes[k] = rows[k * item];
        for (int k = count; k < width; ++k) lanes[k] = rows[(filled - 1) * item];""",
}

_STORE = {
    "absent": "if (!at[0]) return;",
    "copy": """\
if (item == 1 && count == width) {
            for (int k = 0; k < width; ++k) rows[k] = lanes[k];
            continue;
        }
        for (int k = 0; k < count; ++k) rows[k * item] = lanes[k];""",
}


@dataclass(frozen=True)
class Crossing:
    """A passage with the tensors of one run.

    Attributes:
        passage: The launches.
        sources: What they read; holds on to the memory whose addresses stand in `places`.
        targets: What they write.
        job: What a thread of a `Crew` is handed: the recorded graph, the table, the number of what is to be written to
            it, and that: where the tensors lie; empty on a GPU. An array, because a step's kernels leave nothing of a
            list of numbers in the cache.
    """

    passage: Passage
    sources: Sequence[Tensor | None]
    targets: Sequence[Tensor | None]
    job: array[int]

    def run(self) -> None:
        """Copies in, computes, copies out."""
        self.passage.run(self)

    @property
    def recorded(self) -> bool:
        """Whether a `Crew` can take the job."""
        return bool(self.job) and self.job[0] != 0


class Passage:
    """A schedule from tensors to tensors, recorded at once, hence from the main thread.

    Args:
        launches: What to do between the copies, on the buffers.
        sources: Buffers to fill first.
        targets: Buffers to copy out afterwards.
        device: Warp device.
        capture: False keeps every run eager.
    """

    def __init__(
        self,
        launches: Callable[[], None],
        sources: Sequence[Buffer],
        targets: Sequence[Buffer],
        device: Any,
        *,
        capture: bool = True,
    ) -> None:
        self._launches, self._device = launches, device
        self._sources, self._targets = tuple(sources), tuple(targets)
        table = torch.zeros((len(self._sources) + len(self._targets)) * PLACE, dtype=torch.int64)
        self._table = table.numpy()
        self._places: Any = [] if device.is_cuda else [wp.from_torch(place) for place in table.view(-1, PLACE)]
        self._schedule = Schedule(launches if device.is_cuda else self._whole, device, capture=capture)
        self._schedule.prepare()
        self._addresses = self._schedule.address, table.data_ptr()

    def rows(
        self, sources: Sequence[Tensor | None], targets: Sequence[Tensor | None]
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Sees tensors of a whole batch as `between` likes them, the same for every run of the batch.

        Args:
            sources: A tensor [n, ...] for each source, or None for zeros.
            targets: A tensor [n, ...] for each target, or None for what nobody wants.
        """
        if self._device.is_cuda:
            return sources, targets
        read, written = (
            [None if tensor is None else buffer.rows(tensor) for buffer, tensor in zip(buffers, tensors, strict=True)]
            for buffers, tensors in ((self._sources, sources), (self._targets, targets))
        )
        return read, written

    def between(
        self, sources: Sequence[Tensor | None], targets: Sequence[Tensor | None], first: int, count: int
    ) -> Crossing:
        """Readies a run of `count` environments from `first` on, of tensors from `rows`; a GPU runs all at once."""
        if self._device.is_cuda:
            return Crossing(self, sources, targets, array("q"))
        places: list[int] = []
        for buffers, tensors in ((self._sources, sources), (self._targets, targets)):
            for buffer, rows in zip(buffers, tensors, strict=True):
                places += _NOWHERE if rows is None else buffer.place(rows, first, count)
        return Crossing(self, sources, targets, array("q", (*self._addresses, len(places), *places)))

    def run(self, crossing: Crossing) -> None:
        """Runs with the tensors of a crossing."""
        if not self._device.is_cuda:
            self._table[:] = crossing.job[3:]
            self._schedule.run()
            return
        for buffer, tensor in zip(self._sources, crossing.sources, strict=True):
            buffer.tensor.zero_() if tensor is None else buffer.load(tensor)
        self._schedule.run()
        for buffer, target in zip(self._targets, crossing.targets, strict=True):
            if target is not None:
                buffer.store(target)

    def time(self) -> float:
        """Runs a few times on zeros, into nothing; returns the shortest duration [s]."""
        self._table[:] = 0
        durations = []
        for _ in range(3):
            started = perf_counter()
            self._schedule.run()
            durations.append(perf_counter() - started)
        return min(durations)

    def _whole(self) -> None:
        """The launches with the copies before and after them."""
        count = len(self._sources)
        for buffer, place in zip(self._sources, self._places[:count], strict=True):
            self._copy("load", buffer, place)
        self._launches()
        for buffer, place in zip(self._targets, self._places[count:], strict=True):
            self._copy("store", buffer, place)

    def _copy(self, name: str, buffer: Buffer, place: Any) -> None:
        dtype = scalar_name(buffer.tensor.dtype)
        snippet = _COPY.format(dtype=dtype, width=buffer.width, **{"load": _LOAD, "store": _STORE}[name])
        parameters = (("place", "wp.array(dtype=wp.int64)"), ("buffer", f"wp.array2d(dtype=wp.{dtype})"))
        kernel = native_kernel(f"{name}_rows", parameters, snippet)
        inputs = [buffer.components, place, buffer.array]
        wp.launch(kernel, dim=1, inputs=inputs, device=self._device, record_tape=False)


_NOWHERE = [0] * PLACE
