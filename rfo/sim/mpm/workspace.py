"""The buffers of one MPM control step and the launches over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import warp as wp
from torch import Tensor

from rfo.sim.bridge import Buffer, warp_device
from rfo.sim.mpm.transfer import FLAGS
from rfo.sim.simulation import Workspace

if TYPE_CHECKING:
    from rfo.sim.mpm.engine import MpmEngine

__all__ = ["MpmWorkspace", "Planes"]


class Planes(Buffer):
    """A quantity of all particles, each component contiguous and padded to whole vectors.

    What pads repeats the last particle, so it stays finite; no transfer reads it.
    """

    def __init__(self, packs: int, components: int, engine: MpmEngine) -> None:
        super().__init__(packs, components * engine.stride, 1, engine.dtype, engine.device)
        self._planes = self.tensor.view(packs, components, engine.stride)
        self._count = engine.model.particle_count
        self.components, self.width = components, engine.stride

    def load(self, values: Tensor) -> None:
        """Fills the buffer from [packs, particle_count, ...] values."""
        planes = values.detach().flatten(2).transpose(1, 2)
        self._planes[:, :, : self._count].copy_(planes)
        if self._count < self._planes.shape[2]:
            self._planes[:, :, self._count :].copy_(
                planes[:, :, -1:].expand(-1, -1, self._planes.shape[2] - self._count)
            )

    def store(self, target: Tensor) -> None:
        """Writes the buffer into a [packs, particle_count, ...] tensor."""
        target.flatten(2).copy_(self._planes[:, :, : self._count].transpose(1, 2))

    def rows(self, values: Tensor) -> Tensor:
        """Sees [packs, particle_count, ...] values as [packs, particle_count, components]."""
        return values.flatten(2)

    def place(self, rows: Tensor, first: int, count: int) -> tuple[int, ...]:
        """Where `rows` lie: a pack is one environment, and its items are the particles."""
        environment, particle, component = rows.stride()
        address = rows.data_ptr() + first * environment * rows.element_size()
        return address, environment, particle, component, self._count, 0


class MpmWorkspace(Workspace):
    """Particle states before every substep, one grid, and one set of adjoints.

    The workspace in which steps are repeated for their adjoint keeps the grid of every substep for it; others build
    theirs again.
    """

    def __init__(self, engine: MpmEngine, packs: int, scratch: MpmWorkspace | None, transient: bool) -> None:
        self._engine, self._packs, self._device = engine, packs, warp_device(engine.device)
        sizes = {name: torch.Size(engine.inputs[name][1:]).numel() for name in ("x", "v", "c", "s", "figures")}
        kept = 2 if transient else engine.substeps + 1
        self._states = [
            {name: Planes(packs, sizes[name], engine) for name in ("x", "v", "c", "s")} for _ in range(kept)
        ]
        last = self._states[engine.substeps % kept]
        self._figures = Planes(packs, sizes["figures"], engine)
        self._tools = self._buffer(engine.substeps * len(engine.model.tools) * engine.inputs["tools"][2])
        self._flags = self._buffer(FLAGS)
        self.inputs = {**self._states[0], "flags": self._flags, "tools": self._tools, "figures": self._figures}
        self.outputs = {**last, "flags": self._flags}
        self._shared: dict[str, Any] = scratch._shared if scratch else self._allocate_shared()
        grids = engine.substeps if engine.launches.keeps_grids and not transient else 1
        self._grids: list[dict[str, Any]] = (
            scratch._grids[:1] if scratch else [self._allocate_grid() for _ in range(grids)]
        )
        if not transient:
            self._bars: dict[str, Buffer] = scratch._bars if scratch else self._allocate_bars(sizes)
            self.bars = self.seeds = {name: self._bars[name] for name in engine.inputs}

    def _buffer(self, components: int) -> Buffer:
        engine = self._engine
        return Buffer(self._packs, max(components, 1), 1, engine.dtype, engine.device).head(components)

    def _allocate_shared(self) -> dict[str, Any]:
        """What a substep needs and nobody keeps."""
        engine = self._engine
        shared = {"bar_grid": self._nodes()}
        shared["reach"], shared["bar_a"] = (Planes(self._packs, size, engine).array for size in (1, 9))
        return shared | self._integers(engine.launches.shared_integers)

    def _allocate_grid(self) -> dict[str, Any]:
        """What `_to_grid` makes of the particles."""
        grid = {"grid": self._nodes(), "velocity": self._nodes(), "a": Planes(self._packs, 9, self._engine).array}
        return grid | self._integers(self._engine.launches.integers)

    def _nodes(self) -> Any:
        """Four numbers for each node; memory of which no node is ever touched is only promised by the system."""
        engine = self._engine
        size = (self._packs, 4 * engine.launches.node_count)
        return wp.from_torch(torch.empty(size, dtype=engine.dtype, device=engine.device), requires_grad=False)

    def _integers(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        return {n: wp.zeros((self._packs, k), dtype=wp.int32, device=self._device) for n, k in sizes.items()}

    def _allocate_bars(self, sizes: dict[str, int]) -> dict[str, Buffer]:
        bars: dict[str, Buffer] = {name: Planes(self._packs, sizes[name], self._engine) for name in sizes}
        bars["tools"] = self._buffer(torch.Size(self._engine.inputs["tools"]).numel())
        bars["flags"] = self._buffer(FLAGS)
        return bars

    @property
    def nbytes(self) -> int:
        """Memory of the stored substeps [B]."""
        return sum(buffer.nbytes for state in self._states for buffer in state.values())

    def _arrays(self, substep: int) -> dict[str, Any]:
        before = self._states[substep % len(self._states)]
        after = self._states[(substep + 1) % len(self._states)]
        return {
            **self._shared,
            **self._grids[substep % len(self._grids)],
            **{name: buffer.array for name, buffer in before.items()},
            **{f"{name}_next": buffer.array for name, buffer in after.items()},
            "figures": self._figures.array,
            "flags": self._flags.array,
            "tools": self._frames(self._tools, substep),
        }

    def _frames(self, tools: Buffer, substep: int) -> Any:
        """The tools' frames of one substep: a window on those of all."""
        size = len(self._engine.model.tools) * self._engine.inputs["tools"][2]
        return tools.array[:, substep * size : (substep + 1) * size] if size else tools.array

    def _to_grid(self, arrays: dict[str, Any]) -> None:
        """Deforms the particles and brings their momentum to the grid, and the grid to its velocity."""
        engine = self._engine
        elements = engine.stride // engine.vector
        engine.particle.launch(arrays, elements=elements, packs=self._packs, device=self._device)
        engine.launches.to_grid(arrays, self._packs)

    def forward(self) -> None:
        """Launches the substeps."""
        for substep in range(self._engine.substeps):
            arrays = self._arrays(substep)
            self._to_grid(arrays)
            self._engine.launches.from_grid(arrays, self._packs)

    def adjoint(self) -> None:
        """Launches the adjoint substeps, last first; each replaces the adjoints of the state in place."""
        engine = self._engine
        bars = {f"bar_{name}": buffer.array for name, buffer in self._bars.items()}
        bars["bar_s_next"] = bars["bar_s"]
        for name in ("bar_tools", "bar_figures", "bar_flags"):
            bars[name].zero_()
        for substep in reversed(range(engine.substeps)):
            arrays = {**self._arrays(substep), **bars}
            arrays["bar_tools"] = self._frames(self._bars["tools"], substep)
            if len(self._grids) == 1:
                self._to_grid(arrays)
            engine.launches.adjoint(arrays, self._packs)
            elements = engine.stride // engine.vector
            engine.particle_adjoint.launch(arrays, elements=elements, packs=self._packs, device=self._device)
