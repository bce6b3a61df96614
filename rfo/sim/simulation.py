"""From batched torch tensors to packs, cores and tapes: what every engine shares around its kernels.

An engine describes one control step as `Physics`. A `Simulation` owns everything else: it cuts a batch into packs,
deals the packs to cores, decides what a step keeps for its adjoint, and runs forward and adjoint schedules. Kernels and
tasks never learn which strategy was chosen, and every strategy returns the same bits on the CPU.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Literal

import psutil
import torch
from torch import Tensor

from rfo.sim.bridge import Buffer, step, warp_device
from rfo.sim.schedule import Schedule

__all__ = ["Physics", "Simulation", "Store", "Tape", "Workspace", "preferred_store"]

Store = Literal["auto", "substep", "control"]

WAKING_SECONDS = 1e-4
"""Time that handing work to another core takes; work that is done sooner stays on this one."""

_preferred: ContextVar[Store] = ContextVar("preferred_store", default="auto")


@contextmanager
def preferred_store(store: Store) -> Iterator[None]:
    """Simulations built in this context take `store` where they are left the choice ("auto").

    A task builds its engine itself: this is how a program compares stores on tasks that it does not know.
    """
    token = _preferred.set(store)
    try:
        yield
    finally:
        _preferred.reset(token)


class Workspace(ABC):
    """The buffers of one control step of some packs, and the launches over them.

    Attributes:
        inputs: Where the step's inputs go, by name.
        outputs: Where its results lie.
        bars: Adjoints: of the outputs before `adjoint` runs, of the inputs after it; empty in a transient workspace.
    """

    inputs: Mapping[str, Buffer]
    outputs: Mapping[str, Buffer]
    bars: Mapping[str, Buffer]

    @abstractmethod
    def forward(self) -> None:
        """Launches the step."""

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
        outputs: Names of the states, in the order in which a step returns them.
        device: Torch device.
        dtype: Scalar type.
        lanes: Environments per pack.
        packs_per_run: Packs that a CPU core works through in one launch: one where a pack fills its cache, many where
            a launch would otherwise cost more than the physics.
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Sequence[str]
    device: torch.device
    dtype: torch.dtype
    lanes: int
    packs_per_run: int = 1

    def empty(self, n: int, name: str) -> Tensor:
        """Allocates a tensor [n, *shape] of one of the inputs, in the memory order that its buffer copies fastest.

        Unless overridden environments lie innermost: copying a pack out is then a copy of whole vectors.
        """
        shape = self.inputs[name]
        tensor = torch.empty(torch.Size(shape).numel(), n, dtype=self.dtype, device=self.device)
        return tensor.T.view(n, *shape)

    @abstractmethod
    def workspace(self, packs: int, scratch: Workspace | None, *, transient: bool) -> Workspace:
        """Allocates a workspace.

        Args:
            packs: Number of packs it holds.
            scratch: A workspace of the same core, whose adjoint buffers may be shared.
            transient: Keep no substeps: forward only.
        """


class _Recorded:
    """A workspace with its schedules, recorded."""

    def __init__(self, physics: Physics, packs: int, scratch: Workspace | None, transient: bool, capture: bool) -> None:
        device = warp_device(physics.device)
        self.workspace = physics.workspace(packs, scratch, transient=transient)
        self.forward = Schedule(self.workspace.forward, device, capture=capture)
        self.adjoint = Schedule(self.workspace.adjoint, device, capture=capture)
        self.forward.prepare()
        if not transient:
            self.adjoint.prepare()


class _Core:
    """One core's workspaces: a transient one, a scratch one to recompute in, and a pool that keeps substeps."""

    def __init__(self, physics: Physics, packs: int, capture: bool) -> None:
        self._build = (physics, packs, capture)
        self._stored_count = 0
        self.free: list[_Recorded] = []

    @cached_property
    def transient(self) -> _Recorded:
        physics, packs, capture = self._build
        return _Recorded(physics, packs, None, True, capture)

    @cached_property
    def scratch(self) -> _Recorded:
        physics, packs, capture = self._build
        return _Recorded(physics, packs, None, False, capture)

    def acquire(self, limit: int) -> _Recorded | None:
        """Returns a workspace to keep a step's substeps in, or None once `limit` bytes are in use."""
        if self.free:
            return self.free.pop()
        if (self._stored_count + 1) * self.scratch.workspace.nbytes > limit:
            return None
        self._stored_count += 1
        physics, packs, capture = self._build
        return _Recorded(physics, packs, self.scratch.workspace, False, capture)


class Tape:
    """The workspaces that hold a control step's substeps, given back when the autograd graph lets go of the step."""

    def __init__(self) -> None:
        self.kept: list[_Recorded | None] = []
        self._cores: list[_Core] = []

    def keep(self, core: _Core, limit: int) -> _Recorded | None:
        """Takes one more workspace, or notes with None that the run must be repeated in the adjoint."""
        self.kept.append(core.acquire(limit) if limit else None)
        self._cores.append(core)
        return self.kept[-1]

    def __del__(self) -> None:
        for core, recorded in zip(self._cores, self.kept, strict=True):
            if recorded is not None:
                core.free.append(recorded)


