"""Sparse systems of 3 x 3 blocks, one per environment with one pattern for all: LU factors and solves over lanes.

Which blocks exist is known before anything runs, so the elimination order (minimum degree), the blocks that elimination
fills in, and where every product goes are worked out once; what remains at run time is a walk through index lists, the
same for every lane. A x = b and Aᵀ x = b are solved with the same factors.

Blocks are not pivoted between each other: meant for matrices near symmetric positive definite ones, such as a mass
matrix plus a step's share of a stiffness. Whoever solves measures the residual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp

from rfo.sim.emit import CPU_PROLOGUE, gate_lines, native_kernel

__all__ = ["BlockLU", "BlockPattern"]

Ints = npt.NDArray[np.int64]


class BlockPattern:
    """Where the blocks of a matrix and of its factors stand.

    Args:
        count: Rows of blocks.
        elements: Sets of rows that are coupled to each other, shape [element_count, corners].

    Attributes:
        slot_count: Blocks in memory, fill-in included.
        blocks: Slot of each pair of an element's corners, shape [element_count, corners * corners], row by row.
        diagonal: Slot of each diagonal block, shape [count].
        update_count: Products of two blocks in one factorization.
    """

    def __init__(self, count: int, elements: Ints) -> None:
        neighbours: list[set[int]] = [set() for _ in range(count)]
        for element in elements.tolist():
            for row in element:
                neighbours[row].update(element)
        for row in range(count):
            neighbours[row].discard(row)
        self.order, self._later = _eliminate(neighbours)
        slots = {(row, row): row for row in range(count)}
        for row, later in zip(self.order, self._later, strict=True):
            for other in later:
                slots[(other, row)] = len(slots)
                slots[(row, other)] = len(slots)
        self.slot_count = len(slots)
        self.diagonal = np.arange(count)
        self.blocks = np.array(
            [[slots[(a, b)] for a in element for b in element] for element in elements.tolist()], dtype=np.int64
        )
        self.update_count = sum(len(later) ** 2 for later in self._later)
        self._slots = slots

    def program(self) -> dict[str, Ints]:
        """Index lists of the elimination, by the names of the kernels' arguments.

        `columns` holds for each column, in order: its row, how many rows follow it, and where its entries in `entries`
        (row, slot below the diagonal, slot right of it) and in `targets` (slot of each pair's product) begin.
        """
        columns: list[list[int]] = []
        entries: list[list[int]] = []
        targets: list[int] = []
        for row, later in zip(self.order, self._later, strict=True):
            columns.append([row, len(later), len(entries), len(targets)])
            entries += [[other, self._slots[(other, row)], self._slots[(row, other)]] for other in later]
            targets += [self._slots[(a, b)] for a in later for b in later]
        return {
            "columns": np.array(columns, dtype=np.int64).reshape(-1),
            "entries": np.array(entries or [[0, 0, 0]], dtype=np.int64).reshape(-1),
            "targets": np.array(targets or [0], dtype=np.int64),
        }


def _eliminate(neighbours: Sequence[set[int]]) -> tuple[list[int], list[list[int]]]:
    """Minimum-degree order, and for each row in it the rows after it that it is coupled to by then."""
    left = [set(near) for near in neighbours]
    remaining, order, later = set(range(len(left))), [], []
    while remaining:
        row = min(remaining, key=lambda i: (len(left[i]), i))
        near = left[row]
        for other in near:
            left[other] |= near
            left[other] -= {other, row}
        remaining.discard(row)
        order.append(row)
        later.append(near)
    place = {row: i for i, row in enumerate(order)}
    return order, [sorted(near, key=place.__getitem__) for near in later]


_HEAD = """\
{prologue}
typedef wp::{dtype} S;
{vector}
const S ZERO = 0;
const int W = {lanes};
{place}
{pointers}
{gate}
struct Block {{
    static void get(V* m, const S* at) {{ for (int q = 0; q < 9; ++q) m[q] = *(const V*)(at + q * W); }}
    static void put(S* at, const V* m) {{ for (int q = 0; q < 9; ++q) *(V*)(at + q * W) = m[q]; }}
    // y -= M x, or with the transposed block
    static void minus(V* y, const V* m, const V* x) {{
        for (int q = 0; q < 3; ++q) y[q] = y[q] - m[3 * q] * x[0] - m[3 * q + 1] * x[1] - m[3 * q + 2] * x[2];
    }}
    static void minus_transposed(V* y, const V* m, const V* x) {{
        for (int q = 0; q < 3; ++q) y[q] = y[q] - m[q] * x[0] - m[q + 3] * x[1] - m[q + 6] * x[2];
    }}
}};
"""

# A = L U with unit blocks on L's diagonal; U's diagonal blocks are kept inverted.
_FACTOR = """\
for (int c = 0; c < element_count; ++c) {
    const int* column = columns.data + 4 * c;
    S* pivot = matrix_at + column[0] * 9 * W;
    V a[9], inverse[9];
    Block::get(a, pivot);
    const V c0 = a[4] * a[8] - a[5] * a[7], c1 = a[5] * a[6] - a[3] * a[8], c2 = a[3] * a[7] - a[4] * a[6];
    const V r = S(1) / (a[0] * c0 + a[1] * c1 + a[2] * c2);
    inverse[0] = c0 * r, inverse[1] = (a[2] * a[7] - a[1] * a[8]) * r, inverse[2] = (a[1] * a[5] - a[2] * a[4]) * r;
    inverse[3] = c1 * r, inverse[4] = (a[0] * a[8] - a[2] * a[6]) * r, inverse[5] = (a[2] * a[3] - a[0] * a[5]) * r;
    inverse[6] = c2 * r, inverse[7] = (a[1] * a[6] - a[0] * a[7]) * r, inverse[8] = (a[0] * a[4] - a[1] * a[3]) * r;
    Block::put(pivot, inverse);
    const int n = column[1];
    const int* entry = entries.data + 3 * column[2];
    const int* target = targets.data + column[3];
    for (int m = 0; m < n; ++m) {
        S* below = matrix_at + entry[3 * m + 1] * 9 * W;
        V l[9];
        Block::get(a, below);
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j)
                l[3 * i + j] = a[3 * i] * inverse[j] + a[3 * i + 1] * inverse[3 + j] + a[3 * i + 2] * inverse[6 + j];
        Block::put(below, l);
        for (int k = 0; k < n; ++k) {
            const S* right = matrix_at + entry[3 * k + 2] * 9 * W;
            S* to = matrix_at + target[m * n + k] * 9 * W;
            V u[9];
            Block::get(u, right);
            for (int i = 0; i < 3; ++i)
                for (int j = 0; j < 3; ++j) {
                    S* at = to + (3 * i + j) * W;
                    *(V*)at = *(V*)at - l[3 * i] * u[j] - l[3 * i + 1] * u[3 + j] - l[3 * i + 2] * u[6 + j];
                }
        }
    }
}
const V chosen = *(const V*)gate_at;
for (int q = 0; q < 9 * slot_count[0]; ++q) {
    V* at = (V*)(factor_at + q * W);
    *at = chosen > ZERO ? *(const V*)(matrix_at + q * W) : *at;
}
"""

_SOLVE = """\
for (int q = 0; q < 3 * element_count; ++q) *(V*)(solution_at + q * W) = *(const V*)(right_at + q * W);
for (int c = 0; c < element_count; ++c) {
    const int* column = columns.data + 4 * c;
    const int* entry = entries.data + 3 * column[2];
    S* at = solution_at + column[0] * 3 * W;
    V x[3] = {*(V*)at, *(V*)(at + W), *(V*)(at + 2 * W)};
    %(down_pivot)s
    for (int m = 0; m < column[1]; ++m) {
        S* to = solution_at + entry[3 * m] * 3 * W;
        V block[9], y[3] = {*(V*)to, *(V*)(to + W), *(V*)(to + 2 * W)};
        Block::get(block, factor_at + entry[3 * m + %(down)s] * 9 * W);
        Block::minus%(kind)s(y, block, x);
        for (int q = 0; q < 3; ++q) *(V*)(to + q * W) = y[q];
    }
}
for (int c = element_count; c-- > 0;) {
    const int* column = columns.data + 4 * c;
    const int* entry = entries.data + 3 * column[2];
    S* at = solution_at + column[0] * 3 * W;
    V x[3] = {*(V*)at, *(V*)(at + W), *(V*)(at + 2 * W)};
    for (int m = 0; m < column[1]; ++m) {
        const S* from = solution_at + entry[3 * m] * 3 * W;
        const V y[3] = {*(const V*)from, *(const V*)(from + W), *(const V*)(from + 2 * W)};
        V block[9];
        Block::get(block, factor_at + entry[3 * m + %(up)s] * 9 * W);
        Block::minus%(kind)s(x, block, y);
    }
    %(up_pivot)s
    for (int q = 0; q < 3; ++q) *(V*)(at + q * W) = x[q];
}
"""

_PIVOT = """\
V pivot[9], z[3] = {S(0), S(0), S(0)};
    Block::get(pivot, factor_at + column[0] * 9 * W);
    Block::minus%(kind)s(z, pivot, x);
    for (int q = 0; q < 3; ++q) { x[q] = -z[q]; *(V*)(at + q * W) = x[q]; }"""


@dataclass(frozen=True)
class BlockLU:
    """The kernels that factor and solve, for a scalar type, a lane count and a kind of device.

    Arrays by name: `matrix`, which factoring destroys, and `factor`, both [pack][slot][3 x 3][lane]; `right` and
    `solution` [pack][row][3][lane]; the `program` of a pattern and its `slot_count`; and a gate (`Law.gate`): what is
    switched off keeps its factors.

    Attributes:
        dtype: "float32" or "float64".
        lanes: Environments per pack.
        cuda: Compile for CUDA threads, one per environment, instead of CPU vectors.
    """

    dtype: str
    lanes: int
    cuda: bool = False
    _kernels: Mapping[str, tuple[tuple[str, ...], Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        plain = {"kind": "", "down": "1", "up": "2", "down_pivot": "", "up_pivot": _PIVOT % {"kind": ""}}
        # Aᵀ = Uᵀ Lᵀ: the same walk with the roles of the two triangles exchanged.
        turned = {"kind": "_transposed", "down": "2", "up": "1", "up_pivot": ""}
        turned["down_pivot"] = _PIVOT % turned
        kernels = {
            "factor": self._kernel("factor", _FACTOR, ("matrix", "factor"), ("columns", "entries", "targets")),
            "solve": self._kernel("solve", _SOLVE % plain, ("factor", "right", "solution")),
            "solve_transposed": self._kernel("solve_transposed", _SOLVE % turned, ("factor", "right", "solution")),
        }
        object.__setattr__(self, "_kernels", kernels)

    def launch(self, name: str, arrays: Mapping[str, Any], gate: Any, *, rows: int, packs: int, device: Any) -> None:
        """Launches (or records) "factor", "solve" or "solve_transposed".

        Args:
            name: Which.
            arrays: Warp arrays by the names above.
            gate: Which environments, shape [packs, lanes].
            rows: Rows of blocks.
            packs: Number of packs.
            device: Warp device.
        """
        names, kernel = self._kernels[name]
        inputs = [rows, *(arrays[n] for n in names), gate]
        dim = packs * (self.lanes if self.cuda else 1)
        wp.launch(kernel, dim=dim, inputs=inputs, device=device, record_tape=False)

    def warp_modules(self) -> list[Any]:
        """The Warp modules that hold the kernels, for ahead-of-time compilation."""
        return [kernel.module for _, kernel in self._kernels.values()]

    def _kernel(
        self, name: str, body: str, arrays: tuple[str, ...], lists: tuple[str, ...] = ("columns", "entries")
    ) -> tuple[tuple[str, ...], Any]:
        if "slot_count" in body:
            lists = (*lists, "slot_count")
        size = {"float32": 4, "float64": 8}[self.dtype]
        lane = " + lane" if self.cuda else ""
        pointers = [
            f"S* {a}_at = (S*)((char*){a}.data + pack * (size_t){a}.strides[0]){lane};" for a in (*arrays, "gate")
        ]
        head = _HEAD.format(
            prologue="" if self.cuda else CPU_PROLOGUE,
            dtype=self.dtype,
            lanes=self.lanes,
            vector="typedef S V;"
            if self.cuda
            else f"typedef S V __attribute__((ext_vector_type({self.lanes}), aligned({size})));",
            place=f"const int lane = thread % {self.lanes}; const int pack = thread / {self.lanes};"
            if self.cuda
            else "const int pack = thread;",
            pointers="\n".join(pointers),
            gate="\n".join(gate_lines("gate", self.lanes, self.cuda)),
        )
        parameters = [(a, f"wp.array2d(dtype=wp.{self.dtype})") for a in arrays]
        parameters += [(a, "wp.array(dtype=wp.int32)") for a in lists]
        parameters.append(("gate", f"wp.array2d(dtype=wp.{self.dtype})"))
        names = tuple(a for a, _ in parameters[:-1])
        return names, native_kernel(f"block_{name}", tuple(parameters), head + body)
