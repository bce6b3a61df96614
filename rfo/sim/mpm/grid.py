"""The grid operation and its adjoint: hand-written loops over the nodes of a box around the printed node law."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rfo.sim.emit import FLUSH_DENORMALS, Statements, native_kernel, statements
from rfo.sim.kernel import Planar, lanes_for
from rfo.sim.mpm.laws import FADING, FRAME, SHAPE, distance_law, node_law
from rfo.sim.mpm.model import MpmModel

__all__ = ["GridOperation"]

_LOOP = """
typedef S W __attribute__((ext_vector_type({wide}), aligned({size})));
typedef int Index __attribute__((ext_vector_type({lanes})));
const int stride_k = box_at[5], stride_j = box_at[4], count = box_at[3] * stride_j * stride_k;
const S per_k = S(1) / (S)stride_k, per_j = S(1) / (S)stride_j;
{before}
for (int e = 0; e < count; e += {lanes}) {{
    Index k = e + (Index){{{counting}}};
    const Index ij = __builtin_convertvector((__builtin_convertvector(k, V) + S(.5)) * per_k, Index);
    k -= ij * stride_k;
    const Index i = __builtin_convertvector((__builtin_convertvector(ij, V) + S(.5)) * per_j, Index);
    const Index j = ij - i * stride_j;
    const V node_0 = S({origin[0]!r}) + S({dx!r}) * __builtin_convertvector(i + box_at[0], V);
    const V node_1 = S({origin[1]!r}) + S({dx!r}) * __builtin_convertvector(j + box_at[1], V);
    const V node_2 = S({origin[2]!r}) + S({dx!r}) * __builtin_convertvector(k + box_at[2], V);
    const W in = *(const W*)(grid_at + 4 * (size_t)e);
    {split_in}
    {body}
}}
{after}
"""


@dataclass(frozen=True)
class GridOperation:
    """The two kernels of the grid operation.

    Attributes:
        model: Grid, ground and tools.
        dtype: "float32" or "float64".
        dt: Substep [s].
    """

    model: MpmModel
    dtype: str
    dt: float

    @cached_property
    def lanes(self) -> int:
        """Nodes per vector."""
        return lanes_for(self.dtype, cuda=False)

    @cached_property
    def forward(self) -> Any:
        """Grid (momentum, mass) → velocity, for all nodes of the box; `tools` are the frames of this substep."""

        def branch(near_tool: bool) -> tuple[Statements, list[str]]:
            printed = statements(node_law(self.model, self.dt, near_tool=near_tool), self.dtype, self.lanes)
            stores = [f"const V out_{i} = {value};" for i, value in enumerate(printed.results["velocity"])]
            return printed, [*printed.body, *stores, "const V out_3 = S(0) * out_0;", *self._join("velocity")]

        return self._kernel("mpm_grid", ["grid", "velocity"], branch, [])

    @cached_property
    def adjoint(self) -> Any:
        """Adjoint: `bar_grid` from that of velocities to that of momentum and mass; `bar_tools` added to."""

        def branch(near_tool: bool) -> tuple[Statements, list[str]]:
            law = node_law(self.model, self.dt, near_tool=near_tool)
            wrt = ["momentum", "mass", *(["frame"] if near_tool else [])]
            # A frame that all lanes share has an adjoint of its own in each lane.
            apart = {name: Planar(access.shape) for name, access in law.inputs.items()}
            adjoint = replace(law, inputs=apart).adjoint(wrt)
            adjoint = replace(adjoint, inputs={**adjoint.inputs, **law.inputs})
            printed = statements(adjoint, self.dtype, self.lanes)
            values = [*printed.results["bar_momentum"], *printed.results["bar_mass"]]
            stores = [f"const V out_{i} = {value};" for i, value in enumerate(values)]
            load = ["const W bar = *(const W*)(bar_grid_at + 4 * (size_t)e);", *self._split("bar", "bar_velocity")]
            sums = self._tool_sums(printed) if near_tool else []
            return printed, [*load, *printed.body, *stores, *sums, *self._join("bar_grid")]

        sums = [f"V sum_{i} = 0;" for i in range(FRAME)] if len(self.model.tools) == 1 else []
        return self._kernel("mpm_grid_adjoint", ["grid", "bar_grid"], branch, sums)

    def _tool_sums(self, printed: Statements) -> list[str]:
        """Lines that add up the tools' adjoints: lane by lane, or for each lane to its own tool."""
        bars = printed.results["bar_frame"]
        if len(self.model.tools) == 1:
            return [f"sum_{i} += {bar};" for i, bar in enumerate(bars)]
        lanes = f"for (int l = 0; l < {self.lanes}; ++l)"
        return [
            f"{{ const V b = {bar}; {lanes} bar_tools_at[nearest[l] * {FRAME} + {i}] += b[l]; }}"
            for i, bar in enumerate(bars)
        ]

    def _body(self, branch: Callable[[bool], tuple[Statements, list[str]]]) -> tuple[list[str], list[str]]:
        """Lines before and in the loop: a vector of nodes that no tool reaches takes the short way."""
        tools, lanes = self.model.tools, self.lanes
        free, free_lines = branch(False)
        prelude, uniform = [*free.prelude], [*free.uniform]
        if not tools:
            return [*prelude, *uniform], free_lines
        near, near_lines = branch(True)
        measured = statements(distance_law(tools[0].distance), self.dtype, lanes)
        prelude = [*near.prelude, *(line for line in free.prelude if line not in near.prelude)]
        prelude += [line for line in measured.prelude if line not in prelude]
        reach = -math.log({"float32": 2.0**-25, "float64": 2.0**-54}[self.dtype]) / FADING
        lines = ["Index nearest = 0;", "V least = S(1e30);", f"for (int t = 0; t < {len(tools)}; ++t) {{"]
        lines += [f"const S frame_{i} = tools_at[t * {FRAME} + {i}];" for i in range(FRAME)]
        lines += [f"const S shape_{i} = SHAPES[t * {SHAPE} + {i}];" for i in range(SHAPE)]
        lines += [*measured.uniform, *measured.body, f"const V found = {measured.results['distance'][0]};"]
        lines += [
            f"for (int l = 0; l < {lanes}; ++l) nearest[l] = found[l] < least[l] ? t : nearest[l];",
            "least = __builtin_elementwise_min(least, found);",
            "}",
            f"if (__builtin_reduce_min(least) > S({reach!r})) {{",
            *free_lines,
            "} else {",
        ]
        if len(tools) > 1:
            for name, size, source in (("frame", FRAME, "tools_at"), ("shape", SHAPE, "SHAPES")):
                for i in range(size):
                    fetch = f"{name}_{i}[l] = {source}[nearest[l] * {size} + {i}];"
                    lines.append(f"V {name}_{i}; for (int l = 0; l < {lanes}; ++l) {fetch}")
            uniform = [*uniform, *near.uniform]  # of constants only: frames differ by lane
        else:
            lines += [f"const S frame_{i} = tools_at[{i}];" for i in range(FRAME)]
            lines += [f"const S shape_{i} = SHAPES[{i}];" for i in range(SHAPE)]
            lines += near.uniform
        return [*prelude, *uniform], [*lines, *near_lines, "}"]

    def _kernel(
        self, name: str, arrays: list[str], branch: Callable[[bool], tuple[Statements, list[str]]], sums: list[str]
    ) -> Any:
        tools = self.model.tools
        arrays = [*arrays, *(["tools", "bar_tools"] if tools and "bar_grid" in arrays else ["tools"] if tools else [])]
        head = [f"S* {a}_at = (S*)((char*){a}.data + thread * (size_t){a}.strides[0]);" for a in arrays]
        head.append("int* box_at = (int*)((char*)box.data + thread * (size_t)box.strides[0]);")
        figures = [repr(figure) for shape in tools for figure in shape.figures]
        if tools:
            head.append(f"const S SHAPES[{len(figures)}] = {{{', '.join(figures)}}};")
        assert self.model.origin is not None
        before, body = self._body(branch)
        loop = _LOOP.format(
            wide=4 * self.lanes,
            size={"float32": 4, "float64": 8}[self.dtype],
            lanes=self.lanes,
            counting=", ".join(map(str, range(self.lanes))),
            origin=self.model.origin,
            dx=self.model.spacing,
            before="\n".join(sums),
            split_in="\n    ".join(self._split("in", "")),
            body="\n    ".join(body),
            after="\n".join(
                f"for (int l = 0; l < {self.lanes}; ++l) bar_tools_at[{i}] += sum_{i}[l];" for i in range(len(sums))
            ),
        )
        parameters = [(a, f"wp.array2d(dtype=wp.{self.dtype})") for a in arrays] + [
            ("box", "wp.array2d(dtype=wp.int32)")
        ]
        types = [line for line in before if line.startswith("typedef")]
        rest = [line for line in before if not line.startswith("typedef")]
        return native_kernel(name, tuple(parameters), "\n".join([FLUSH_DENORMALS, *types, *rest, *head, loop]))

    def _split(self, source: str, name: str) -> list[str]:
        """Lines that turn the vector [node][4] `source` into one vector per component."""
        names = [f"{name}_{i}" for i in range(3)] if name else ["momentum_0", "momentum_1", "momentum_2", "mass_0"]
        return [
            f"const V {component} = __builtin_shufflevector({source}, {source}, "
            f"{', '.join(str(4 * lane + c) for lane in range(self.lanes))});"
            for c, component in enumerate(names)
        ]

    def _join(self, target: str) -> list[str]:
        """Lines that store out_0 ... out_3 as [node][4]."""
        pairs = ", ".join(str(i) for i in range(2 * self.lanes))
        order = ", ".join(str(c * self.lanes + lane) for lane in range(self.lanes) for c in range(4))
        return [
            f"const auto low = __builtin_shufflevector(out_0, out_1, {pairs});",
            f"const auto high = __builtin_shufflevector(out_2, out_3, {pairs});",
            f"*(W*)({target}_at + 4 * (size_t)e) = __builtin_shufflevector(low, high, {order});",
        ]
