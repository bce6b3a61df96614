"""From batched torch tensors to packs, cores and tapes: what every engine shares around its kernels.

An engine describes one control step as `Physics`. A `Simulation` owns everything else: it cuts a batch into packs,
deals the packs to cores, decides what a step keeps for its adjoint, and runs forward and adjoint schedules. Kernels and
tasks never learn which strategy was chosen, and every strategy returns the same bits on the CPU.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import psutil
import torch
from torch import Tensor

from rfo.sim.bridge import step
from rfo.sim.crew import crew
from rfo.sim.passage import Crossing
from rfo.sim.workspace import Core, Physics, Run, Tape, Workspace

__all__ = ["Physics", "Simulation", "Store", "Tape", "Workspace", "preferred_store"]

Store = Literal["auto", "substep", "control"]

WORTH_SHARING_SECONDS = 2e-5
"""What other cores must have to do in a forward step, their copies not counted, for calling them to pay.

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
        outputs = tuple(self.physics.empty(inputs[0].shape[0], name) for name in self.physics.outputs)
        tape = Tape(self._runs(inputs[0].shape[0]))
        self._cross(tape.runs, self._forward_crossings(inputs, outputs, tape, keep))
        return outputs, tape

    def adjoint(
        self, inputs: Sequence[Tensor], bars: Sequence[Tensor | None], tape: Tape, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Returns the adjoint of every input that is wanted, given those of the outputs; None stands for zeros."""
        # In the memory order of the input, as autograd likes its gradients.
        results = tuple(torch.empty_like(x) if want else None for x, want in zip(inputs, wanted, strict=True))
        self._cross(tape.runs, self._adjoint_crossings(inputs, bars, tape, results))
        return results

    def replays(self, inputs: Sequence[Tensor], steps: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """What `steps` control steps cost without torch: their recorded schedules, ready to be replayed.

        Every step starts from the same inputs and has workspaces of its own, as those of a window have.

        Returns:
            All steps forward; all steps forward and then, last first, backward.
        """
        outputs = [self.physics.empty(inputs[0].shape[0], name) for name in self.physics.outputs]
        bars = [torch.ones_like(output) for output in outputs]
        results = [torch.empty_like(x) for x in inputs]
        tapes = [Tape(self._runs(inputs[0].shape[0])) for _ in range(steps)]
        ahead = [self._forward_crossings(inputs, outputs, tape, True) for tape in tapes]
        back = [self._adjoint_crossings(inputs, bars, tape, results) for tape in tapes]

        def forward() -> None:
            for tape, crossings in zip(tapes, ahead, strict=True):
                self._cross(tape.runs, crossings)

        def gradient() -> None:
            forward()
            for tape, crossings in zip(reversed(tapes), reversed(back), strict=True):
                self._cross(tape.runs, crossings)

        return forward, gradient

    def _forward_crossings(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tape: Tape, keep: bool
    ) -> list[list[Crossing]]:
        """What each run does. Workspaces are taken here: recording needs the main thread, replaying does not."""
        passages = [
            ((tape.keep(run.core, self._limit) if keep else None) or run.core.transient).forward for run in tape.runs
        ]
        tensors = passages[0].rows(inputs, outputs)
        return [[passage.between(*tensors, run.first, run.n)] for run, passage in zip(tape.runs, passages, strict=True)]

    def _adjoint_crossings(
        self, inputs: Sequence[Tensor], bars: Sequence[Tensor | None], tape: Tape, results: Sequence[Tensor | None]
    ) -> list[list[Crossing]]:
        """What each run does; one whose substeps were not kept repeats them first."""
        recorded = [kept or run.core.scratch for run, kept in zip(tape.runs, tape.kept, strict=True)]
        tensors = recorded[0].adjoint.rows(bars, results)
        crossings = [
            [ways.adjoint.between(*tensors, run.first, run.n)] for run, ways in zip(tape.runs, recorded, strict=True)
        ]
        if None in tape.kept:
            given = tape.runs[0].core.scratch.recompute.rows(inputs, ())
            for run, kept, crossing in zip(tape.runs, tape.kept, crossings, strict=True):
                if kept is None:
                    crossing.insert(0, run.core.scratch.recompute.between(*given, run.first, run.n))
        return crossings

    def _runs(self, n: int) -> list[Run]:
        """Which environments run together, and on which core; others are not woken for what one has done sooner."""
        if n not in self._runs_of:
            self._runs_of[n] = self._share_out(n, self.threads)
            *_, last = self._runs_of[n]
            if last.place and last.core.transient.forward.time() * last.place < WORTH_SHARING_SECONDS:
                self._runs_of[n] = self._share_out(n, 1)
        return self._runs_of[n]

    def _share_out(self, n: int, threads: int) -> list[Run]:
        """A GPU takes all environments at once; CPU cores share them evenly, in runs of at most `packs_per_run`."""
        physics = self.physics
        packs = -(-n // physics.lanes)
        if physics.device.type != "cuda":
            rounds = -(-packs // (threads * physics.packs_per_run))
            packs = -(-packs // (threads * rounds))
        if (packs, threads) not in self._cores:
            self._cores[packs, threads] = [Core(physics, packs, self._capture) for _ in range(threads)]
        cores, size = self._cores[packs, threads], packs * physics.lanes
        starts = range(0, n, size)
        return [Run(cores[i % threads], i % threads, at, min(size, n - at)) for i, at in enumerate(starts)]

    def _cross(self, runs: Sequence[Run], crossings: Sequence[Sequence[Crossing]]) -> None:
        """Runs everything, each core its own share; without records, one after the other in this thread."""
        shares: dict[int, array[int]] = {}
        for run, mine in zip(runs, crossings, strict=True):
            for crossing in mine:
                if crossing.recorded:
                    shares.setdefault(run.place, array("q")).extend(crossing.job)
                else:
                    crossing.run()
        if shares:
            crew(self.threads).run(list(shares.values()))
