"""A formula gives tensors what its function gives numbers, and its gradient is that of differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warp as wp
from torch import Tensor

from rfo.sim.formula import Formula
from rfo.sim.kernel import Kernel, lanes_for
from rfo.sim.trace import clamp, exp, select, sin

INPUTS: dict[str, tuple[int, ...]] = {"a": (3,), "b": (2, 2), "unused": (4,)}
OUTPUTS: dict[str, tuple[int, ...]] = {"body": (4,), "reward": ()}


def law(a: Any, b: Any, unused: Any) -> dict[str, Any]:
    """Something of everything: a copy, a product, choices."""
    gain = select(a[0], exp(a[1]), a[1] * a[2])
    return {
        "body": np.concatenate([a[1:], [b[0, 1] * sin(a[0]), gain]]),
        "reward": clamp(b[0, 0], -0.5, 0.5) - 0.1 * sum(x * x for x in a),
    }


def _formula(dtype: torch.dtype = torch.float64, threads: int = 1) -> Formula:
    return Formula(law, INPUTS, OUTPUTS, dtype=dtype, threads=threads)


def _inputs(n: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(n, *shape, generator=generator, dtype=torch.float64) for name, shape in INPUTS.items()}
    return {name: values.to(dtype) for name, values in drawn.items()}


def _gradients(formula: Formula, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    found = formula(**leaves)
    return torch.autograd.grad(found["body"].square().sum() + found["reward"].sum(), tuple(leaves.values()))


def test_equals_the_function_on_numbers() -> None:
    """Every environment, those of an unfilled pack too."""
    inputs = _inputs(21)
    found = _formula()(**inputs)
    for i in range(21):
        expected = law(**{name: values[i].numpy() for name, values in inputs.items()})
        for name, values in found.items():
            np.testing.assert_allclose(values[i].numpy(), np.asarray(expected[name], dtype=float), rtol=1e-12)


def test_gradient_equals_differences() -> None:
    """To every component of every input; zero to what it does not read."""
    formula, h = _formula(), 1e-6
    inputs = _inputs(9)
    exact = _gradients(formula, inputs)
    for gradient, (name, values) in zip(exact, inputs.items(), strict=True):
        for index in np.ndindex(*INPUTS[name]):
            moved = torch.zeros_like(values)
            moved[(slice(None), *index)] = h

            def total(sign: float, name: str = name, moved: Tensor = moved) -> Tensor:
                found = formula(**{**inputs, name: inputs[name] + sign * moved})
                return found["body"].square().sum(dim=1) + found["reward"]

            difference = (total(1.0) - total(-1.0)) / (2.0 * h)
            torch.testing.assert_close(gradient[(slice(None), *index)], difference, rtol=1e-7, atol=1e-8)


def test_one_output_is_enough_for_a_gradient() -> None:
    """Where nothing depends on an output, its adjoint is zero; where an input needs none, there is none."""
    inputs = _inputs(5)
    inputs["a"].requires_grad_()
    _formula()(**inputs)["reward"].sum().backward()
    assert inputs["a"].grad is not None
    torch.testing.assert_close(inputs["a"].grad, -0.2 * inputs["a"].detach())
    assert inputs["b"].grad is None


def test_cores_agree_to_the_bit() -> None:
    """One core and two."""
    inputs = _inputs(100, torch.float32)
    one, two = (_gradients(_formula(torch.float32, threads), inputs) for threads in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiles_for_sm_80_and_sm_90(dtype: str, tmp_path: Path) -> None:
    """The same function for CUDA."""
    formula = _formula()
    for i, each in enumerate((formula.law, formula.law.adjoint(list(INPUTS)))):
        kernel = Kernel(each, dtype, lanes_for(dtype, cuda=True), cuda=True)
        wp.compile_aot_module(kernel.warp_module(), arch=[80, 90], module_dir=tmp_path / str(i), use_ptx=True)
        assert {path.suffixes[-2] for path in (tmp_path / str(i)).glob("*.ptx")} == {".sm80", ".sm90"}
