"""The finite-element engine with an implicit integrator: backward Euler, for bodies too stiff for explicit substeps.

Each substep is solved by Newton's method (`rfo.sim.fem.implicit_laws`). The matrix is the exact tangent, assembled by
the tracer's laws and factored over lanes (`rfo.sim.block_lu`); it is renewed where convergence asks for it. Every
environment converges by itself and is left alone from then on; a pack stops when all of it has. The adjoint solves one
transposed system per substep and stores nothing of Newton's iterations.

An environment that does not converge within `ITERATIONS` gets NaN for its state, one whose adjoint system is not solved
NaN for its gradients: `rfo.core.shell.VectorEnv` names it and stops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp

from rfo.core.errors import UsageError
from rfo.sim.block_lu import BlockLU, BlockPattern
from rfo.sim.bridge import Buffer, warp_device
from rfo.sim.fem import implicit_laws as laws
from rfo.sim.fem.engine import FemPhysics
from rfo.sim.fem.laws import tetrahedron_law
from rfo.sim.kernel import Kernel, Law, native_kernel
from rfo.sim.simulation import Workspace

__all__ = ["ImplicitFemEngine", "Rounds", "implicit_kernels", "residual_laws"]

ITERATIONS = {"float32": 100, "float64": 160}
"""Newton iterations per substep after which an environment counts as failed."""

RENEWAL = 4
"""Newton's matrix is renewed in every fourth iteration at most: environments of a pack then do it together, and one
renewal costs as much as ten of the others."""

TOLERANCE = {"float32": 1e-5, "float64": 1e-13}
"""Root mean square of the last Newton step's move of a vertex, as a share of the mean edge."""

ROUNDING = 4.0
"""The tolerance is never asked to be below this many roundings of a position."""

REFINEMENTS = 4
"""Solutions of the adjoint system, the first and its corrections."""

ADJOINT_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
"""Size of the last correction of an adjoint solution, as a share of it."""

STATE = (
    "active",
    "accepted",
    "done",
    "renew",
    "back",
    "length",
    "last",
    "share",
    "fresh",
    "due",
    "shift",
    "stuck",
    "failed",
)
"""One number per environment each: how its Newton iteration stands (`implicit_laws.judge_law`)."""


class ImplicitFemEngine(FemPhysics):
    """A soft body integrated by backward Euler, unconditionally stable; arguments as of `FemPhysics`."""

    def compile(self, dtype: str, cuda: bool) -> dict[str, npt.NDArray[Any]]:
        """Builds the kernels of residual, matrix, bookkeeping and adjoint."""
        model = self.model
        if model.self_contact is not None:
            raise UsageError("the implicit integrator has no self-contact; use FemEngine for this body")
        self.pattern = BlockPattern(len(model.vertices), model.tets)
        self.solver = BlockLU(dtype, self.lanes, cuda)
        self.rounds = Rounds(dtype, self.lanes)
        tet, vertex = residual_laws(self)
        self._kernels = {
            name: Kernel(law, dtype, self.lanes, cuda)
            for name, law in implicit_kernels(
                tet,
                vertex,
                self.tet_parameters,
                [*(["obstacles"] if model.obstacles else []), *self.contact_parameters],
            ).items()
        }
        edge = np.linalg.norm(model.edges(), axis=2).mean()
        count, eps = len(model.vertices), float(np.finfo(dtype).eps)
        move, rounding = TOLERANCE[dtype] * edge / self.dt, ROUNDING * eps / self.dt
        return {
            **self.pattern.program(),
            "slot_count": np.array([self.pattern.slot_count]),
            "blocks": self.pattern.blocks,
            "diagonal": self.pattern.diagonal,
            "tolerance": np.array([count * move**2, rounding**2, count * (edge / self.dt) ** 2]),
            "adjoint_tolerance": np.array([ADJOINT_TOLERANCE[dtype]]),
        }

    def operations(self) -> None:
        """Nobody knows beforehand how many iterations a step will take."""
        return None

    def workspace(self, packs: int, scratch: Workspace | None, *, transient: bool) -> Workspace:
        """Allocates a workspace."""
        assert scratch is None or isinstance(scratch, _ImplicitWorkspace)
        return _ImplicitWorkspace(self, packs, scratch, transient)


