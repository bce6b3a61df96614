from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from rfo.sim import trace
from rfo.sim.bridge import Buffer, warp_device
from rfo.sim.kernel import Item, Kernel, Law, lanes_for

CPU = torch.device("cpu")
EXACT: dict[str, Callable[[float], float]] = {
    **{name: getattr(math, name) for name in ("sin", "cos", "exp", "log", "tanh", "sqrt")},
    "rsqrt": lambda a: 1.0 / math.sqrt(a),
    "reciprocal": lambda a: 1.0 / a,
}


def _evaluate(name: str, points: np.ndarray, dtype: str) -> np.ndarray:
    function = getattr(trace, name, lambda a: 1.0 / a)
    law = Law(f"try_{name}", lambda x: {"y": function(x)}, {"x": Item()}, {"y": Item()})
    kernel = Kernel(law, dtype, lanes_for(dtype, cuda=False))
    packs = -(-len(points) // kernel.lanes)
    x, y = (Buffer(packs, 1, kernel.lanes, getattr(torch, dtype), CPU) for _ in range(2))
    x.load(torch.as_tensor(points)[:, None].to(x.tensor.dtype))
    kernel.launch({"x": x.array, "y": y.array}, elements=1, packs=packs, device=warp_device(CPU))
    found = torch.empty(len(points), 1, dtype=x.tensor.dtype)
    y.store(found)
    return found[:, 0].double().numpy()


RANGES = {
    "sin": (-9e3, 9e3),
    "cos": (-9e3, 9e3),
    "exp": (-80.0, 80.0),
    "tanh": (-12.0, 12.0),
    "log": (1e-30, 1e3),
    "sqrt": (0.0, 1e6),
    "rsqrt": (1e-6, 1e6),
    "reciprocal": (-1e6, -1e-6),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(RANGES))
def test_functions_are_accurate_to_a_few_units(name: str, dtype: str) -> None:
    """Over the whole range and near zero, errors stay within a few units in the last place."""
    rng = np.random.default_rng(0)
    low, high = RANGES[name]
    near = np.exp(rng.uniform(-30.0, 2.0, 2000))
    signs = 1.0 if low >= 0 else rng.choice([-1.0, 1.0], 2000)
    points = np.concatenate([rng.uniform(low, high, 4000), near * signs]).astype(dtype).astype(np.float64)
    expected = np.array([EXACT[name](x) for x in points])
    unit = np.finfo(dtype).eps
    scale = np.maximum(np.abs(expected), 1e-2 if name in ("sin", "cos") else 0.0)
    if name == "log":  # near one the argument's own rounding is what remains
        scale = np.maximum(scale, 1e-3)
    error = np.abs(_evaluate(name, points, dtype) - expected)
    assert (error <= 4 * unit * scale + 1e-300).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limits_are_those_of_the_c_library(dtype: str) -> None:
    """Infinities, zeros and NaN come out as infinities, limits and NaN; huge angles as NaN."""
    inf, nan = math.inf, math.nan
    cases = {
        "exp": ([inf, -inf, 1e5, -1e5, nan, 0.0], [inf, 0.0, inf, 0.0, nan, 1.0]),
        "log": ([inf, 0.0, -1.0, nan, 1.0], [inf, -inf, nan, nan, 0.0]),
        "tanh": ([inf, -inf, 1e3, nan, 0.0], [1.0, -1.0, 1.0, nan, 0.0]),
        "sin": ([inf, nan, 1e7, 0.0], [nan, nan, nan, 0.0]),
        "cos": ([-inf, nan, -1e7, 0.0], [nan, nan, nan, 1.0]),
        "rsqrt": ([inf, 0.0, -1.0, nan, 4.0], [0.0, inf, nan, nan, 0.5]),
        "reciprocal": ([inf, 0.0, -inf, nan, 4.0], [0.0, inf, 0.0, nan, 0.25]),
    }
    for name, (points, expected) in cases.items():
        np.testing.assert_array_equal(_evaluate(name, np.array(points), dtype), np.array(expected), err_msg=name)
    # Kernels count denormals as zero, and the smallest normal number is still exact.
    denormal, least = (1e-40, 1.2e-38) if dtype == "float32" else (1e-310, 2.3e-308)
    found = _evaluate("log", np.array([denormal, least]), dtype)
    assert found[0] == -inf
    assert abs(found[1] / math.log(least) - 1.0) < 1e-6
