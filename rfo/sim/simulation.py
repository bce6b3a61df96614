"""From batched torch tensors to packs, cores and tapes: what every engine shares around its kernels.

An engine describes one control step as `Physics`. A `Simulation` owns everything else: it cuts a batch into packs,
deals the packs to cores, decides what a step keeps for its adjoint, and runs forward and adjoint schedules. Kernels and
tasks never learn which strategy was chosen, and every strategy returns the same bits on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Literal

import psutil
from torch import Tensor

from rfo.sim.bridge import step
from rfo.sim.passage import Crossing
from rfo.sim.workspace import Core, Physics, Run, Tape, Workspace

__all__ = ["Physics", "Simulation", "Store", "Tape", "Workspace", "preferred_store"]

Store = Literal["auto", "substep", "control"]

WORTH_WAKING_SECONDS = 4e-5
"""What other cores must have to do in a forward step for waking them, which takes as long or longer, to pay.

An adjoint takes about three times a forward step.
"""

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
        self._cores: dict[tuple[int, int], list[Core]] = {}
        self._runs_of: dict[int, list[Run]] = {}

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Advances by one control step.

        Args:
            inputs: A tensor [N, *shape] for each of the engine's inputs.

        Returns:
            The outputs, [N, *shape] views whose memory runs environment by environment.
        """
        given, dtype = (inputs[name] for name in self.physics.inputs), self.physics.dtype
        ordered = tuple(tensor if tensor.dtype == dtype else tensor.to(dtype) for tensor in given)
        return dict(zip(self.physics.outputs, step(self, ordered), strict=True))

    def forward(self, inputs: Sequence[Tensor], *, keep: bool) -> tuple[tuple[Tensor, ...], Tape]:
        """Runs a step outside autograd; with `keep`, the tape holds what its adjoint can use."""
        n = inputs[0].shape[0]
        outputs = tuple(self.physics.empty(n, name) for name in self.physics.outputs)
        runs = self._runs(n)
        tape = Tape(runs)
        crossings = []
        # Workspaces are acquired here because recording needs the main thread; replaying does not.
        for run in runs:
            recorded = tape.keep(run.core, self._limit) if keep else None
            passage = (recorded or run.core.transient).forward
            crossings.append([passage.between(run.part(inputs), run.part(outputs))])
        self._cross(runs, crossings)
        return outputs, tape

    def adjoint(
        self, inputs: Sequence[Tensor], bars: Sequence[Tensor | None], tape: Tape, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Returns the adjoint of every input that is wanted, given those of the outputs; None stands for zeros."""
        n = inputs[0].shape[0]
        needed = zip(self.physics.inputs, wanted, strict=True)
        results = tuple(self.physics.empty(n, name) if want else None for name, want in needed)
        crossings = []
        for run, kept in zip(tape.runs, tape.kept, strict=True):
            recorded = kept or run.core.scratch
            back = recorded.adjoint.between(run.part(bars), run.part(results))
            # A run whose substeps were not kept repeats them first.
            crossings.append([back] if kept else [recorded.recompute.between(run.part(inputs), ()), back])
        self._cross(tape.runs, crossings)
        return results

    def _runs(self, n: int) -> list[Run]:
        if n not in self._runs_of:
            self._runs_of[n] = self._share_out(n)
        return self._runs_of[n]

    def _share_out(self, n: int) -> list[Run]:
        """Which environments run together, and on which core.

        A GPU takes all packs at once. CPU cores share them evenly, each in runs of at most `packs_per_run`.
        """
        physics = self.physics
        packs, threads = -(-n // physics.lanes), self._threads(n)
        if physics.device.type != "cuda":
            rounds = max(1, -(-packs // (threads * physics.packs_per_run)))
            packs = max(1, -(-packs // (threads * rounds)))
        cores, size = self._cores_for(packs, threads), packs * physics.lanes
        starts = range(0, n, size)
        return [Run(cores[i % threads], i % threads, slice(at, min(at + size, n)), n) for i, at in enumerate(starts)]

    def _threads(self, n: int) -> int:
        """All threads, or one where it has done `n` environments before the others have woken."""
        if self.threads == 1:
            return 1
        others = (1.0 - 1.0 / self.threads) * -(-n // self.physics.lanes) * self._pack_seconds
        return self.threads if others > WORTH_WAKING_SECONDS else 1

    @cached_property
    def _pack_seconds(self) -> float:
        """Duration of a forward step of one pack [s]."""
        return self._cores_for(1, self.threads)[0].transient.forward.time()

    def _cores_for(self, packs: int, threads: int) -> list[Core]:
        """The cores' workspaces for runs of some packs."""
        if (packs, threads) not in self._cores:
            self._cores[packs, threads] = [Core(self.physics, packs, self._capture) for _ in range(threads)]
        return self._cores[packs, threads]

    def _cross(self, runs: Sequence[Run], crossings: Sequence[Sequence[Crossing]]) -> None:
        """Runs everything, each core its own share, the first core's in this thread.

        What is left to other threads lets go of the interpreter but for a moment between runs.
        """
        if len(runs) == 1:
            _run_all(crossings[0])
            return
        shares: list[list[Crossing]] = [[] for _ in range(self.threads)]
        for run, mine in zip(runs, crossings, strict=True):
            shares[run.place] += mine
        own, *others = shares
        waiting = [self._executor.submit(_run_all, share) for share in others if share] if self._executor else []
        _run_all(own)
        for other in waiting:
            other.result()


def _run_all(crossings: Sequence[Crossing]) -> None:
    for crossing in crossings:
        crossing.run()