class Simulation:
    """Runs an engine's control step over any number of environments, differentiably.

    Args:
        physics: The engine.
        threads: Cores to use; None for all that this process may use.
        store: What a step keeps for its adjoint. "substep" keeps every substep; "control" keeps the step's inputs and
            runs its substeps again; "auto" keeps substeps while they fit in a quarter of the machine's memory.
        capture: Record schedules as graphs; False runs them eagerly.
    """

    def __init__(
        self, physics: Physics, *, threads: int | None = None, store: Store = "auto", capture: bool = True
    ) -> None:
        self.physics = physics
        self.store = store = _preferred.get() if store == "auto" else store
        self.threads = 1 if physics.device.type == "cuda" else threads or len(os.sched_getaffinity(0))
        self._capture = capture
        budget = {"control": 0, "substep": 1 << 62, "auto": psutil.virtual_memory().total // 4}[store]
        self._limit = budget // self.threads
        self._executor = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        self._cores: dict[int, list[_Core]] = {}

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Advances by one control step.

        Args:
            inputs: A tensor [N, *shape] for each of the engine's inputs.

        Returns:
            The states after the step, [N, *shape] views whose memory runs environment by environment.
        """
        ordered = tuple(inputs[name].to(self.physics.dtype) for name in self.physics.inputs)
        return dict(zip(self.physics.outputs, step(self, ordered), strict=True))

    def forward(self, inputs: Sequence[Tensor], *, keep: bool) -> tuple[tuple[Tensor, ...], Tape]:
        """Runs a step outside autograd; with `keep`, the tape holds what its adjoint can use."""
        n = len(inputs[0])
        outputs = {name: self.physics.empty(n, name) for name in self.physics.outputs}
        tape = Tape()
        # Workspaces are acquired here because recording needs the main thread; replaying does not.
        active = [
            tape.keep(core, self._limit) or core.transient if keep else core.transient for core, _ in self._runs(n)
        ]

        def load(index: int, rows: slice) -> None:
            self._load(active[index].workspace, inputs, rows)

        def store(index: int, rows: slice) -> None:
            for name, target in outputs.items():
                active[index].workspace.outputs[name].store(target[rows])

        self._on_cores(n, load, [[recorded.forward] for recorded in active], store)
        return tuple(outputs.values()), tape

    def adjoint(self, inputs: Sequence[Tensor], bars: Sequence[Tensor], tape: Tape) -> tuple[Tensor, ...]:
        """Returns the adjoint of every input, given those of the outputs."""
        n = len(inputs[0])
        results = {name: self.physics.empty(n, name) for name in self.physics.inputs}
        active = [kept or core.scratch for kept, (core, _) in zip(tape.kept, self._runs(n), strict=True)]

        def load(index: int, rows: slice) -> None:
            workspace = active[index].workspace
            if tape.kept[index] is None:
                self._load(workspace, inputs, rows)
            for name, bar in zip(self.physics.outputs, bars, strict=True):
                workspace.bars[name].load(bar[rows])

        def store(index: int, rows: slice) -> None:
            for name, target in results.items():
                active[index].workspace.bars[name].store(target[rows])

        # A run whose substeps were not kept repeats them first.
        schedules = [
            [recorded.adjoint] if kept else [recorded.forward, recorded.adjoint]
            for recorded, kept in zip(active, tape.kept, strict=True)
        ]
        self._on_cores(n, load, schedules, store)
        return tuple(results.values())

    def _load(self, workspace: Workspace, inputs: Sequence[Tensor], rows: slice) -> None:
        for name, tensor in zip(self.physics.inputs, inputs, strict=True):
            workspace.inputs[name].load(tensor[rows])

    def _runs(self, n: int) -> list[tuple[_Core, slice]]:
        """Which environments run together, and on which core.

        A CPU core works through its share in runs of `packs_per_run`; a GPU takes all packs at once.
        """
        packs = -(-n // self.physics.lanes)
        if self.physics.device.type != "cuda":
            packs = min(-(-packs // self.threads), self.physics.packs_per_run)
        if packs not in self._cores:
            self._cores[packs] = [_Core(self.physics, packs, self._capture) for _ in range(self.threads)]
        cores, size = self._cores[packs], packs * self.physics.lanes
        return [
            (cores[i % len(cores)], slice(start, min(start + size, n))) for i, start in enumerate(range(0, n, size))
        ]

    def _on_cores(
        self,
        n: int,
        load: Callable[[int, slice], None],
        schedules: Sequence[Sequence[Schedule]],
        store: Callable[[int, slice], None],
    ) -> None:
        """Loads, runs and stores every run, as many at a time as there are cores.

        Only replaying leaves this thread: it lets go of the interpreter, for which threads that copy tensors would take
        turns.
        """
        runs = self._runs(n)
        with torch.no_grad():
            for first in range(0, len(runs), self.threads):
                here = range(first, min(first + self.threads, len(runs)))
                for index in here:
                    load(index, runs[index][1])
                self._together([schedules[index] for index in here])
                for index in here:
                    store(index, runs[index][1])

    def _together(self, schedules: Sequence[Sequence[Schedule]]) -> None:
        """Runs side by side, the first in this thread; one after the other where waking cores would take longer."""
        mine, *others = schedules
        if self._executor is None or sum(map(_seconds, others)) < WAKING_SECONDS:
            for schedule in schedules:
                _replay(schedule)
            return
        waiting = [self._executor.submit(_replay, schedule) for schedule in others]
        _replay(mine)
        for other in waiting:
            other.result()


def _replay(schedules: Sequence[Schedule]) -> None:
    for schedule in schedules:
        schedule.run()


def _seconds(schedules: Sequence[Schedule]) -> float:
    return sum(schedule.seconds for schedule in schedules)
