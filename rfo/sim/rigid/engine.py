"""The rigid-body engine: one launch per control step and direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rfo.sim.bridge import Buffer, scalar_name, warp_device
from rfo.sim.kernel import Kernel, Law, lanes_for
from rfo.sim.rigid.laws import adjoint_law, substep_law
from rfo.sim.rigid.model import Parameter, RigidModel
from rfo.sim.simulation import Physics, Simulation, Store, Workspace

__all__ = ["RigidEngine"]


class RigidEngine(Physics):
    """Articulated bodies, integrated by semi-implicit Euler in generalized coordinates.

    Quaternions may come in at any length; they leave with unit length.

    Args:
        model: The bodies.
        dt: Substep [s].
        substeps: Substeps per control step.
        device: Torch device.
        dtype: float32 or float64.
        threads: Cores to use; None for all.
        store: What a step keeps for its adjoint (`rfo.sim.simulation.Simulation`).
        capture: Record schedules as graphs.
        parameters: Groups of figures that `step` takes as factors, with gradients.
    """

    outputs = ("q", "v")
    packs_per_run = 64

    def __init__(
        self,
        model: RigidModel,
        *,
        dt: float,
        substeps: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        store: Store = "auto",
        capture: bool = True,
        parameters: Sequence[Parameter] = (),
    ) -> None:
        self.model, self.dt, self.substeps = model, dt, substeps
        self.device, self.dtype = torch.device(device), dtype
        self.inputs = {"q": (model.q_count,), "v": (model.v_count,), "control": (len(model.actuators),)}
        self.inputs |= {name: (model.parameter_count(name),) for name in parameters}
        cuda = self.device.type == "cuda"
        self.lanes = lanes_for(scalar_name(dtype), cuda=cuda)
        laws = (substep_law, adjoint_law)
        self.substep, self.substep_adjoint = (self._kernel(law(model, dt, parameters)) for law in laws)
        self._simulation = Simulation(self, threads=threads, store=store, capture=capture)

    def step(self, q: Tensor, v: Tensor, control: Tensor, **parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Advances by one control step of `substeps` substeps.

        Args:
            q: Positions [m, rad, quaternions], shape [N, q_count].
            v: Velocities [m/s, rad/s], shape [N, v_count].
            control: Controls of the actuators, shape [N, actuator_count].
            parameters: Factors of the engine's `parameters`, by name (`RigidModel.scaled`), shape [N, count].

        Returns:
            Positions and velocities after the step.
        """
        result = self._simulation.step({"q": q, "v": v, "control": control, **parameters})
        return result["q"], result["v"]

    def workspace(self, packs: int, scratch: Workspace | None, *, transient: bool) -> Workspace:
        """Allocates the buffers of one control step."""
        assert scratch is None or isinstance(scratch, _RigidWorkspace)
        return _RigidWorkspace(self, packs, scratch, transient)

    def _kernel(self, law: Law) -> Kernel:
        title = f"{self.model.name}: {law.name}"
        return Kernel(law, scalar_name(self.dtype), self.lanes, self.device.type == "cuda", title)


class _RigidWorkspace(Workspace):
    """The state before every substep and after the last, the control, and one set of adjoints."""

    def __init__(self, engine: RigidEngine, packs: int, scratch: _RigidWorkspace | None, transient: bool) -> None:
        self._engine = engine
        sizes = {name: shape[0] for name, shape in engine.inputs.items()}
        steps = engine.substeps

        def buffer(components: int) -> Buffer:
            return Buffer(packs, components, engine.lanes, engine.dtype, engine.device)

        # Forward alone could do with one state, but a small body's trajectory stays in the cache as well.
        path = {name: buffer((steps + 1) * sizes[name]) for name in ("q", "v")}
        ends = {name: path[name].entries(sizes[name], steps, 1) for name in path}
        after = {name: path[name].entries(sizes[name], 1, steps) for name in path}
        shared = {name: buffer(size) for name, size in sizes.items() if name not in path}
        self.inputs = {**{name: path[name].head(sizes[name]) for name in path}, **shared}
        self.outputs = ends
        self._path = path
        self._shared = tuple(shared)
        self._arrays = {name: part.array for name, part in {**path, **shared}.items()}
        self._arrays |= {f"{name}_next": part.array for name, part in after.items()}
        if not transient:
            self.bars = scratch.bars if scratch else {name: buffer(size) for name, size in sizes.items()}
            self._arrays |= {f"bar_{name}": part.array for name, part in self.bars.items()}
        self._launch = {"elements": steps, "packs": packs, "device": warp_device(engine.device)}

    @property
    def nbytes(self) -> int:
        """Memory of the stored substeps [B]."""
        return sum(buffer.nbytes for buffer in self._path.values())

    def forward(self) -> None:
        """Launches the substeps."""
        self._engine.substep.launch(self._arrays, **self._launch)

    def adjoint(self) -> None:
        """Launches their adjoints, last first."""
        for name in self._shared:
            self._arrays[f"bar_{name}"].zero_()
        self._engine.substep_adjoint.launch(self._arrays, **self._launch)
