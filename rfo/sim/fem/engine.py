"""The finite-element engine: what its integrators share, and the explicit one.

An explicit substep is two launches forward and two backward. `rfo.sim.fem.implicit` has the other integrator.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.bridge import Buffer, constants, scalar_name, warp_device
from rfo.sim.fem.laws import CONTACT_PARAMETERS, POSE, TET_PARAMETERS, tetrahedron_law, vertex_law
from rfo.sim.fem.model import FemModel
from rfo.sim.fem.self_contact import Patches, SelfContactKernels
from rfo.sim.kernel import Kernel, lanes_for
from rfo.sim.simulation import Physics, Simulation, Store, Workspace

__all__ = ["FemEngine", "FemPhysics"]

SCATTER = 12
"""Additions with which a tetrahedron adds a vector to each of its four corners."""


class FemPhysics(Physics):
    """A soft body over the ground: its inputs and its control step, whatever integrates it.

    Args:
        model: The body.
        dt: Substep [s].
        substeps: Substeps per control step.
        device: Torch device.
        dtype: float32 or float64.
        threads: Cores to use; None for all.
        store: What a step keeps for its adjoint (`rfo.sim.simulation.Simulation`).
        capture: Record schedules as graphs.
        parameters: Figures of tetrahedra (`TET_PARAMETERS`) and of contact with ground and obstacles
            (`CONTACT_PARAMETERS`) that a step takes as inputs, to differentiate or to vary from environment to
            environment.
    """

    def __init__(
        self,
        model: FemModel,
        *,
        dt: float,
        substeps: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        store: Store = "auto",
        capture: bool = True,
        parameters: Sequence[str] = (),
    ) -> None:
        known = (*TET_PARAMETERS, *CONTACT_PARAMETERS)
        unknown = set(parameters) - set(known)
        if unknown:
            raise UsageError(f"a soft body has no parameter {unknown.pop()!r}; there are {', '.join(known)}")
        self.parameters = tuple(parameters)
        self.tet_parameters = [name for name in self.parameters if name in TET_PARAMETERS]
        self.contact_parameters = [name for name in self.parameters if name in CONTACT_PARAMETERS]
        self.model, self.dt, self.substeps = model, dt, substeps
        self.device, self.dtype = torch.device(device), dtype
        vertex_count = len(model.vertices)
        self.outputs = {"x": (vertex_count, 3), "v": (vertex_count, 3)}
        self.inputs = {**self.outputs, "muscle": (model.muscle_count,)}
        self.inputs |= {name: (len(model.tets),) for name in self.tet_parameters}
        self.inputs |= {name: () for name in self.contact_parameters}
        if model.obstacles:
            self.inputs["obstacles"] = (len(model.obstacles), POSE)
        name, cuda = scalar_name(dtype), self.device.type == "cuda"
        self.lanes = lanes_for(name, cuda=cuda)
        times = {"dt": np.array([dt]), "times": dt * np.arange(substeps + 1)}
        own = self.compile(name, cuda)
        self.constants = constants({**model.constants(), **times, **own}, dtype, self.device)
        self._simulation = Simulation(self, threads=threads, store=store, capture=capture)

    @abstractmethod
    def compile(self, dtype: str, cuda: bool) -> dict[str, npt.NDArray[Any]]:
        """Builds the integrator's kernels; returns further constants that they read."""

    @abstractmethod
    def operations(self) -> tuple[float, float] | None:
        """Arithmetic operations of a control step per environment, forward and adjoint; a fused one counts two.

        None where they depend on the state.
        """

    def step(
        self, x: Tensor, v: Tensor, muscle: Tensor, *, obstacles: Tensor | None = None, **parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advances by one control step of `substeps` substeps.

        Args:
            x: Vertex positions [m], shape [N, vertex_count, 3].
            v: Vertex velocities [m/s], shape [N, vertex_count, 3].
            muscle: Activations, shape [N, muscle_count]; positive ones contract fibres.
            obstacles: Poses at the start of the step, shape [N, obstacle_count, 13]: position [m], unit quaternion
                (w, x, y, z), velocity [m/s], angular velocity [rad/s]; [obstacle_count, 13] for all environments.
            parameters: The engine's `parameters` by name: of tetrahedra, shape [N, tet_count], or [tet_count] for all
                environments; of contact, shape [N], or [] for all.

        Returns:
            Positions and velocities after the step.
        """
        inputs = {"x": x, "v": v, "muscle": muscle, **parameters}
        if obstacles is not None:
            inputs["obstacles"] = obstacles
        if inputs.keys() != self.inputs.keys():
            raise UsageError(f"this body's step takes {', '.join(self.inputs)}; it was given {', '.join(inputs)}")
        shaped = {name: y.expand(len(x), *self.inputs[name]) for name, y in inputs.items()}
        result = self._simulation.step(shaped)
        return result["x"], result["v"]


class FemEngine(FemPhysics):
    """A soft body integrated by semi-implicit Euler; the substep must resolve its fastest wave."""

    def compile(self, dtype: str, cuda: bool) -> dict[str, npt.NDArray[Any]]:
        """Builds the two laws' kernels and their adjoints'."""
        model, of_tets, of_contact = self.model, self.tet_parameters, self.contact_parameters
        tet = tetrahedron_law(model.energy, model.activation, model.damping, of_tets)
        vertex = vertex_law(model.ground, model.obstacles, model.contact.ramp, of_contact)
        state = ["x", "v", "f", *(["obstacles"] if model.obstacles else [])]
        self.tet, self.tet_adjoint, self.vertex, self.vertex_adjoint = (
            Kernel(law, dtype, self.lanes, cuda)
            for law in (
                tet,
                tet.adjoint(["x", "v", "muscle", *of_tets], accumulate=of_tets),
                vertex,
                vertex.adjoint([*state, *of_contact]),
            )
        )
        self.self_contact: SelfContactKernels | None = None
        if model.self_contact is None:
            return {}
        patches = Patches.of(model.vertices, model.tets, model.surface(), model.self_contact)
        self.self_contact = SelfContactKernels(patches, dtype, self.lanes, cuda)
        return patches.constants(model.vertices, model.self_contact)

    def operations(self) -> tuple[float, float]:
        """Arithmetic operations of a control step per environment, forward and adjoint; a fused one counts two."""
        tets, vertices = len(self.model.tets), len(self.model.vertices)
        forward = tets * (self.tet.operation_count + SCATTER) + vertices * self.vertex.operation_count
        adjoint = (
            tets * (self.tet_adjoint.operation_count + 2 * SCATTER) + vertices * self.vertex_adjoint.operation_count
        )
        near = self.self_contact.operation_count if self.self_contact else 0  # pairs that touch are not counted
        return float(self.substeps * (forward + near)), float(self.substeps * (adjoint + near))

    def workspace(self, packs: int, scratch: Workspace | None, *, transient: bool) -> Workspace:
        """Allocates the buffers of one control step."""
        assert scratch is None or isinstance(scratch, _FemWorkspace)
        return _FemWorkspace(self, packs, scratch, transient)


class _FemWorkspace(Workspace):
    """Positions and velocities before every substep, forces during it, and one set of adjoints."""

    def __init__(self, engine: FemEngine, packs: int, scratch: _FemWorkspace | None, transient: bool) -> None:
        self._engine, self._packs = engine, packs
        vertex_count, muscle_count = len(engine.model.vertices), engine.model.muscle_count
        kept = 1 if transient else engine.substeps

        def buffers(count: int, components: int) -> list[Buffer]:
            return [Buffer(packs, components, engine.lanes, engine.dtype, engine.device) for _ in range(count)]

        # A transient workspace overwrites one state; a stored one keeps the state before each substep and the last.
        self._x, self._v = (buffers(kept + (not transient), 3 * vertex_count) for _ in range(2))
        self._f = buffers(kept, 3 * vertex_count)
        # What stays constant over a step. One muscle more than there are: it drives the passive tetrahedra.
        sizes = {name: math.prod(shape) for name, shape in engine.inputs.items() if name not in engine.outputs}
        sizes["muscle"] += 1
        held = {name: buffers(1, size)[0] for name, size in sizes.items()}
        self._held = {name: buffer.array for name, buffer in held.items()}
        held["muscle"] = held["muscle"].head(muscle_count)
        self.inputs = {"x": self._x[0], "v": self._v[0], **held}
        self.outputs = {"x": self._x[-1], "v": self._v[-1]}
        if not transient:
            sizes |= dict.fromkeys(("x", "v", "f"), 3 * vertex_count)
            self._bars: dict[str, Buffer] = (
                scratch._bars if scratch else {name: buffers(1, size)[0] for name, size in sizes.items()}
            )
            self.bars = self.seeds = {**self._bars, "muscle": self._bars["muscle"].head(muscle_count)}
        self._shared: dict[str, Any] = {}
        if engine.self_contact is not None:
            sizes_shared = engine.self_contact.scratch
            self._shared = (
                scratch._shared if scratch else {name: buffers(1, n)[0].array for name, n in sizes_shared.items()}
            )
        self._device = warp_device(engine.device)
        self._vertices = {"elements": vertex_count, "packs": packs, "device": self._device}
        self._tets = {"elements": len(engine.model.tets), "packs": packs, "device": self._device}

    @property
    def nbytes(self) -> int:
        """Memory of the stored substeps [B]."""
        return sum(buffer.nbytes for buffer in (*self._x, *self._v, *self._f))

    def _arrays(self, substep: int) -> dict[str, Any]:
        """Arrays by the laws' names; in a transient workspace every substep finds the same ones."""
        before, after = substep % len(self._f), (substep + 1) % len(self._x)
        return {
            **self._engine.constants,
            **self._held,
            **self._shared,
            "time": self._engine.constants["times"][substep : substep + 1],
            "x": self._x[before].array,
            "v": self._v[before].array,
            "f": self._f[before].array,
            "x_next": self._x[after].array,
            "v_next": self._v[after].array,
        }

    def forward(self) -> None:
        """Launches the substeps."""
        for substep in range(self._engine.substeps):
            arrays = self._arrays(substep)
            arrays["f"].zero_()
            self._engine.tet.launch(arrays, **self._tets)
            if self._engine.self_contact is not None:
                self._engine.self_contact.forces(arrays, packs=self._packs, device=self._device)
            self._engine.vertex.launch(arrays, **self._vertices)

    def adjoint(self) -> None:
        """Launches the adjoint substeps, last first.

        The vertex adjoint replaces the adjoints of x and v in place (each vertex reads its own before it writes), and
        the tetrahedron adjoint adds to them.
        """
        bars = {f"bar_{name}": buffer.array for name, buffer in self._bars.items()}
        bars |= {"bar_x_next": bars["bar_x"], "bar_v_next": bars["bar_v"]}
        for name in self._held:
            bars[f"bar_{name}"].zero_()
        for substep in reversed(range(self._engine.substeps)):
            arrays = {**self._arrays(substep), **bars}
            self._engine.vertex_adjoint.launch(arrays, **self._vertices)
            self._engine.tet_adjoint.launch(arrays, **self._tets)
            if self._engine.self_contact is not None:
                self._engine.self_contact.adjoint(arrays, packs=self._packs, device=self._device)
