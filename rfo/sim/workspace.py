"""What an engine tells a simulation, and what a control step keeps for its adjoint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from rfo.sim.bridge import Buffer, warp_device
from rfo.sim.passage import Passage

__all__ = ["Core", "Physics", "Recorded", "Run", "Tape", "Workspace"]


class Workspace(ABC):
    """The buffers of one control step of some packs, and the launches over them.

    Attributes:
        inputs: Where the step's inputs go, by name.
        outputs: Where its results lie.
        seeds: Where the adjoints of the results go; empty in a transient workspace.
        bars: Where `adjoint` leaves those of the inputs; likewise.
    """

    inputs: Mapping[str, Buffer]
    outputs: Mapping[str, Buffer]
    seeds: Mapping[str, Buffer]
    bars: Mapping[str, Buffer]

    @abstractmethod
    def forward(self) -> None:
        """Launches the step."""

    def recompute(self) -> None:
        """Launches what `adjoint` needs of a step that was not kept, whose inputs have come in: all of it."""
        self.forward()

    @abstractmethod
    def adjoint(self) -> None:
        """Launches the adjoint of the step whose substeps this workspace holds."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory of the stored substeps [B]."""


class Physics(ABC):
    """What an engine tells a simulation.

    Attributes:
        inputs: Name and shape (without the environment) of everything a control step reads: states, then controls.
        outputs: Name and shape of everything it returns, in this order.
        device: Torch device.
        dtype: Scalar type.
        lanes: Environments per pack.
        packs_per_run: Packs that a CPU core works through in one launch: one where a pack fills its cache, many where
            a launch would otherwise cost more than the physics.
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    device: torch.device
    dtype: torch.dtype
    lanes: int
    packs_per_run: int = 1

    def empty(self, n: int, name: str) -> Tensor:
        """Allocates a tensor [n, *shape] of an input or output, in the memory order that its buffer copies fastest.

        Unless overridden environments lie innermost: copying a pack out is then a copy of whole vectors.
        """
        shape = self.inputs[name] if name in self.inputs else self.outputs[name]
        strides = [n * math.prod(shape[i + 1 :]) for i in range(len(shape))]
        return torch.empty_strided((n, *shape), (1, *strides), dtype=self.dtype, device=self.device)

    @abstractmethod
    def workspace(self, packs: int, scratch: Workspace | None, *, transient: bool) -> Workspace:
        """Allocates a workspace.

        Args:
            packs: Number of packs it holds.
            scratch: A workspace of the same core, whose adjoint buffers may be shared.
            transient: Keep no substeps: forward only.
        """


class Recorded:
    """A workspace with its ways from tensors to tensors, recorded.

    Attributes:
        workspace: The buffers.
        forward: From the inputs to the outputs.
        recompute: From the inputs to what the adjoint needs; of a scratch workspace only.
        adjoint: From the adjoints of the outputs to those of the inputs; of a transient one not.
    """

    def __init__(self, physics: Physics, packs: int, scratch: Workspace | None, transient: bool, capture: bool) -> None:
        workspace = self.workspace = physics.workspace(packs, scratch, transient=transient)

        def passage(launches: Callable[[], None], sources: Sequence[Buffer], targets: Sequence[Buffer]) -> Passage:
            return Passage(launches, sources, targets, warp_device(physics.device), capture=capture)

        inputs = [workspace.inputs[name] for name in physics.inputs]
        outputs = [workspace.outputs[name] for name in physics.outputs]
        self.forward = passage(workspace.forward, inputs, outputs)
        if not transient:
            if scratch is None:
                self.recompute = passage(workspace.recompute, inputs, [])
            seeds = [workspace.seeds[name] for name in physics.outputs]
            bars = [workspace.bars[name] for name in physics.inputs]
            self.adjoint = passage(workspace.adjoint, seeds, bars)


class Core:
    """One core's workspaces: a transient one, a scratch one to recompute in, and a pool that keeps substeps."""

    def __init__(self, physics: Physics, packs: int, capture: bool) -> None:
        self._build = (physics, packs, capture)
        self._stored_count = 0
        self.free: list[Recorded] = []

    @cached_property
    def transient(self) -> Recorded:
        """Where steps run of which nothing is kept."""
        physics, packs, capture = self._build
        return Recorded(physics, packs, None, True, capture)

    @cached_property
    def scratch(self) -> Recorded:
        """Where steps that were not kept are repeated; its adjoints serve every workspace of the core."""
        physics, packs, capture = self._build
        return Recorded(physics, packs, None, False, capture)

    def acquire(self, limit: int) -> Recorded | None:
        """Returns a workspace to keep a step's substeps in, or None once `limit` bytes are in use."""
        if self.free:
            return self.free.pop()
        if (self._stored_count + 1) * self.scratch.workspace.nbytes > limit:
            return None
        self._stored_count += 1
        physics, packs, capture = self._build
        return Recorded(physics, packs, self.scratch.workspace, False, capture)


class Run(NamedTuple):
    """Environments that run together.

    Attributes:
        core: The workspaces they run in.
        place: Which core of the processor that is.
        first: The first of them in the batch.
        n: Their number.
    """

    core: Core
    place: int
    first: int
    n: int


class Tape:
    """The workspaces that hold a control step's substeps, given back when the autograd graph lets go of the step.

    Attributes:
        runs: The runs of the step.
        kept: The workspace that each holds, or None where the run must be repeated in the adjoint.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.kept: list[Recorded | None] = []

    def keep(self, core: Core, limit: int) -> Recorded | None:
        """Takes a workspace for the next run, while `limit` bytes last."""
        self.kept.append(core.acquire(limit) if limit else None)
        return self.kept[-1]

    def __del__(self) -> None:
        for run, recorded in zip(self.runs, self.kept, strict=False):  # a step that was never kept has no workspaces
            if recorded is not None:
                run.core.free.append(recorded)
