"""From a law to a native kernel over lane packs.

Memory of an array with `Item` or `Corners` access is [pack][item][component][lane], of one with `Planar` access
[pack][component][item][lane]: environments (or, where one environment fills a pack, consecutive elements) lie side by
side in lanes, so one vector instruction advances 16 of them. On the CPU one Warp thread walks a pack's elements with
vectors as wide as the lanes; on CUDA the same statements run with one thread for every element and lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import warp as wp

from rfo.core.waiting import waiting
from rfo.sim.emit import CPU_COMPILER_FLAGS, Source, native_kernel
from rfo.sim.law import Access, Corners, Fixed, Item, Law, Planar, Single, Table, Uniform

__all__ = [
    "Access",
    "Corners",
    "Fixed",
    "Item",
    "Kernel",
    "Law",
    "Planar",
    "Single",
    "Table",
    "Uniform",
    "lanes_for",
    "native_kernel",
]

# LLVM's scheduler lengthens the lives of values in large straight-line blocks until most are spilled.
SEQUENTIAL_COMPILER_FLAGS = f"{CPU_COMPILER_FLAGS} -mllvm=-enable-misched=false"


def lanes_for(dtype: str, *, cuda: bool) -> int:
    """Environments per pack: a 64-byte vector on the CPU, a warp of threads on CUDA."""
    return 32 if cuda else {"float32": 16, "float64": 8}[dtype]


@dataclass(frozen=True)
class Kernel:
    """A law compiled for a scalar type, a lane count and a kind of device.

    Attributes:
        law: What it computes.
        dtype: "float32" or "float64".
        lanes: Environments per pack.
        cuda: Compile for CUDA threads instead of CPU vectors.
        title: What a person is told while it compiles; the law's name if empty.
    """

    law: Law
    dtype: str
    lanes: int
    cuda: bool = False
    title: str = ""
    _loaded: set[str] = field(init=False, repr=False, default_factory=set)
    _names: tuple[str, ...] = field(init=False, repr=False)
    _kernel: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        flags = CPU_COMPILER_FLAGS if self.law.order == "any" else SEQUENTIAL_COMPILER_FLAGS
        with waiting(f"tracing {self.title or self.law.name}"):
            source = Source(self.law, self.dtype, self.lanes, self.cuda)
            parameters = tuple(source.parameters())
            kernel = native_kernel(self.law.name, parameters, source.snippet(), flags)
        object.__setattr__(self, "_names", tuple(name for name, _ in parameters))
        object.__setattr__(self, "_kernel", kernel)

    @property
    def source(self) -> str:
        """The native code, to read."""
        return Source(self.law, self.dtype, self.lanes, self.cuda).snippet()

    @property
    def operation_count(self) -> int:
        """Arithmetic operations per element and environment, a fused multiply-add counted as two.

        What is computed once for all environments of a pack, and choices of sign and table, are not counted.
        """
        return Source(self.law, self.dtype, self.lanes, self.cuda).operation_count()

    def launch(self, arrays: Mapping[str, Any], *, elements: int, packs: int, device: Any) -> None:
        """Launches (or, inside a capture, records) the kernel.

        Args:
            arrays: A Warp array for every name of the law's inputs, outputs and index arrays.
            elements: Number of elements per pack.
            packs: Number of packs.
            device: Warp device.
        """
        threads = self.lanes * (elements if self.law.order == "any" else 1) if self.cuda else 1
        dim = packs * threads
        inputs = [elements, *(arrays[name] for name in self._names)]
        if str(device) in self._loaded:
            wp.launch(self._kernel, dim=dim, inputs=inputs, device=device, record_tape=False)
            return
        with waiting(f"compiling {self.title or self.law.name} ({self.dtype}, {device})"):  # once, then cached on disk
            wp.launch(self._kernel, dim=dim, inputs=inputs, device=device, record_tape=False)
        self._loaded.add(str(device))

    def warp_module(self) -> Any:
        """The Warp module that holds the kernel, for ahead-of-time compilation."""
        return self._kernel.module
