"""Sparse block systems over lanes, against dense linear algebra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import warp as wp
from fem_bodies import block

from rfo.sim.block_lu import BlockLU, BlockPattern
from rfo.sim.bridge import Buffer, constants, warp_device
from rfo.sim.kernel import lanes_for

N = 11


def system(pattern: BlockPattern, elements: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random, unsymmetric, diagonally dominant matrices: as blocks [N, slot_count, 9] and dense."""
    rng = np.random.default_rng(0)
    blocks = np.zeros((N, pattern.slot_count, 9))
    dense = np.zeros((N, 3 * count, 3 * count))
    slots = pattern.blocks.reshape(len(elements), 4, 4)
    for e, element in enumerate(elements):
        for i, a in enumerate(element):
            for j, b in enumerate(element):
                values = rng.standard_normal((N, 3, 3)) + 40.0 * np.eye(3) * (a == b)
                blocks[:, slots[e, i, j]] += values.reshape(N, 9)
                dense[:, 3 * a : 3 * a + 3, 3 * b : 3 * b + 3] += values
    return blocks, dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solutions_equal_dense_ones(dtype: torch.dtype) -> None:
    """A x = b and its transpose, for every environment; one that is switched off keeps its factors."""
    model = block(3, 2, 2)
    count, name, cpu = len(model.vertices), str(dtype).removeprefix("torch."), torch.device("cpu")
    pattern = BlockPattern(count, model.tets)
    blocks, dense = system(pattern, model.tets, count)
    lanes = lanes_for(name, cuda=False)
    packs = -(-N // lanes)
    solver, device = BlockLU(name, lanes), warp_device(cpu)
    sizes = {"matrix": 9 * pattern.slot_count, "factor": 9 * pattern.slot_count, "right": 3 * count}
    sizes |= {"solution": 3 * count, "gate": 1}
    buffers = {key: Buffer(packs, size, lanes, dtype, cpu) for key, size in sizes.items()}
    right = np.random.default_rng(1).standard_normal((N, 3 * count))
    buffers["matrix"].load(torch.as_tensor(blocks))
    buffers["right"].load(torch.as_tensor(right))
    buffers["gate"].tensor.fill_(1.0)
    arrays = {key: buffer.array for key, buffer in buffers.items()}
    arrays |= constants({**pattern.program(), "slot_count": np.array([pattern.slot_count])}, dtype, cpu)
    where = {"rows": count, "packs": packs, "device": device}
    solver.launch("factor", arrays, arrays["gate"], **where)
    limit = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    found = torch.empty(N, 3 * count, dtype=dtype)
    for kernel, matrices in (("solve", dense), ("solve_transposed", np.swapaxes(dense, 1, 2))):
        solver.launch(kernel, arrays, arrays["gate"], **where)
        buffers["solution"].store(found)
        expected = np.linalg.solve(matrices, right[..., None])[..., 0]
        assert np.abs(found.double().numpy() - expected).max() < limit * np.abs(expected).max()
    kept = buffers["factor"].tensor.clone()
    buffers["gate"].tensor[:, :, 1::2] = 0.0
    buffers["matrix"].load(torch.as_tensor(2.0 * blocks))
    solver.launch("factor", arrays, arrays["gate"], **where)
    assert torch.equal(kept[:, :, 1::2], buffers["factor"].tensor[:, :, 1::2])
    assert not torch.equal(kept[:, :, ::2], buffers["factor"].tensor[:, :, ::2])


def test_a_chain_is_eliminated_without_fill() -> None:
    """Minimum degree starts at the ends of a chain: no block is added to the 3 n - 2 it has."""
    chain = np.stack([np.arange(9), np.arange(1, 10)], axis=1)
    assert BlockPattern(10, chain).slot_count == 28


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiles_for_sm_80_and_sm_90(dtype: str, tmp_path: Path) -> None:
    """The same walk, one environment per CUDA thread, compiles without a GPU."""
    for i, module in enumerate(BlockLU(dtype, lanes_for(dtype, cuda=True), cuda=True).warp_modules()):
        folder = tmp_path / str(i)
        wp.compile_aot_module(module, arch=[80, 90], module_dir=folder, use_ptx=True)
        assert {path.suffixes[-2] for path in folder.glob("*.ptx")} == {".sm80", ".sm90"}