def residual_laws(engine: FemPhysics) -> tuple[Law, Law]:
    """What a tetrahedron and a vertex add to the residual of an engine's body."""
    model = engine.model
    force = tetrahedron_law(model.energy, model.activation, model.damping, engine.tet_parameters)
    surfaces = (model.ground, model.obstacles, model.contact.ramp)
    return laws.body_residual(force), laws.vertex_residual(*surfaces, engine.contact_parameters)


def implicit_kernels(tet: Law, vertex: Law, of_tets: Sequence[str], of_vertices: Sequence[str]) -> dict[str, Law]:
    """Every law of the integrator, by what it does.

    Args:
        tet: Residual of a tetrahedron.
        vertex: Residual of a vertex.
        of_tets: Inputs of `tet`, beside state and muscle, that have adjoints.
        of_vertices: Inputs of `vertex`, beside the state, that have adjoints.
    """
    return {
        "start": laws.start_law(),
        "begin": laws.begin_law(due=False),
        "begin_due": laws.begin_law(due=True),
        "move": replace(laws.move_law(), gate="active"),
        "tet": replace(tet, gate="active"),
        "vertex": replace(vertex, gate="active"),
        "size": replace(laws.size_law(), gate="active"),
        "size_renewed": replace(laws.size_law(), gate="renew"),
        "judge": replace(laws.judge_law(renewal=False), gate="active"),
        "judge_renewal": replace(laws.judge_law(renewal=True), gate="active"),
        "clear": laws.clear_law("renew"),
        "tet_assembly": laws.assembly(tet, "renew"),
        "vertex_assembly": laws.assembly(vertex, "renew"),
        "shift": laws.shift_law(),
        "guard": replace(laws.guard_law(), gate="active"),
        "step": replace(laws.step_law(), gate="active"),
        "settle": replace(laws.settle_law(), gate="active"),
        "note": laws.note_law(),
        "mark": laws.mark_law("value"),
        "open": laws.open_law(),
        "place": laws.move_law(),
        "seed": replace(laws.seed_law(), gate="active"),
        "refine": replace(laws.refine_law(), gate="active"),
        "check": replace(laws.check_law(), gate="active"),
        "tet_transposed": replace(laws.product(tet).adjoint(["p"]), gate="active"),
        "vertex_transposed": replace(laws.product(vertex).adjoint(["p"], accumulate=["p"]), gate="active"),
        "tet_adjoint": tet.adjoint(["x", "muscle", *of_tets], accumulate=of_tets),
        "vertex_adjoint": vertex.adjoint([*of_vertices, "x", "v_start"], accumulate=["x"]),
    }


class Rounds:
    """Kernels that decide on the device whether Newton goes on: `open` holds the answer and the rounds left."""

    def __init__(self, dtype: str, lanes: int) -> None:
        limit = ITERATIONS[dtype] // RENEWAL
        active, answer = ("active", f"wp.array2d(dtype=wp.{dtype})"), ("open", "wp.array(dtype=wp.int32)")
        ask = (
            f"const wp::{dtype}* at = (wp::{dtype}*)((char*)active.data + thread * (size_t)active.strides[0]);\n"
            f"for (int k = 0; k < {lanes}; ++k) if (at[k] > 0 && open.data[1] > 0) open.data[0] = 1;"
        )
        self._kernels = {
            "start": (native_kernel("rounds_start", (answer,), f"open.data[0] = 1; open.data[1] = {limit};"), False),
            "count": (native_kernel("rounds_count", (answer,), "open.data[0] = 0; open.data[1] -= 1;"), False),
            "ask": (native_kernel("rounds_ask", (active, answer), ask), True),
        }

    def warp_modules(self) -> list[Any]:
        """The Warp modules that hold the kernels, for ahead-of-time compilation."""
        return [kernel.module for kernel, _ in self._kernels.values()]

    def launch(self, name: str, arrays: Mapping[str, Any], packs: int, device: Any) -> None:
        """Launches "start", "count" or "ask", the last with one thread for each pack."""
        kernel, per_pack = self._kernels[name]
        inputs = [packs, *([arrays["active"]] if per_pack else []), arrays["open"]]
        wp.launch(kernel, dim=packs if per_pack else 1, inputs=inputs, device=device, record_tape=False)


