"""Transfers with one thread for every particle, and the grid operation with one for every node: for CUDA.

What they compute is what `rfo.sim.mpm.transfer` and `rfo.sim.mpm.grid` compute with vectors; sums of many threads are
atomic. A CPU runs the same source thread by thread, which is slow and checks it.

Notation: f is the particle's place relative to its first node [cells], w the weights along each axis, dw their
derivatives, `bar_` adjoints. A box is its first and last node along each axis, found anew in every substep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rfo.sim.emit import Source, native_kernel
from rfo.sim.mpm.laws import FRAME, PLACE, SHAPE, distance_law, node_law, place_law, tool_reach
from rfo.sim.mpm.model import MpmModel

__all__ = ["SEARCHERS", "ThreadKernels"]

SEARCHERS = 32  # threads that look for the box of one environment together

_HEAD = """
#if defined(__CUDA_ARCH__)
#define ADD(at, value) atomicAdd(at, value)
#define LEAST(at, value) atomicMin(at, value)
#define MOST(at, value) atomicMax(at, value)
#else
#define ADD(at, value) *(at) += (value)
#define LEAST(at, value) *(at) = *(at) < (value) ? *(at) : (value)
#define MOST(at, value) *(at) = *(at) > (value) ? *(at) : (value)
#endif
typedef wp::{dtype} S;
const S DT = {dt!r}, DX = {dx!r}, PER_DX = {per_dx!r};
const S ORIGIN[3] = {{{origin}}};
const int LAST[3] = {{{last}}};
const int stride = {stride}, capacity = {capacity};
"""

# A particle's place in the grid. Outside the domain it is held at the edge, and was flagged when the box was found.
_PLACE = """
const int env = thread / stride, p = thread % stride;
#define AT(name, c) name##_at[(c) * (size_t)stride + p]
if (p < element_count) {
    S f[3], w[3][3], dw[3][3];
    int at[3];
    for (int d = 0; d < 3; ++d) {
        const S cell = (AT(x, d) - ORIGIN[d]) * PER_DX;
        int base = (int)(cell - S(.5));
        base = base < box_at[3 + d] - 2 ? base : box_at[3 + d] - 2;
        base = base > box_at[d] ? base : box_at[d];
        f[d] = cell - (S)base;
        at[d] = base - box_at[d];
        const S a = S(1.5) - f[d], b = f[d] - S(1), c = f[d] - S(.5);
        w[d][0] = S(.5) * a * a; w[d][1] = S(.75) - b * b; w[d][2] = S(.5) * c * c;
        dw[d][0] = -a; dw[d][1] = S(-2) * b; dw[d][2] = c;
    }
    const int ny = box_at[4] - box_at[1] + 1, nz = box_at[5] - box_at[2] + 1;
"""

_NODES = """
    for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
    for (int k = 0; k < 3; ++k) {
        const size_t node = 4 * (size_t)(((at[0] + i) * ny + at[1] + j) * nz + at[2] + k);
        const S weight = w[0][i] * w[1][j] * w[2][k];
"""

_SLOPES = """
        const S slope[3] = {dw[0][i] * w[1][j] * w[2][k], w[0][i] * dw[1][j] * w[2][k], w[0][i] * w[1][j] * dw[2][k]};
"""

_RESET = """
for (int d = 0; d < 3; ++d) {
    box_at[d] = LAST[d];
    box_at[3 + d] = 0;
}
"""

# As wide as the particles reach, and within the domain.
_SEARCH = """
S furthest = 0;
int outside = 0;
for (int d = 0; d < 3; ++d) {
    int least = LAST[d] - 2, most = 0;
    for (int p = thread % SEARCHERS; p < element_count; p += SEARCHERS) {
        const S cell = (x_at[d * (size_t)stride + p] - ORIGIN[d]) * PER_DX - S(.5);
        // Comparisons are false for a NaN, which must not become an index.
        outside |= !(cell >= S(0) && cell < (S)(LAST[d] - 2));
        const int base = cell >= S(0) ? (cell < (S)(LAST[d] - 2) ? (int)cell : LAST[d] - 2) : 0;
        least = base < least ? base : least;
        most = base > most ? base : most;
    }
    LEAST(&box_at[d], least);
    MOST(&box_at[3 + d], most + 2);
}
for (int p = thread % SEARCHERS; p < element_count; p += SEARCHERS)
    furthest = reach_at[p] > furthest ? reach_at[p] : furthest;
// Numbers that are not negative are ordered as their bits are.
MOST((BITS*)flags_at, *(const BITS*)&furthest);
if (outside) ADD(flags_at + 1, S(1));
"""

_NODE = """
const int e = thread % capacity;
const int ny = box_at[4] - box_at[1] + 1, nz = box_at[5] - box_at[2] + 1;
const int k = e % nz, j = e / nz % ny, i = e / (nz * ny);
if (i <= box_at[3] - box_at[0]) {
"""

_SCATTER = """
    const S mass = AT(figures, 0);
    S q[3];
    for (int c = 0; c < 3; ++c) {
        q[c] = mass * AT(v, c);
        for (int d = 0; d < 3; ++d) q[c] -= f[d] * AT(a, 3 * c + d);
    }
    NODES
        for (int c = 0; c < 3; ++c) {
            const S put = q[c] + (S)i * AT(a, 3 * c) + (S)j * AT(a, 3 * c + 1) + (S)k * AT(a, 3 * c + 2);
            ADD(grid_at + node + c, weight * put);
        }
        ADD(grid_at + node + 3, weight * mass);
    }
}
"""

_GATHER = """
    S v[3] = {}, s[3][3] = {};
    NODES
        for (int c = 0; c < 3; ++c) {
            const S put = weight * grid_at[node + c];
            v[c] += put;
            s[c][0] += (S)i * put; s[c][1] += (S)j * put; s[c][2] += (S)k * put;
        }
    }
    for (int c = 0; c < 3; ++c) {
        AT(v_next, c) = v[c];
        AT(x_next, c) = AT(x, c) + DT * v[c];
        for (int d = 0; d < 3; ++d) AT(c_next, 3 * c + d) = S(4) * PER_DX * (s[c][d] - f[d] * v[c]);
    }
}
"""

_GATHER_ADJOINT = """
    S q[3], t[3][3], bar_f[3] = {};
    for (int c = 0; c < 3; ++c) {
        q[c] = AT(bar_v, c) + DT * AT(bar_x, c);
        for (int d = 0; d < 3; ++d) {
            t[c][d] = S(4) * PER_DX * AT(bar_c, 3 * c + d);
            q[c] -= f[d] * t[c][d];
            bar_f[d] -= t[c][d] * AT(v_next, c);
        }
    }
    NODES
        SLOPES
        S h = 0;
        for (int c = 0; c < 3; ++c) {
            const S put = q[c] + (S)i * t[c][0] + (S)j * t[c][1] + (S)k * t[c][2];
            ADD(bar_grid_at + node + c, weight * put);
            h += grid_at[node + c] * put;
        }
        for (int d = 0; d < 3; ++d) bar_f[d] += slope[d] * h;
    }
    for (int d = 0; d < 3; ++d) AT(bar_x, d) += PER_DX * bar_f[d];
}
"""

_SCATTER_ADJOINT = """
    const S mass = AT(figures, 0);
    S q[3], bar_q[3] = {}, t[3][3] = {}, bar_f[3] = {}, bar_mass = 0;
    for (int c = 0; c < 3; ++c) {
        q[c] = mass * AT(v, c);
        for (int d = 0; d < 3; ++d) q[c] -= f[d] * AT(a, 3 * c + d);
    }
    NODES
        SLOPES
        S h = mass * bar_grid_at[node + 3];
        bar_mass += weight * bar_grid_at[node + 3];
        for (int c = 0; c < 3; ++c) {
            const S bar = bar_grid_at[node + c], put = weight * bar;
            bar_q[c] += put;
            t[c][0] += (S)i * put; t[c][1] += (S)j * put; t[c][2] += (S)k * put;
            h += bar * (q[c] + (S)i * AT(a, 3 * c) + (S)j * AT(a, 3 * c + 1) + (S)k * AT(a, 3 * c + 2));
        }
        for (int d = 0; d < 3; ++d) bar_f[d] += slope[d] * h;
    }
    for (int c = 0; c < 3; ++c) {
        bar_mass += bar_q[c] * AT(v, c);
        AT(bar_v, c) = mass * bar_q[c];
        for (int d = 0; d < 3; ++d) {
            AT(bar_a, 3 * c + d) = t[c][d] - f[d] * bar_q[c];
            bar_f[d] -= AT(a, 3 * c + d) * bar_q[c];
        }
    }
    AT(bar_figures, 0) += bar_mass;
    for (int d = 0; d < 3; ++d) AT(bar_x, d) += PER_DX * bar_f[d];
}
"""


@dataclass(frozen=True)
class ThreadKernels:
    """The kernels of a model; each says in its name how many threads an environment takes.

    Attributes:
        model: Grid, ground, tools and particles.
        dtype: "float32" or "float64".
        dt: Substep [s].
        stride: Particles, padded to whole warps.
    """

    model: MpmModel
    dtype: str
    dt: float
    stride: int

    @cached_property
    def reset(self) -> Any:
        """Empties the box: one thread for each environment."""
        return self._kernel("reset", [], 1, _RESET)

    @cached_property
    def search(self) -> Any:
        """Finds the box: x, reach → box, flags; `SEARCHERS` threads for each environment."""
        bits = {"float32": "int", "float64": "long long"}[self.dtype]
        body = _SEARCH.replace("SEARCHERS", str(SEARCHERS)).replace("BITS", bits)
        return self._kernel("search", ["x", "reach", "flags"], SEARCHERS, body)

    @cached_property
    def clear(self) -> Any:
        """Zeroes the box's nodes of `grid`; like the grid operation, with one thread for every node there may be."""
        body = f"{_NODE}    for (int c = 0; c < 4; ++c) grid_at[4 * (size_t)e + c] = 0;\n}}"
        return self._kernel("clear", ["grid"], self.model.node_count, body)

    @cached_property
    def scatter(self) -> Any:
        """Scatters momentum and mass; like the other transfers, with one thread for each particle of `stride`."""
        return self._transfer("scatter", ["x", "v", "a", "figures", "grid"], _SCATTER)

    @cached_property
    def gather(self) -> Any:
        """Gathers velocity and its gradient, and moves: grid, x → x_next, v_next, c_next."""
        return self._transfer("gather", ["grid", "x", "x_next", "v_next", "c_next"], _GATHER)

    @cached_property
    def gather_adjoint(self) -> Any:
        """Adjoint of `gather`: bar_c, bar_v and bar_x (added to), x, v_next, grid → bar_grid."""
        names = ["grid", "x", "v_next", "bar_x", "bar_v", "bar_c", "bar_grid"]
        return self._transfer("gather_adjoint", names, _GATHER_ADJOINT)

    @cached_property
    def scatter_adjoint(self) -> Any:
        """Adjoint of `scatter`: bar_grid, x, v, a, figures → bar_v, bar_a; adds to bar_x and bar_figures."""
        names = ["x", "v", "a", "figures", "bar_grid", "bar_x", "bar_v", "bar_a", "bar_figures"]
        return self._transfer("scatter_adjoint", names, _SCATTER_ADJOINT)

    @cached_property
    def grid(self) -> Any:
        """Grid (momentum, mass) → velocity."""
        return self._grid_kernel("grid", ["grid", "velocity"], adjoint=False)

    @cached_property
    def grid_adjoint(self) -> Any:
        """Adjoint: `bar_grid` from that of velocities to that of momentum and mass; `bar_tools` added to."""
        return self._grid_kernel("grid_adjoint", ["grid", "bar_grid"], adjoint=True)

    def _transfer(self, name: str, arrays: list[str], loop: str) -> Any:
        body = _PLACE + loop.replace("NODES", _NODES).replace("SLOPES", _SLOPES)
        return self._kernel(name, arrays, self.stride, body)

    def _grid_kernel(self, name: str, arrays: list[str], *, adjoint: bool) -> Any:
        tools = self.model.tools
        arrays = [*arrays, *(["tools", "bar_tools"] if tools and adjoint else ["tools"] if tools else [])]
        prelude: list[str] = []
        load = [f"const S momentum_{c} = grid_at[4 * (size_t)e + {c}];" for c in range(3)]
        load += ["const S mass_0 = grid_at[4 * (size_t)e + 3];"]
        load += [f"const S node_{d} = ORIGIN[{d}] + DX * (S)({'ijk'[d]} + box_at[{d}]);" for d in range(3)]
        if adjoint:
            load += [f"const S bar_velocity_{c} = bar_grid_at[4 * (size_t)e + {c}];" for c in range(3)]
        free = self._branch(adjoint, False, prelude)
        lines = [*load, *(self._nearest(free, self._branch(adjoint, True, prelude), prelude) if tools else free), "}"]
        return self._kernel(name, arrays, self.model.node_count, "\n".join([*prelude, _NODE, *lines]))

    def _nearest(self, free: list[str], near: list[str], prelude: list[str]) -> list[str]:
        """Lines that take the short way where no tool reaches, and the nearest tool elsewhere."""
        tools = self.model.tools
        placed = self._printed(place_law(), prelude)
        measured = self._printed(distance_law(tools[0].distance), prelude)
        figures = [repr(figure) for shape in tools for figure in shape.figures]

        def of(tool: str) -> list[str]:
            frame = [f"const S frame_{i} = tools_at[{tool} * {FRAME} + {i}];" for i in range(FRAME)]
            return frame + [f"const S shape_{i} = SHAPES[{tool} * {SHAPE} + {i}];" for i in range(SHAPE)]

        return [
            f"const S SHAPES[{len(figures)}] = {{{', '.join(figures)}}};",
            "int nearest = 0; S least = S(1e30);",
            f"for (int t = 0; t < {len(tools)}; ++t) {{",
            *of("t"),
            f"S place[{PLACE}];",
            "{",
            *placed[0],
            *(f"place[{i}] = {value};" for i, value in enumerate(placed[1]["place"])),
            "}",
            *(f"const S place_{i} = place[{i}];" for i in range(PLACE)),
            *measured[0],
            f"const S found = {measured[1]['distance'][0]};",
            "if (found < least) { least = found; nearest = t; }",
            "}",
            f"if (!(least <= S({tool_reach(self.dtype)!r}))) {{",
            *free,
            "} else {",
            *of("nearest"),
            *near,
            "}",
        ]

    def _branch(self, adjoint: bool, near_tool: bool, prelude: list[str]) -> list[str]:
        law = node_law(self.model, self.dt, near_tool=near_tool)
        if not adjoint:
            lines, results = self._printed(law, prelude)
            out = [*results["velocity"], "S(0)"]
            return [*lines, *(f"velocity_at[4 * (size_t)e + {c}] = {value};" for c, value in enumerate(out))]
        frame = {"frame": replace(law.inputs["momentum"], shape=(FRAME,))} if near_tool else {}
        wrt = ["momentum", "mass", *frame]
        lines, results = self._printed(replace(law, inputs={**law.inputs, **frame}).adjoint(wrt), prelude)
        out = [*results["bar_momentum"], *results["bar_mass"]]
        lines += [f"bar_grid_at[4 * (size_t)e + {c}] = {value};" for c, value in enumerate(out)]
        sums = (
            [f"ADD(bar_tools_at + nearest * {FRAME} + {i}, {bar});" for i, bar in enumerate(results["bar_frame"])]
            if (near_tool)
            else []
        )
        return [*lines, *sums]

    def _printed(self, law: Any, prelude: list[str]) -> tuple[list[str], Any]:
        """A law's statements and results; what it needs beforehand goes to `prelude`."""
        printed = Source(law, self.dtype, 1, cuda=True).statements()
        prelude += [line for line in printed.prelude if line not in prelude and not line.startswith("typedef wp")]
        return [*printed.uniform, *printed.body], printed.results

    def _kernel(self, name: str, arrays: list[str], per_env: int, body: str) -> Any:
        model = self.model
        assert model.origin is not None
        head = _HEAD.format(
            dtype=self.dtype,
            dt=self.dt,
            dx=model.spacing,
            per_dx=1.0 / model.spacing,
            origin=", ".join(map(repr, model.origin)),
            last=", ".join(str(count - 1) for count in model.nodes),
            stride=self.stride,
            capacity=model.node_count,
        )
        owner = f"(size_t)(thread / {per_env})"
        pointers = [f"S* {a}_at = (S*)((char*){a}.data + {owner} * {a}.strides[0]);" for a in arrays]
        pointers.append(f"int* box_at = (int*)((char*)box.data + {owner} * box.strides[0]);")
        parameters = [(a, f"wp.array2d(dtype=wp.{self.dtype})") for a in arrays] + [
            ("box", "wp.array2d(dtype=wp.int32)")
        ]
        return native_kernel(f"mpm_thread_{name}", tuple(parameters), "\n".join([head, *pointers, body]))
