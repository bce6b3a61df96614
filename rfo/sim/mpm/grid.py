"""The grid operation and its adjoint: hand-written loops over the nodes of a box around the printed node law."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rfo.sim.kernel import Law, Statements, Uniform, lanes_for, native_kernel, statements
from rfo.sim.mpm.laws import FRAME, SHAPE, distance_law, node_law
from rfo.sim.mpm.model import MpmModel

__all__ = ["GridOperation"]

_LOOP = """
typedef S W __attribute__((ext_vector_type({wide}), aligned({size})));
typedef int I __attribute__((ext_vector_type({lanes})));
const int stride_k = box_at[5], stride_j = box_at[4], count = box_at[3] * stride_j * stride_k;
const S per_k = S(1) / (S)stride_k, per_j = S(1) / (S)stride_j;
{before}
for (int e = 0; e < count; e += {lanes}) {{
    I k = e + (I){{{counting}}};
    const I ij = __builtin_convertvector((__builtin_convertvector(k, V) + S(.5)) * per_k, I);
    k -= ij * stride_k;
    const I i = __builtin_convertvector((__builtin_convertvector(ij, V) + S(.5)) * per_j, I);
    const I j = ij - i * stride_j;
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
    def law(self) -> Law:
        """What happens to one node."""
        return node_law(self.model, self.dt)

    @cached_property
    def forward(self) -> Any:
        """grid (momentum, mass) → velocity, for all nodes of the box; `tools` are the frames of this substep."""
        printed = statements(self.law, self.dtype, self.lanes)
        stores = [f"const V out_{i} = {value};" for i, value in enumerate(printed.results["velocity"])]
        body = [*self._nearest(), *printed.body, *stores, "const V out_3 = S(0) * out_0;", *self._join("velocity")]
        return self._kernel("mpm_grid", ["grid", "velocity"], printed, body, [], [])

    @cached_property
    def adjoint(self) -> Any:
        """Adjoint: `bar_grid` from that of velocities to that of momentum and mass; `bar_tools` added to."""
        wrt = ["momentum", "mass", *(["frame"] if self.model.tools else [])]
        tracked = {name: replace_uniform(access) for name, access in self.law.inputs.items()}
        adjoint = replace(self.law, inputs=tracked).adjoint(wrt)
        adjoint = replace(adjoint, inputs={**adjoint.inputs, **self.law.inputs})
        printed = statements(adjoint, self.dtype, self.lanes)
        values = [*printed.results["bar_momentum"], *printed.results["bar_mass"]]
        stores = [f"const V out_{i} = {value};" for i, value in enumerate(values)]
        load = ["const W bar = *(const W*)(bar_grid_at + 4 * (size_t)e);", *self._split("bar", "bar_velocity")]
        before, after, sums = self._tool_sums(printed)
        body = [*load, *self._nearest(), *printed.body, *stores, *sums, *self._join("bar_grid")]
        return self._kernel("mpm_grid_adjoint", ["grid", "bar_grid"], printed, body, before, after)

    def _tool_sums(self, printed: Statements) -> tuple[list[str], list[str], list[str]]:
        """Lines before, after and in the loop that add up the tools' adjoints."""
        if not self.model.tools:
            return [], [], []
        bars = printed.results["bar_frame"]
        lanes = f"for (int l = 0; l < {self.lanes}; ++l)"
        if len(self.model.tools) == 1:
            before = [f"V sum_{i} = 0;" for i in range(FRAME)]
            after = [f"{lanes} bar_tools_at[{i}] += sum_{i}[l];" for i in range(FRAME)]
            return before, after, [f"sum_{i} += {bar};" for i, bar in enumerate(bars)]
        sums = [f"{{ const V b = {bar}; {lanes} bar_tools_at[nearest[l] * {FRAME} + {i}] += b[l]; }}"
                for i, bar in enumerate(bars)]
        return [], [], sums

    def _nearest(self) -> list[str]:
        """Lines that find each node's nearest tool and fetch its frame and shape, where there are several."""
        tools = self.model.tools
        if len(tools) < 2:
            return []
        law = distance_law(tools[0].distance)
        printed = statements(law, self.dtype, self.lanes)
        lines = ["I nearest = 0;", "V least = S(1e30);", f"for (int t = 0; t < {len(tools)}; ++t) {{"]
        lines += [f"const S frame_{i} = tools_at[t * {FRAME} + {i}];" for i in range(FRAME)]
        lines += [f"const S shape_{i} = SHAPES[t * {SHAPE} + {i}];" for i in range(SHAPE)]
        lines += [*printed.uniform, *printed.body, f"const V found = {printed.results['distance'][0]};"]
        # A comparison of vectors is a mask of integers as wide as the scalars.
        lines += [f"for (int l = 0; l < {self.lanes}; ++l) if (found[l] < least[l]) {{ least[l] = found[l]; nearest[l] = t; }}", "}"]
        fetch = [("frame", FRAME, "tools_at"), ("shape", SHAPE, "SHAPES")]
        for name, size, source in fetch:
            lines += [f"V {name}_{i}; for (int l = 0; l < {self.lanes}; ++l) "
                      f"{name}_{i}[l] = {source}[nearest[l] * {size} + {i}];" for i in range(size)]
        return lines

    def _kernel(
        self, name: str, arrays: list[str], printed: Statements, body: list[str], before: list[str], after: list[str]
    ) -> Any:
        tools = self.model.tools
        arrays = [*arrays, *(["tools", "bar_tools"] if tools and "bar_grid" in arrays else ["tools"] if tools else [])]
        head = [f"S* {a}_at = (S*)((char*){a}.data + thread * (size_t){a}.strides[0]);" for a in arrays]
        head.append("int* box_at = (int*)((char*)box.data + thread * (size_t)box.strides[0]);")
        figures = [repr(figure) for shape in tools for figure in shape.figures]
        if len(tools) == 1:
            head += [f"const S frame_{i} = tools_at[{i}];" for i in range(FRAME)]
            head += [f"const S shape_{i} = {figure};" for i, figure in enumerate(figures)]
        elif tools:
            head.append(f"const S SHAPES[{len(figures)}] = {{{', '.join(figures)}}};")
        assert self.model.origin is not None
        loop = _LOOP.format(
            wide=4 * self.lanes,
            size={"float32": 4, "float64": 8}[self.dtype],
            lanes=self.lanes,
            counting=", ".join(map(str, range(self.lanes))),
            origin=self.model.origin,
            dx=self.model.spacing,
            before="\n".join([*printed.uniform, *before]),
            split_in="\n    ".join(self._split("in", "")),
            body="\n    ".join(body),
            after="\n".join(after),
        )
        parameters = [(a, f"wp.array2d(dtype=wp.{self.dtype})") for a in arrays] + [("box", "wp.array2d(dtype=wp.int32)")]
        return native_kernel(name, tuple(parameters), "\n".join([*printed.prelude, *head, loop]))

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


def replace_uniform(access: Any) -> Any:
    """The access of an input that is differentiated: its adjoint differs from lane to lane."""
    from rfo.sim.kernel import Planar

    return Planar(access.shape) if isinstance(access, Uniform) else access
