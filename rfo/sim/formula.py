"""A formula over environments: a function of scalar expressions as a differentiable function of batched tensors.

Observations and rewards are many small operations on few numbers, and dispatching each of them costs more than what it
computes. Written as scalar expressions (`rfo.sim.trace`), all of them are one launch forward and one backward, on
whichever device and as many cores as the physics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rfo.sim.bridge import Buffer, scalar_name, warp_device
from rfo.sim.kernel import Item, Kernel, Law, lanes_for
from rfo.sim.simulation import Physics, Simulation, Workspace

__all__ = ["Formula"]


class Formula(Physics):
    """A traced function, to be called with tensors.

    Args:
        function: Takes the inputs of one environment by name, as arrays of `Expr` of their shapes (or float64 arrays,
            to which it can be compared), and returns the outputs by name.
        inputs: Name and shape, without the environment, of each input.
        outputs: Name and shape of each output.
        device: Torch device.
        dtype: float32 or float64.
        threads: Cores to use; None for all.
    """

    packs_per_run = 64

    def __init__(
        self,
        function: Callable[..., Mapping[str, Any]],
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> None:
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self.device, self.dtype = torch.device(device), dtype
        self.lanes = lanes_for(scalar_name(dtype), cuda=self.device.type == "cuda")
        items, results = ({name: Item(shape) for name, shape in given.items()} for given in (inputs, outputs))
        self.law = Law(getattr(function, "__name__", "formula").strip("_"), function, items, results)
        self._simulation = Simulation(self, threads=threads, store="control")

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Evaluates the formula: a tensor [N, *shape] for every input gives one for every output."""
        return self._simulation.step(inputs)

    @cached_property
    def kernel(self) -> Kernel:
        """Outputs from inputs."""
        return self._kernel(self.law)

    @cached_property
    def adjoint_kernel(self) -> Kernel:
        """Adjoints of the inputs from the inputs and the adjoints of the outputs."""
        return self._kernel(self.law.adjoint(list(self.inputs)))

    def workspace(self, packs: int, scratch: Workspace | None, *, transient: bool) -> Workspace:
        """Allocates the lanes of inputs and outputs, and of their adjoints."""
        return _FormulaWorkspace(self, packs, transient)

    def _kernel(self, law: Law) -> Kernel:
        return Kernel(law, scalar_name(self.dtype), self.lanes, self.device.type == "cuda")


class _FormulaWorkspace(Workspace):
    """Lanes of everything that goes in and out."""

    nbytes = 0  # nothing is kept: the inputs are all that the adjoint needs

    def __init__(self, formula: Formula, packs: int, transient: bool) -> None:
        def buffers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Buffer]:
            sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
            return {name: Buffer(packs, n, formula.lanes, formula.dtype, formula.device) for name, n in sizes.items()}

        self._formula = formula
        self._launch = {"elements": 1, "packs": packs, "device": warp_device(formula.device)}
        self.inputs, self.outputs = buffers(formula.inputs), buffers(formula.outputs)
        self._arrays = {name: buffer.array for name, buffer in {**self.inputs, **self.outputs}.items()}
        if not transient:
            self.seeds, self.bars = buffers(formula.outputs), buffers(formula.inputs)
            self._arrays |= {f"bar_{name}": buffer.array for name, buffer in {**self.seeds, **self.bars}.items()}

    def forward(self) -> None:
        """Launches the formula."""
        self._formula.kernel.launch(self._arrays, **self._launch)

    def recompute(self) -> None:
        """Nothing: the adjoint reads the inputs."""

    def adjoint(self) -> None:
        """Launches the formula's adjoint."""
        self._formula.adjoint_kernel.launch(self._arrays, **self._launch)
