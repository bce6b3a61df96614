"""The grid operation and its adjoint: hand-written loops over the touched nodes around the printed node law.

A vector of nodes is some quads of the list that `rfo.sim.mpm.transfer` makes. Each node obeys its nearest tool where
one reaches it, and is free elsewhere; which one is found forward, and left for the adjoint in the velocity's fourth
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rfo.sim.emit import CPU_PROLOGUE, Statements, native_kernel, statements
from rfo.sim.kernel import Law, Planar, lanes_for
from rfo.sim.mpm.laws import FRAME, PLACE, SHAPE, distance_law, node_law, place_law, tool_reach
from rfo.sim.mpm.model import MpmModel
from rfo.sim.mpm.transfer import bindings

__all__ = ["GridOperation"]

_HEAD = """
typedef S Quad __attribute__((ext_vector_type(16), aligned({size})));
typedef S W __attribute__((ext_vector_type({wide}), aligned({size})));
typedef int Index __attribute__((ext_vector_type({lanes})));
typedef int Few __attribute__((ext_vector_type({few}), aligned(4)));
auto read = [](const S* from, const int* quads) -> W {{
    {read}
}};
auto write = [](S* to, const int* quads, W all) {{
    {write}
}};
auto any = [](auto mask) {{ return __builtin_reduce_or(mask) != 0; }};
"""

_LOOP = """
const int stride_k = box_at[5], stride_j = box_at[4], count = box_at[6];
const S per_k = S(1) / (S)stride_k, per_j = S(1) / (S)stride_j;
{before}
for (int e = 0; e < count; e += {few}) {{
    const int* const quads = quads_at + e;
    const Few few = *(const Few*)quads;
    Index k = 4 * __builtin_shufflevector(few, few, {quarters}) + (Index){{{counting}}};
    const Index ij = __builtin_convertvector((__builtin_convertvector(k, V) + S(.5)) * per_k, Index);
    k -= ij * stride_k;
    const Index i = __builtin_convertvector((__builtin_convertvector(ij, V) + S(.5)) * per_j, Index);
    const Index j = ij - i * stride_j;
    const V node_0 = S({origin[0]!r}) + S({dx!r}) * __builtin_convertvector(i + box_at[0], V);
    const V node_1 = S({origin[1]!r}) + S({dx!r}) * __builtin_convertvector(j + box_at[1], V);
    const V node_2 = S({origin[2]!r}) + S({dx!r}) * __builtin_convertvector(k + box_at[2], V);
    const W in = read(grid_at, quads);
    {split_in}
    V out_0, out_1, out_2, out_3;
    {body}
    const auto low = __builtin_shufflevector(out_0, out_1, {pairs});
    const auto high = __builtin_shufflevector(out_2, out_3, {pairs});
    write({target}_at, quads, __builtin_shufflevector(low, high, {order}));
}}
{after}
"""

# Tools that may reach one of these nodes, by their distance from the middle, a tool in each lane. A hundredth of a cell
# is more than distances are rounded by.
_CANDIDATES = """
S middle[3], wide = 0;
{{
    const V nodes[3] = {{node_0, node_1, node_2}};
    for (int d = 0; d < 3; ++d) {{
        const S least = __builtin_reduce_min(nodes[d]), most = __builtin_reduce_max(nodes[d]);
        middle[d] = S(.5) * (least + most);
        wide += S(.25) * (most - least) * (most - least);
    }}
}}
const S far = __builtin_elementwise_sqrt(wide) + S({far!r});
int candidates[{padded}], many = 0;
for (int first = 0; first < {tools}; first += {lanes}) {{
    const S node_0 = middle[0], node_1 = middle[1], node_2 = middle[2];
    {loads}
    {measure}
    const V found = {found};
    for (int l = 0; l < {lanes} && first + l < {tools}; ++l) {{
        candidates[many] = first + l;
        many += found[l] <= far;
    }}
}}
"""

_NEAREST = """
V least = S(1e30), nearest = S(-1);
for (int c = 0; c < many; ++c) {{
    const int tool = candidates[c];
    {loads}
    {measure}
    const V found = {found};
    nearest = found < least ? V((S)tool) : nearest;
    least = __builtin_elementwise_min(least, found);
}}
out_3 = least <= S({reach!r}) ? nearest : V(S(-1));
for (int c = 0; c < many; ++c) {{
    const int tool = candidates[c];
"""

_OWNERS = """
const W moved = read(velocity_at, quads);
const V owner = __builtin_shufflevector(moved, moved, {fourth});
for (int tool = 0; tool < {tools}; ++tool) {{
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
        """Grid (momentum, mass) → velocity, for all nodes touched; `tools` are the frames of this substep."""
        body, printed = self._branch(self._law(near_tool=False), ["velocity"])
        if not self.model.tools:
            return self._kernel("mpm_grid", ["grid", "velocity"], [*body, "out_3 = 0;"], [printed])
        placed, measured = self._printed(place_law()), self._printed(self._distance(of_many=False))
        near_body, near = self._branch(self._law(near_tool=True), ["velocity"], mask="mine")
        body += [
            *self._candidates(),
            _NEAREST.format(
                loads="\n".join(self._tool_figures("tool")),
                measure="\n".join([*measured.uniform, *measured.body]),
                found=measured.results["distance"][0],
                reach=tool_reach(self.dtype),
            ),
            "const auto mine = out_3 == (S)tool;",
            "if (!any(mine)) continue;",
            *self._frame(),
            *near_body,
            "}",
        ]
        before = [
            f"S place[{PLACE}][{self._padded}] = {{}};",
            f"for (int tool = 0; tool < {len(self.model.tools)}; ++tool) {{",
            *self._frame(),
            *placed.uniform,
            *(f"place[{i}][tool] = {value};" for i, value in enumerate(placed.results["place"])),
            "}",
        ]
        return self._kernel("mpm_grid", ["grid", "velocity", "tools"], body, [near, printed, placed, measured], before)

    @cached_property
    def adjoint(self) -> Any:
        """Adjoint: `bar_grid` from that of velocities to that of momentum and mass; `bar_tools` added to."""
        tools = len(self.model.tools)
        body, printed = self._branch(self._adjoint(near_tool=False), ["bar_momentum", "bar_mass"])
        body = ["const W bar = read(bar_grid_at, quads);", *self._split("bar", "bar_velocity"), *body]
        if not tools:
            return self._kernel("mpm_grid_adjoint", ["grid", "bar_grid"], body, [printed])
        near_body, near = self._branch(self._adjoint(near_tool=True), ["bar_momentum", "bar_mass"], mask="mine")
        body += [
            _OWNERS.format(fourth=", ".join(str(4 * lane + 3) for lane in range(self.lanes)), tools=tools),
            "const auto mine = owner == (S)tool;",
            "if (!any(mine)) continue;",
            *self._frame(),
            *near_body,
            "}",
        ]
        before = [f"V sums[{tools}][{FRAME}] = {{}};"]
        after = [
            f"for (int i = 0; i < {tools * FRAME}; ++i)",
            f"    for (int l = 0; l < {self.lanes}; ++l) bar_tools_at[i] += sums[i / {FRAME}][i % {FRAME}][l];",
        ]
        arrays = ["grid", "velocity", "bar_grid", "tools", "bar_tools"]
        return self._kernel("mpm_grid_adjoint", arrays, body, [near, printed], before, after)

    @property
    def _padded(self) -> int:
        """Tools, padded to whole vectors."""
        return -(-len(self.model.tools) // self.lanes) * self.lanes

    def _law(self, *, near_tool: bool) -> Law:
        return node_law(self.model, self.dt, near_tool=near_tool)

    def _adjoint(self, *, near_tool: bool) -> Law:
        law = self._law(near_tool=near_tool)
        # A frame that all lanes share has an adjoint of its own in each lane.
        apart = {name: Planar(access.shape) for name, access in law.inputs.items()}
        adjoint = replace(law, inputs=apart).adjoint(["momentum", "mass", *(["frame"] if near_tool else [])])
        return replace(adjoint, inputs={**adjoint.inputs, **law.inputs})

    def _distance(self, *, of_many: bool) -> Law:
        return distance_law(self.model.tools[0].distance, of_many=of_many)

    def _printed(self, law: Law) -> Statements:
        return statements(law, self.dtype, self.lanes)

    def _branch(self, law: Law, results: Sequence[str], mask: str = "") -> tuple[list[str], Statements]:
        """Lines that make out_0, out_1, ... of a law's results, or, in lanes of a mask, replace them."""
        printed = self._printed(law)
        lines = ["{", *printed.uniform, *printed.body]
        for i, value in enumerate(value for name in results for value in printed.results[name]):
            lines.append(f"out_{i} = {mask} ? V({value}) : out_{i};" if mask else f"out_{i} = {value};")
        for i, value in enumerate(printed.results.get("bar_frame", ())):
            lines.append(f"sums[tool][{i}] += {mask} ? V({value}) : V(S(0));")
        return [*lines, "}"], printed

    def _candidates(self) -> list[str]:
        """Lines that list the tools worth measuring."""
        tools = len(self.model.tools)
        if tools == 1:
            return ["const int candidates[1] = {0}, many = 1;"]
        measured = self._printed(self._distance(of_many=True))
        loads = [f"const V place_{i} = *(const V*)(place[{i}] + first);" for i in range(PLACE)]
        loads += [f"const V shape_{i} = *(const V*)(SHAPES[{i}] + first);" for i in range(SHAPE)]
        text = _CANDIDATES.format(
            far=tool_reach(self.dtype) + 0.01 * self.model.spacing,
            padded=self._padded,
            tools=tools,
            lanes=self.lanes,
            loads="\n".join(loads),
            measure="\n".join([*measured.uniform, *measured.body]),
            found=measured.results["distance"][0],
        )
        return [text]

    def _tool_figures(self, tool: str) -> list[str]:
        lines = [f"const S place_{i} = place[{i}][{tool}];" for i in range(PLACE)]
        return lines + [f"const S shape_{i} = SHAPES[{i}][{tool}];" for i in range(SHAPE)]

    def _frame(self) -> list[str]:
        lines = [f"const S frame_{i} = tools_at[tool * {FRAME} + {i}];" for i in range(FRAME)]
        return lines + [f"const S shape_{i} = SHAPES[{i}][tool];" for i in range(SHAPE)]

    def _kernel(
        self,
        name: str,
        arrays: list[str],
        body: list[str],
        printed: Sequence[Statements],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
    ) -> Any:
        model, lanes = self.model, self.lanes
        assert model.origin is not None
        prelude = list(dict.fromkeys(line for each in printed for line in each.prelude))
        prelude.sort(key=lambda line: not line.startswith("typedef"))
        parameters, pointers = bindings(arrays, ["box", "quads"], self.dtype)
        if model.tools:
            rows = zip(*(shape.figures for shape in model.tools), strict=True)
            figures = ", ".join(f"{{{', '.join(map(repr, row))}}}" for row in rows)
            pointers.append(f"const S SHAPES[{SHAPE}][{self._padded}] = {{{figures}}};")
        few = lanes // 4
        head = _HEAD.format(
            size={"float32": 4, "float64": 8}[self.dtype],
            wide=4 * lanes,
            lanes=lanes,
            few=few,
            read=_joined([f"*(const Quad*)(from + 16 * (size_t)quads[{q}])" for q in range(few)]),
            write="\n    ".join(
                f"*(Quad*)(to + 16 * (size_t)quads[{q}]) = __builtin_shufflevector(all, all, {_range(16 * q, 16)});"
                for q in range(few)
            ),
        )
        loop = _LOOP.format(
            few=few,
            quarters=", ".join(str(lane // 4) for lane in range(lanes)),
            counting=", ".join(str(lane % 4) for lane in range(lanes)),
            origin=model.origin,
            dx=model.spacing,
            before="\n".join(before),
            split_in="\n    ".join(self._split("in", "")),
            body="\n    ".join(body),
            pairs=_range(0, 2 * lanes),
            order=", ".join(str(c * lanes + lane) for lane in range(lanes) for c in range(4)),
            target=arrays[1] if name == "mpm_grid" else "bar_grid",
            after="\n".join(after),
        )
        return native_kernel(name, parameters, "\n".join([CPU_PROLOGUE, *prelude, *pointers, head, loop]))

    def _split(self, source: str, name: str) -> list[str]:
        """Lines that turn the vector [node][4] `source` into one vector per component."""
        names = [f"{name}_{i}" for i in range(3)] if name else ["momentum_0", "momentum_1", "momentum_2", "mass_0"]
        return [
            f"const V {component} = __builtin_shufflevector({source}, {source}, "
            f"{', '.join(str(4 * lane + c) for lane in range(self.lanes))});"
            for c, component in enumerate(names)
        ]


def _range(first: int, count: int) -> str:
    return ", ".join(str(i) for i in range(first, first + count))


def _joined(vectors: list[str]) -> str:
    """Statement that returns vectors of sixteen numbers as one; their number is a power of two."""
    size = 16
    while len(vectors) > 1:
        size *= 2
        vectors = [
            f"__builtin_shufflevector({a}, {b}, {_range(0, size)})"
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return f"return {vectors[0]};"
