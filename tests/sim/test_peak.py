"""Counting arithmetic, and the ceiling it is compared with."""

from __future__ import annotations

import numpy as np
import torch
from fem_bodies import block, engine
from law_runner import run_law

from rfo.sim.kernel import Fixed, Item, Kernel, Law
from rfo.sim.peak import peak_operations_per_second


def test_operations_are_counted_per_environment() -> None:
    """Sums and products of lanes count, what a pack computes once does not, nor do signs."""
    law = Law(
        "counted",
        lambda x, k: {"y": -(x[0] * x[1] + x[0] * (2.0 * k + 1.0))},
        {"x": Item((2,)), "k": Fixed()},
        {"y": Item()},
    )
    assert Kernel(law, "float32", 16).operation_count == 3


def test_a_control_step_counts_its_substeps() -> None:
    """Twice the substeps, twice the arithmetic; the adjoint takes one to three times the forward pass."""
    one, two = (engine(block(), substeps=count).operations() for count in (4, 8))
    assert two == (2.0 * one[0], 2.0 * one[1])
    assert one[0] < one[1] < 3.0 * one[0]


def test_the_peak_is_above_what_plain_code_reaches() -> None:
    """Vectors of fused multiply-adds: more than two operations per nanosecond anywhere."""
    assert peak_operations_per_second(repeats=2) > 2e9


def test_denormals_count_as_zero_inside_kernels_only() -> None:
    """Products below 1e-38 vanish in a kernel, and torch's arithmetic around it is left alone."""
    law = Law("scale", lambda x: {"y": 0.5 * x}, {"x": Item()}, {"y": Item()})
    assert (run_law(law, {"x": np.full((3, 2), 1e-38)}, {"y": (2,)}, "float32")["y"] == 0.0).all()
    assert float(torch.tensor(1e-38) * 0.5) > 0.0
