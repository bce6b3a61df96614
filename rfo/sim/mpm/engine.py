"""The MPM engine: per substep three launches over particles and one over the nodes they touch.

One environment is one pack: lanes run over particles and nodes. Stored is the state of the particles before each
substep; the grid is built again in the adjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.bridge import scalar_name, warp_device
from rfo.sim.kernel import Kernel, lanes_for
from rfo.sim.mpm.launches import Launches, ThreadLaunches, VectorLaunches
from rfo.sim.mpm.laws import FRAME, particle_law
from rfo.sim.mpm.limits import require_limits
from rfo.sim.mpm.model import MpmModel
from rfo.sim.mpm.transfer import FLAGS
from rfo.sim.mpm.workspace import MpmWorkspace
from rfo.sim.simulation import Physics, Simulation, Store, Workspace

__all__ = ["MpmEngine", "MpmState"]

WIDTH = 16  # particles per vector; float64 takes two of eight


class MpmState(NamedTuple):
    """The state of all particles.

    Attributes:
        x: Positions [m], shape [N, particle_count, 3].
        v: Velocities [m/s], shape [N, particle_count, 3].
        c: Velocity gradients [1/s], shape [N, particle_count, 3, 3]; row: component of velocity.
        s: Internal state of the material, shape [N, particle_count, state_size].
    """

    x: Tensor
    v: Tensor
    c: Tensor
    s: Tensor


class MpmEngine(Physics):
    """Moving least squares MPM (Hu et al. 2018) with quadratic B-splines and affine transfers.

    Args:
        model: Matter, tools and domain.
        dt: Substep [s].
        substeps: Substeps per control step.
        device: Torch device.
        dtype: float32 or float64.
        threads: Cores to use; None for all.
        store: What a step keeps for its adjoint (`rfo.sim.simulation.Simulation`).
        capture: Record schedules as graphs.
        parameter_gradients: Carry gradients to the particles' masses, volumes and material parameters too.
        transfers: How particles and grid exchange momentum: by "vectors", which only CPUs have, or by "threads", which
            CPUs run slowly; None for what suits the device.
    """

    lanes = 1

    def __init__(
        self,
        model: MpmModel,
        *,
        dt: float,
        substeps: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        store: Store = "auto",
        capture: bool = True,
        parameter_gradients: bool = False,
        transfers: Literal["vectors", "threads"] | None = None,
    ) -> None:
        self.model, self.dt, self.substeps = model, dt, substeps
        self.device, self.dtype = torch.device(device), dtype
        cuda = self.device.type == "cuda"
        if cuda and transfers == "vectors":
            raise UsageError(f"transfers by vectors run on CPUs only, not on {self.device}; leave transfers out")
        count, law = model.particle_count, particle_law(model.material, dt, model.spacing)
        self.inputs = {
            "x": (count, 3),
            "v": (count, 3),
            "c": (count, 3, 3),
            "s": (count, *law.outputs["s_next"].shape),
            "flags": (FLAGS,),
            "tools": (substeps, len(model.tools), FRAME),
            "figures": (count, *law.inputs["figures"].shape),
        }
        self.outputs = {name: self.inputs[name] for name in ("x", "v", "c", "s", "flags")}
        threads_each = cuda or transfers == "threads"
        width = lanes_for("", cuda=True) if threads_each else WIDTH
        self.stride = -(-count // width) * width
        name = scalar_name(dtype)
        self.vector = lanes_for(name, cuda=cuda)
        self.particle = Kernel(law, name, self.vector, cuda)
        carried = {key: access for key, access in law.outputs.items() if key != "reach"}
        wrt = ["c", "s", *(["figures"] if parameter_gradients else [])]
        self.particle_adjoint = Kernel(
            replace(law, outputs=carried).adjoint(wrt, accumulate=["figures"]), name, self.vector, cuda
        )
        self.parameter_gradients = parameter_gradients
        kind = ThreadLaunches if threads_each else VectorLaunches
        self.launches: Launches = kind(model, name, dt, self.stride, warp_device(self.device))
        self._simulation = Simulation(self, threads=threads, store=store, capture=capture)

    def step(self, state: MpmState, tools: Tensor | None = None, figures: Tensor | None = None) -> MpmState:
        """Advances by one control step of `substeps` substeps.

        Args:
            state: State before the step.
            tools: Position, unit quaternion (w, x, y, z), velocity and angular velocity of each tool in each substep,
                shape [N, substeps, tool_count, 13].
            figures: Mass [kg], volume [m³] and material parameters of each particle, in the order of
                `Material.parameters`, shape [N, particle_count, 2 + parameter_count]; those of the model unless given.

        Raises:
            MpmLimitError: Matter left the domain, or was strained further in a substep than its law allows.
        """
        result = self._simulation.step(self._inputs(state, tools, figures))
        require_limits(result["flags"], self.model)
        return MpmState(result["x"], result["v"], result["c"], result["s"])

    def replays(self, state: MpmState, tools: Tensor, steps: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """The kernels of `steps` control steps alone, forward, and forward and backward (`Simulation.replays`)."""
        return self._simulation.replays(tuple(self._inputs(state, tools, None).values()), steps)

    def at_rest(self, x: Tensor) -> MpmState:
        """Undeformed matter at rest at positions [N, particle_count, 3]."""
        shape = {name: self.empty(len(x), name) for name in ("x", "v", "c", "s")}
        shape["x"].copy_(x)
        shape["v"].zero_()
        shape["c"].zero_()
        shape["s"].copy_(x.new_tensor(self.model.material.rest).expand_as(shape["s"]))
        return MpmState(**shape)

    def empty(self, n: int, name: str) -> Tensor:
        """Allocates a tensor; those of particles hold each component of all particles together."""
        shape = self.inputs[name]
        if name in ("flags", "tools"):
            return torch.empty(n, *shape, dtype=self.dtype, device=self.device)
        components = torch.Size(shape[1:]).numel()
        planes = torch.empty(n, components, shape[0], dtype=self.dtype, device=self.device)
        return planes.transpose(1, 2).view(n, *shape)

    def workspace(self, packs: int, scratch: Workspace | None, *, transient: bool) -> Workspace:
        """Allocates the buffers of one control step."""
        assert scratch is None or isinstance(scratch, MpmWorkspace)
        return MpmWorkspace(self, packs, scratch, transient)

    def _inputs(self, state: MpmState, tools: Tensor | None, figures: Tensor | None) -> dict[str, Tensor]:
        """Everything that a control step reads, in the order of `inputs`."""
        n = len(state.x)
        if tools is None:
            tools = state.x.new_zeros(n, *self.inputs["tools"])
        if tools.shape[1:] != self.inputs["tools"]:
            raise UsageError(f"tools have shape {tuple(tools.shape)}, expected [N, *{self.inputs['tools']}]")
        if figures is None:
            figures = self.figures.expand(n, self.model.particle_count, -1)
        elif figures.requires_grad and not self.parameter_gradients:
            raise UsageError("figures require a gradient; build the engine with parameter_gradients=True")
        return {**state._asdict(), "flags": state.x.new_zeros(n, FLAGS), "tools": tools, "figures": figures}

    @cached_property
    def figures(self) -> Tensor:
        """Mass, volume and material parameters of every particle, as the model gives them."""
        model = self.model
        row = [model.mass, model.volume, *model.material.parameters.values()]
        return torch.tensor(row, dtype=self.dtype, device=self.device)
