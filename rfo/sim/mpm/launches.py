"""The launches of one substep around the law of a particle, in vectors for CPUs and in threads for CUDA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import warp as wp

from rfo.sim.mpm.grid import GridOperation
from rfo.sim.mpm.model import MpmModel
from rfo.sim.mpm.threads import SEARCHERS, ThreadKernels
from rfo.sim.mpm.transfer import BOX, Cover, Transfers

__all__ = ["Launches", "ThreadLaunches", "VectorLaunches"]

Arrays = Mapping[str, Any]

KEPT_NODES = 2**18  # of a grid of which every substep keeps one; larger ones are built again


class Launches(ABC):
    """What a substep does between particles and grid; `arrays` are Warp arrays by name.

    Args:
        model: Matter, tools and domain.
        device: Warp device.

    Attributes:
        node_count: Nodes that the grid's arrays hold.
        integers: Names and sizes of the arrays of integers that belong to a grid.
        shared_integers: Those that nothing is left in between launches.
        keeps_grids: Whether the grids of all substeps may be kept from a step to its adjoint.
    """

    node_count: int
    integers: Mapping[str, int]
    shared_integers: Mapping[str, int]
    keeps_grids: bool

    def __init__(self, model: MpmModel, device: Any) -> None:
        self._count, self._device = model.particle_count, device
        self._tools = ["tools"] if model.tools else []

    @abstractmethod
    def to_grid(self, arrays: Arrays, packs: int) -> None:
        """Finds the box, scatters momentum and mass, and makes velocity of them."""

    @abstractmethod
    def from_grid(self, arrays: Arrays, packs: int) -> None:
        """Gathers the particles' next velocities, velocity gradients and places."""

    @abstractmethod
    def adjoint(self, arrays: Arrays, packs: int) -> None:
        """Carries the adjoints of the next state back, after `to_grid`."""

    def _launch(self, kernel: Any, names: Sequence[str], arrays: Arrays, dim: int) -> None:
        inputs = [self._count, *(arrays[name] for name in names)]
        wp.launch(kernel, dim=dim, inputs=inputs, device=self._device, record_tape=False)


_SCATTER = ["x", "v", "a", "figures"]
_GATHER = ["grid", "x", "x_next", "v_next", "c_next"]
_GATHER_ADJOINT = ["grid", "x", "v_next", "bar_x", "bar_v", "bar_c", "bar_grid"]
_SCATTER_ADJOINT = ["x", "v", "a", "figures", "bar_grid", "bar_x", "bar_v", "bar_a", "bar_figures"]


class VectorLaunches(Launches):
    """One CPU thread works through an environment.

    Args:
        model: Matter, tools and domain.
        dtype: "float32" or "float64".
        dt: Substep [s].
        stride: Particles, padded to whole vectors.
        device: Warp device.
    """

    def __init__(self, model: MpmModel, dtype: str, dt: float, stride: int, device: Any) -> None:
        super().__init__(model, device)
        cover = Cover(model)
        self.node_count = cover.nodes
        self.integers, self.shared_integers = {"box": BOX, "quads": cover.quads}, {"marks": cover.marks}
        self.keeps_grids = cover.nodes <= KEPT_NODES
        self._transfers = Transfers(model, dtype, dt, stride, cover.nodes)
        self._grid = GridOperation(model, dtype, dt)

    def to_grid(self, arrays: Arrays, packs: int) -> None:
        """Two launches."""
        names = [*_SCATTER, "reach", "grid", "flags", "quads", "marks", "box"]
        self._launch(self._transfers.scatter, names, arrays, packs)
        self._launch(self._grid.forward, ["grid", "velocity", *self._tools, "box", "quads"], arrays, packs)

    def from_grid(self, arrays: Arrays, packs: int) -> None:
        """One launch."""
        self._launch(self._transfers.gather, [*_GATHER, "box"], {**arrays, "grid": arrays["velocity"]}, packs)

    def adjoint(self, arrays: Arrays, packs: int) -> None:
        """Three launches."""
        velocity = {**arrays, "grid": arrays["velocity"]}
        tooled = ["grid", "velocity", "bar_grid", "tools", "bar_tools"]
        self._launch(self._transfers.gather_adjoint, [*_GATHER_ADJOINT, "quads", "box"], velocity, packs)
        names = tooled if self._tools else ["grid", "bar_grid"]
        self._launch(self._grid.adjoint, [*names, "box", "quads"], arrays, packs)
        self._launch(self._transfers.scatter_adjoint, [*_SCATTER_ADJOINT, "box"], arrays, packs)


class ThreadLaunches(Launches):
    """One thread for each particle, and one for each node that the box may hold; arguments as above."""

    def __init__(self, model: MpmModel, dtype: str, dt: float, stride: int, device: Any) -> None:
        super().__init__(model, device)
        self.node_count, self.integers, self.shared_integers = model.node_count, {"box": BOX}, {}
        self.keeps_grids = False  # of many environments at once they would fill a GPU
        self._kernels = ThreadKernels(model, dtype, dt, stride)
        self._stride, self._nodes = stride, model.node_count

    def to_grid(self, arrays: Arrays, packs: int) -> None:
        """Five launches."""
        kernels = self._kernels
        self._launch(kernels.reset, ["box"], arrays, packs)
        self._launch(kernels.search, ["x", "reach", "flags", "box"], arrays, packs * SEARCHERS)
        self._launch(kernels.clear, ["grid", "box"], arrays, packs * self._nodes)
        self._launch(kernels.scatter, [*_SCATTER, "grid", "box"], arrays, packs * self._stride)
        self._launch(kernels.grid, ["grid", "velocity", *self._tools, "box"], arrays, packs * self._nodes)

    def from_grid(self, arrays: Arrays, packs: int) -> None:
        """One launch."""
        velocity = {**arrays, "grid": arrays["velocity"]}
        self._launch(self._kernels.gather, [*_GATHER, "box"], velocity, packs * self._stride)

    def adjoint(self, arrays: Arrays, packs: int) -> None:
        """Four launches."""
        kernels, particles, nodes = self._kernels, packs * self._stride, packs * self._nodes
        velocity, bar_grid = {**arrays, "grid": arrays["velocity"]}, {**arrays, "grid": arrays["bar_grid"]}
        tools = ["tools", "bar_tools"] if self._tools else []
        self._launch(kernels.clear, ["grid", "box"], bar_grid, nodes)
        self._launch(kernels.gather_adjoint, [*_GATHER_ADJOINT, "box"], velocity, particles)
        self._launch(kernels.grid_adjoint, ["grid", "bar_grid", *tools, "box"], arrays, nodes)
        self._launch(kernels.scatter_adjoint, [*_SCATTER_ADJOINT, "box"], arrays, particles)
