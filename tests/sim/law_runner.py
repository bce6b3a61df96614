"""What the engine tests share: running a law's kernel on plain arrays, and directional derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from rfo.sim.bridge import Buffer, constants, warp_device
from rfo.sim.kernel import Corners, Fixed, Kernel, Law, Uniform, lanes_for

Arrays = Mapping[str, np.ndarray]
CPU = torch.device("cpu")


def run_law(
    law: Law, values: Arrays, out_shapes: Mapping[str, tuple[int, ...]], dtype: str = "float64"
) -> dict[str, np.ndarray]:
    """Runs a compiled law on the CPU.

    Args:
        law: What to run.
        values: [N, items, *entry] for items and corners, the plain array for constants and indices; an output named
            here starts from these values instead of zeros.
        out_shapes: (items, *entry) of every output.
        dtype: Scalar type.
    """
    kernel = Kernel(law, dtype, lanes_for(dtype, cuda=False))
    torch_type = getattr(torch, dtype)
    accesses = {**law.inputs, **law.outputs}
    n = next(len(values[name]) for name, a in law.inputs.items() if not isinstance(a, (Fixed, Uniform)))
    packs = -(-n // kernel.lanes)
    buffers: dict[str, Buffer] = {}
    shared = {a.index: values[a.index].astype(np.int64) for a in accesses.values() if isinstance(a, Corners)}
    for name, access in accesses.items():
        if isinstance(access, (Fixed, Uniform)):
            shared[name] = np.asarray(values[name], dtype=np.float64)
            continue
        shape = values[name].shape[1:] if name in values else out_shapes[name]
        buffers[name] = Buffer(packs, int(np.prod(shape)), kernel.lanes, torch_type, CPU)
        if name in values:
            buffers[name].load(torch.as_tensor(values[name]).to(torch_type))
    if law.gate:
        buffers[law.gate] = Buffer(packs, 1, kernel.lanes, torch_type, CPU)
        buffers[law.gate].load(torch.as_tensor(values[law.gate]).to(torch_type))
    arrays = {**constants(shared, torch_type, CPU), **{name: buffer.array for name, buffer in buffers.items()}}
    kernel.launch(arrays, elements=_elements(law, values), packs=packs, device=warp_device(CPU))
    results = {}
    for name in law.outputs:
        shape = values[name].shape[1:] if name in values else out_shapes[name]
        target = torch.empty(n, int(np.prod(shape)), dtype=torch_type)
        buffers[name].store(target)
        results[name] = target.reshape(n, *shape).double().numpy()
    return results


def _elements(law: Law, values: Arrays) -> int:
    for name, access in law.inputs.items():
        if isinstance(access, Corners):
            return len(values[access.index])
        if isinstance(access, Fixed):
            return len(values[name])
    return next(values[name].shape[1] for name, a in law.inputs.items() if not isinstance(a, Uniform))


def directional_error(
    function: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], step: float = 1e-6, trials: int = 3
) -> float:
    """Largest error of a directional derivative against central differences, relative to its own size.

    Args:
        function: Inputs → any tensors' scalar, float64.
        inputs: Where to differentiate.
        step: Length of the difference.
        trials: Number of random directions.
    """
    generator = torch.Generator().manual_seed(5)
    leaves = [x.clone().requires_grad_() for x in inputs]
    gradients = torch.autograd.grad(function(*leaves), leaves)
    worst = 0.0
    for _ in range(trials):
        directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
        exact = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        ends = [
            float(function(*(x + sign * step * d for x, d in zip(inputs, directions, strict=True)))) for sign in (1, -1)
        ]
        difference = (ends[0] - ends[1]) / (2.0 * step)
        worst = max(worst, abs(exact - difference) / abs(difference))
    return worst
