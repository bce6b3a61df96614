"""The one file where Warp meets torch: buffers both can see, and the autograd node of a control step."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import warp as wp
from torch import Tensor

if TYPE_CHECKING:
    from rfo.sim.simulation import Simulation

__all__ = ["PLACE", "Buffer", "constants", "scalar_name", "step", "warp_cpu", "warp_device"]

wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
wp.init()

PLACE = 6
"""Numbers that say where a tensor lies (`Buffer.place`)."""


def scalar_name(dtype: torch.dtype) -> str:
    """Name of a simulation's scalar type, "float32" or "float64"."""
    return {torch.float32: "float32", torch.float64: "float64"}[dtype]


def warp_device(device: torch.device) -> Any:
    """The Warp device that shares memory with a torch device."""
    if device.type == "cuda" and device.index is None:  # "cuda" means the current one
        device = torch.device("cuda", torch.cuda.current_device())
    return wp.device_from_torch(device)


def warp_cpu() -> Any:
    """The Warp device of the host's memory."""
    return wp.get_device("cpu")


class Buffer:
    """Memory that torch and Warp both see, allocated once and never moved: captured graphs hold its address.

    Attributes:
        tensor: Shape [packs, components, lanes].
        array: The same memory for kernels, shape [packs, components * lanes].
        components: Components of an item.
        width: Items that lie side by side: lanes.
    """

    def __init__(self, packs: int, components: int, lanes: int, dtype: torch.dtype, device: torch.device) -> None:
        self.tensor = torch.zeros(packs, components, lanes, dtype=dtype, device=device)
        self.array: Any = wp.from_torch(self.tensor.view(packs, components * lanes), requires_grad=False)
        self.components, self.width = components, lanes

    def head(self, components: int) -> Buffer:
        """The first components, in the same memory; kernels go on seeing all."""
        part = copy(self)
        part.tensor, part.components = self.tensor[:, :components], components
        return part

    def entries(self, components: int, first: int, count: int) -> Buffer:
        """Some of the entries of `components` each, in the same memory; kernels see those after `first` too."""
        part = copy(self)
        packs, _, lanes = self.tensor.shape
        part.tensor = self.tensor[:, first * components : (first + count) * components]
        part.components = count * components
        part.array = wp.from_torch(self.tensor.view(packs, -1)[:, first * components * lanes :], requires_grad=False)
        return part

    @property
    def nbytes(self) -> int:
        """Size in memory [B]."""
        return self.tensor.numel() * self.tensor.element_size()

    def rows(self, values: Tensor) -> Tensor:
        """Sees [n, ...] values as [n, components], copying them only where their strides leave no other way."""
        return values if values.dim() == 2 else values.reshape(values.shape[0], self.components)

    def place(self, rows: Tensor, first: int, count: int) -> tuple[int, ...]:
        """Where `count` of the `rows`, from `first` on, lie.

        Returns:
            Address, strides of a pack, an item and a component, items, and items passed by a pack.
        """
        (across, along), lanes = rows.stride(), self.width
        address = rows.data_ptr() + first * across * rows.element_size()
        return address, lanes * across, across, along, count, lanes

    def load(self, values: Tensor) -> None:
        """Fills the lanes from [n, ...] values; lanes past n repeat the last environment, which keeps them finite."""
        packs, components, lanes = self.tensor.shape
        rows = values.detach().reshape(len(values), components)
        missing = packs * lanes - len(rows)
        if missing:
            rows = torch.cat([rows, rows[-1:].expand(missing, -1)])
        self.tensor.copy_(rows.reshape(packs, lanes, components).transpose(1, 2))

    def store(self, target: Tensor) -> None:
        """Writes the lanes into a [n, ...] tensor, ignoring lanes past n."""
        packs, components, lanes = self.tensor.shape
        target = target.view(len(target), components)
        rows = self.tensor.transpose(1, 2)
        if packs == 1:
            target.copy_(rows[0, : len(target)])
        else:
            target.copy_(rows.reshape(packs * lanes, components)[: len(target)])


def constants(values: Mapping[str, npt.NDArray[Any]], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Warp arrays of a model's constants: int32 for integers, the simulation's scalar type for the rest."""
    arrays = {}
    for name, value in values.items():
        integral = np.issubdtype(value.dtype, np.integer)
        kind = wp.int32 if integral else getattr(wp, scalar_name(dtype))
        flat = np.ascontiguousarray(value).reshape(-1).astype(np.int32 if integral else scalar_name(dtype))
        arrays[name] = wp.array(flat, dtype=kind, device=warp_device(device))
    return arrays


class _Step(torch.autograd.Function):
    """One control step as an autograd node.

    The node keeps a tape (`Simulation.forward`); outputs and gradients are fresh tensors each time, so a second
    backward pass over a retained graph returns the same values.
    """

    @staticmethod
    def forward(ctx: Any, simulation: Simulation, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs, ctx.tape = simulation.forward(inputs, keep=any(ctx.needs_input_grad))
        ctx.simulation = simulation
        ctx.set_materialize_grads(False)  # an output that nothing depends on costs no tensor of zeros
        ctx.save_for_backward(*inputs)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        return (None, *ctx.simulation.adjoint(ctx.saved_tensors, bars, ctx.tape, wanted))


def step(simulation: Simulation, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Advances by one control step, recorded by autograd where an input requires a gradient."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Step.apply(simulation, *inputs)  # type: ignore[no-any-return,no-untyped-call]
    return simulation.forward(inputs, keep=False)[0]
