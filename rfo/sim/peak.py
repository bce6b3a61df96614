"""What one core can do at most: the ceiling that the engines' speed is compared with."""

from __future__ import annotations

import time

import numpy as np
import warp as wp

from rfo.sim.kernel import lanes_for, native_kernel

__all__ = ["peak_operations_per_second"]

CHAINS = 12
"""Independent sums: enough to hide the latency of a fused multiply-add on two ports."""
ROUNDS = 200_000

_SNIPPET = """\
typedef {scalar} S;
typedef S V __attribute__((ext_vector_type({lanes}), aligned({size})));
V* at = (V*)values.data;
const V factor = at[0];
const V term = at[1];
{declare}
for (int i = 0; i < element_count; ++i) {{
{body}
}}
at[0] = factor + ({total}) * S(0);
"""


def peak_operations_per_second(dtype: str = "float32", repeats: int = 5) -> float:
    """Measures fused multiply-adds of whole vectors in registers, each counted as two operations.

    Args:
        dtype: "float32" or "float64".
        repeats: Runs of which the fastest counts.

    Returns:
        Operations per second of one CPU core, right now.
    """
    lanes = lanes_for(dtype, cuda=False)
    snippet = _SNIPPET.format(
        scalar=f"wp::{dtype}",
        lanes=lanes,
        size={"float32": 4, "float64": 8}[dtype],
        declare="\n".join(f"V sum{i} = term * S({i});" for i in range(CHAINS)),
        body="\n".join(f"    sum{i} = sum{i} * factor + term;" for i in range(CHAINS)),
        total=" + ".join(f"sum{i}" for i in range(CHAINS)),
    )
    kernel = native_kernel(f"peak_{dtype}", (("values", f"wp.array(dtype=wp.{dtype})"),), snippet)
    values = wp.array(np.full(2 * lanes, 0.5), dtype=getattr(wp, dtype), device="cpu")
    best = float("inf")
    for _ in range(repeats + 1):  # the first loads the kernel
        started = time.perf_counter()
        wp.launch(kernel, dim=1, inputs=[ROUNDS, values], device="cpu", record_tape=False)
        best = min(best, time.perf_counter() - started)
    return 2.0 * CHAINS * lanes * ROUNDS / best