class _Solver:
    """What Newton and the adjoint system work in, shared by the workspaces of a core."""

    def __init__(self, engine: ImplicitFemEngine, packs: int) -> None:
        def buffer(components: int) -> Buffer:
            return Buffer(packs, components, engine.lanes, engine.dtype, engine.device)

        vertex, slots = 3 * len(engine.model.vertices), 9 * engine.pattern.slot_count
        sizes = {**dict.fromkeys(STATE, 1), "size": 2, "matrix": slots, "factor": slots}
        sizes |= dict.fromkeys(("r", "correction", "step", "p", "bar_r"), vertex)
        self.arrays = {name: buffer(size).array for name, size in sizes.items()}
        self.arrays["open"] = wp.zeros(2, dtype=wp.int32, device=warp_device(engine.device))


class _ImplicitWorkspace(Workspace):
    """Positions and velocities before every substep and after the last, one set of adjoints, and a solver."""

    def __init__(
        self, engine: ImplicitFemEngine, packs: int, scratch: _ImplicitWorkspace | None, transient: bool
    ) -> None:
        self._engine, self._packs = engine, packs
        vertex_count, muscle_count = len(engine.model.vertices), engine.model.muscle_count
        kept = 2 if transient else engine.substeps + 1

        def buffers(count: int, components: int) -> list[Buffer]:
            return [Buffer(packs, components, engine.lanes, engine.dtype, engine.device) for _ in range(count)]

        self._x, self._v = (buffers(kept, 3 * vertex_count) for _ in range(2))
        # What stays constant over a step. One muscle more than there are: it drives the passive tetrahedra.
        sizes = {name: math.prod(shape) for name, shape in engine.inputs.items() if name not in engine.outputs}
        sizes["muscle"] += 1
        held = {name: buffers(1, size)[0] for name, size in sizes.items()}
        self._held = {name: buffer.array for name, buffer in held.items()}
        held["muscle"] = held["muscle"].head(muscle_count)
        self.inputs = {"x": self._x[0], "v": self._v[0], **held}
        last = engine.substeps % kept
        self.outputs = {"x": self._x[last], "v": self._v[last]}
        self._solver: _Solver = scratch._solver if scratch else _Solver(engine, packs)
        if not transient:
            sizes |= dict.fromkeys(("x", "v"), 3 * vertex_count)
            self._bars: dict[str, Buffer] = (
                scratch._bars if scratch else {name: buffers(1, size)[0] for name, size in sizes.items()}
            )
            self.bars = {**self._bars, "muscle": self._bars["muscle"].head(muscle_count)}
        self._device = warp_device(engine.device)
        self._counts = {"vertex": vertex_count, "tet": len(engine.model.tets), "slot": engine.pattern.slot_count}

    @property
    def nbytes(self) -> int:
        """Memory of the stored substeps [B]."""
        return sum(buffer.nbytes for buffer in (*self._x, *self._v))

    def _arrays(self, substep: int) -> dict[str, Any]:
        """Arrays by the laws' names: `x` and `v` are those at the substep's end."""
        before, after = substep % len(self._x), (substep + 1) % len(self._x)
        return {
            **self._engine.constants,
            **self._held,
            **self._solver.arrays,
            "time": self._engine.constants["times"][substep + 1 : substep + 2],
            "x_start": self._x[before].array,
            "v_start": self._v[before].array,
            "x": self._x[after].array,
            "v": self._v[after].array,
        }

    def _launch(self, arrays: Mapping[str, Any], elements: int, *names: str) -> None:
        for name in names:
            self._engine._kernels[name].launch(arrays, elements=elements, packs=self._packs, device=self._device)

    def _solve(
        self, name: str, arrays: Mapping[str, Any], gate: str, right: str = "r", solution: str = "correction"
    ) -> None:
        named = {**arrays, "right": arrays[right], "solution": arrays[solution]}
        rows = self._counts["vertex"]
        self._engine.solver.launch(name, named, arrays[gate], rows=rows, packs=self._packs, device=self._device)

    def forward(self) -> None:
        """Launches the substeps."""
        vertices = self._counts["vertex"]
        self._solver.arrays["failed"].zero_()
        for substep in range(self._engine.substeps):
            arrays = self._arrays(substep)
            self._launch(arrays, vertices, "start")
            self._launch(arrays, 1, "begin_due" if substep == 0 else "begin")
            self._engine.rounds.launch("start", arrays, self._packs, self._device)
            wp.capture_while(arrays["open"], self._round, arrays=arrays)
            self._launch(arrays, vertices, "place")
            self._launch(arrays, 1, "note")
        for buffer in self.outputs.values():
            self._mark(buffer)

    def adjoint(self) -> None:
        """Launches the adjoint substeps, last first: one transposed system each, at the end that was found."""
        bars = {f"bar_{name}": buffer.array for name, buffer in self._bars.items()}
        bars["bar_v_start"] = bars["bar_v"]  # replaced in place, once it has been used
        self._solver.arrays["failed"].zero_()
        for name in self._held:
            bars[f"bar_{name}"].zero_()
        for substep in reversed(range(self._engine.substeps)):
            arrays = {**self._arrays(substep), **bars}
            self._solve_adjoint(arrays)
            self._launch(arrays, self._counts["vertex"], "vertex_adjoint")
            self._launch(arrays, self._counts["tet"], "tet_adjoint")
        for buffer in self._bars.values():
            self._mark(buffer)

    def _round(self, arrays: Mapping[str, Any]) -> None:
        """Iterations of Newton's method, of which the first can renew the matrix."""
        vertices, tets = self._counts["vertex"], self._counts["tet"]
        for iteration in range(RENEWAL):
            self._launch(arrays, vertices, "move")
            self._launch(arrays, tets, "tet")
            self._launch(arrays, vertices, "vertex")
            self._solve("solve", arrays, "active")
            self._launch({**arrays, "y": arrays["x"]}, vertices, "size")
            if iteration == 0:
                self._launch(arrays, 1, "judge_renewal")
                self._assemble(arrays)
                self._solve("solve", arrays, "renew")
                self._launch({**arrays, "y": arrays["x"]}, vertices, "size_renewed")
                self._launch(arrays, 1, "guard")
            else:
                self._launch(arrays, 1, "judge")
            self._launch(arrays, vertices, "step")
            self._launch(arrays, 1, "settle")
        for name in ("count", "ask"):
            self._engine.rounds.launch(name, arrays, self._packs, self._device)

    def _assemble(self, arrays: Mapping[str, Any]) -> None:
        self._launch(arrays, self._counts["slot"], "clear")
        self._launch(arrays, self._counts["tet"], "tet_assembly")
        self._launch(arrays, self._counts["vertex"], "vertex_assembly", "shift")
        self._solve("factor", arrays, "renew")

    def _solve_adjoint(self, arrays: Mapping[str, Any]) -> None:
        """Aᵀ λ = v̄' + h x̄', refined by its residual; leaves -λ, the residual's adjoint, in `bar_r`."""
        vertices, tets = self._counts["vertex"], self._counts["tet"]
        self._launch(arrays, 1, "open")
        arrays["bar_r"].zero_()
        self._assemble(arrays)
        named = {**arrays, "bar_p": arrays["p"], "y": arrays["bar_r"], "share": arrays["adjoint_tolerance"]}
        for correction in range(REFINEMENTS):
            self._launch(named, vertices, "seed")
            if correction > 0:
                self._launch(named, tets, "tet_transposed")
                self._launch(named, vertices, "vertex_transposed")
            self._solve("solve_transposed", arrays, "active", right="p")
            self._launch(named, vertices, "refine", "size")
            self._launch(named, 1, "check")
        self._launch(arrays, 1, "note")

    def _mark(self, buffer: Buffer) -> None:
        """NaN for environments that failed."""
        self._launch({**self._solver.arrays, "value": buffer.array}, buffer.tensor.shape[1], "mark")
