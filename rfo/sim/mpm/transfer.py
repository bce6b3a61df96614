"""Transfers between particles and grid and their adjoints, by hand, for CPU vectors.

A node is four numbers: velocity (or momentum) and mass. A particle touches 3 x 3 rows of four nodes along z, the
fourth with weight zero, and a row is one vector of 16 lanes. Everything scattered to a row, and everything gathered
from one, is affine in the node's offset (i, j, k) from the particle's first node, so each transfer is 9 loads and a few
products: momentum q + i X + j Y + k Z (Hu et al. 2018), and the moments of the velocity.

Nodes live in the bounding box of what the particles touch, [i][j][k][4], found anew in every substep. Of the box only
the quads, rows of four nodes, that a particle touches are cleared, moved and read: a few drops that fly apart make a
box twenty times as large as what it holds.

Notation: f is the particle's place relative to its first node [cells], w the weights along each axis, w_d their
derivatives, `bar_` adjoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rfo.sim.emit import CPU_PROLOGUE, native_kernel
from rfo.sim.mpm.model import MpmModel

__all__ = ["BOX", "FLAGS", "Cover", "Transfers", "bindings"]

BOX = 8  # integers of a box: first node (3), node counts (3; along z whole quads), number of quads touched, one spare
FLAGS = 3  # largest reach, particles outside the domain, nodes beyond the box's capacity

_TYPES = """
typedef wp::{dtype} S;
typedef S V __attribute__((ext_vector_type(16), aligned({size})));
typedef int I __attribute__((ext_vector_type(16)));
const V KZ = {{1.5, 1.5, 1.5, 1.5, 1, 1, 1, 1, .5, .5, .5, .5, 0, 0, 0, 0}};
const V AZ = {{0, 0, 0, 0, .75, .75, .75, .75, 0, 0, 0, 0, 0, 0, 0, 0}};
const V BZ = {{.5, .5, .5, .5, -1, -1, -1, -1, .5, .5, .5, .5, 0, 0, 0, 0}};
const V OZ = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0}};
const S DT = {dt!r}, PER_DX = {per_dx!r};
const S ORIGIN[3] = {{{origin}}};
const int LAST[3] = {{{last}}};
const int n = element_count, stride = {stride};
// Four numbers in memory, four times over.
auto spread = [](const S* at) {{
    typedef S Q __attribute__((ext_vector_type(4), aligned({size})));
    const Q q = *(const Q*)at;
    return __builtin_shufflevector(q, q, 0,1,2,3, 0,1,2,3, 0,1,2,3, 0,1,2,3);
}};
// Sums over k of four vectors [k][4], one after the other.
auto sum_k = [](V a, V b, V c, V d) {{
    const V u = __builtin_shufflevector(a, b, 0,1,2,3, 8,9,10,11, 16,17,18,19, 24,25,26,27)
        + __builtin_shufflevector(a, b, 4,5,6,7, 12,13,14,15, 20,21,22,23, 28,29,30,31);
    const V w = __builtin_shufflevector(c, d, 0,1,2,3, 8,9,10,11, 16,17,18,19, 24,25,26,27)
        + __builtin_shufflevector(c, d, 4,5,6,7, 12,13,14,15, 20,21,22,23, 28,29,30,31);
    return __builtin_shufflevector(u, w, 0,1,2,3, 8,9,10,11, 16,17,18,19, 24,25,26,27)
        + __builtin_shufflevector(u, w, 4,5,6,7, 12,13,14,15, 20,21,22,23, 28,29,30,31);
}};
// Of three rows: their sum by weights, 16 apart, and that by the weights times 0, 1, 2; the fourth is twice the third.
auto sum = [](const S* weights, const V* rows) {{
    return weights[0] * rows[0] + (weights[16] * rows[1] + weights[32] * rows[2]);
}};
auto moments = [](const S* weights, const V* rows, V& zeroth, V& first) {{
    const V middle = weights[16] * rows[1];
    zeroth = weights[0] * rows[0] + (weights[32] * rows[2] + middle);
    first = weights[48] * rows[2] + middle;
}};
// 16 x 16 numbers transposed: each pass rotates the eight bits of (row, column) by one.
auto transpose = [](V* rows) {{
    for (int pass = 0; pass < 4; ++pass) {{
        V t[16];
        for (int i = 0; i < 8; ++i) {{
            t[2 * i] = __builtin_shufflevector(
                rows[i], rows[i + 8], 0,16, 1,17, 2,18, 3,19, 4,20, 5,21, 6,22, 7,23);
            t[2 * i + 1] = __builtin_shufflevector(
                rows[i], rows[i + 8], 8,24, 9,25, 10,26, 11,27, 12,28, 13,29, 14,30, 15,31);
        }}
        for (int i = 0; i < 16; ++i) rows[i] = t[i];
    }}
}};
#define AT(name, c) (*(V*)(name##_at + b + (c) * (size_t)stride))
"""

# Places, weights and first rows of the 16 particles from b on. Whatever lies outside the box is held at its edge (and
# was flagged when the box was found). `record` holds 16 numbers for each particle.
_BLOCK = """
V record[16];
S* const records = (S*)record;
for (int l = 0; l < 16; ++l) record[l] = 0;
const size_t step_j = 4 * (size_t)box_at[5], step_i = step_j * box_at[4];
for (int b = 0; b < n; b += 16) {
    const int many = n - b < 16 ? n - b : 16;
    V f[3], ww[9], wx[4], wy[4];
    I first[3];
    for (int d = 0; d < 3; ++d) {
        const V cell = (AT(x, d) - ORIGIN[d]) * PER_DX;
        I base = __builtin_convertvector(cell - S(.5), I);
        base = __builtin_elementwise_min(base, (I)(box_at[d] + box_at[3 + d] - (d == 2 ? 4 : 3)));
        base = __builtin_elementwise_max(base, (I)box_at[d]);
        f[d] = cell - __builtin_convertvector(base, V);
        first[d] = base - box_at[d];
    }
    const I row = 4 * ((first[0] * box_at[4] + first[1]) * box_at[5] + first[2]);
    const V x0 = S(1.5) - f[0], x1 = f[0] - S(1), x2 = f[0] - S(.5);
    const V y0 = S(1.5) - f[1], y1 = f[1] - S(1), y2 = f[1] - S(.5);
    wx[0] = S(.5) * x0 * x0; wx[1] = S(.75) - x1 * x1; wx[2] = S(.5) * x2 * x2;
    wx[3] = x2 * x2; wy[3] = y2 * y2;
    wy[0] = S(.5) * y0 * y0; wy[1] = S(.75) - y1 * y1; wy[2] = S(.5) * y2 * y2;
    #pragma unroll
    for (int ij = 0; ij < 9; ++ij) ww[ij] = wx[ij / 3] * wy[ij % 3];
    const S* const fz = (const S*)(f + 2);
    const S *const wx_ = (const S*)wx, *const wy_ = (const S*)wy, *const ww_ = (const S*)ww;
    const int* const rows = (const int*)&row;
"""

_DERIVATIVES = """
    const V dx[4] = {-x0, S(-2) * x1, x2, x2 + x2}, dy[4] = {-y0, S(-2) * y1, y2, y2 + y2};
    const S *const dx_ = (const S*)dx, *const dy_ = (const S*)dy;
"""

# What a particle gives its nodes: momentum at the block's corner, its slopes, and mass; a row for each particle.
_RECORD = """
    const V mass = AT(figures, 0);
    for (int c = 0; c < 3; ++c) {
        const V ax = AT(a, 3 * c), ay = AT(a, 3 * c + 1), az = AT(a, 3 * c + 2);
        record[c] = mass * AT(v, c) - (f[0] * ax + f[1] * ay + f[2] * az);
        record[4 + c] = ax;
        record[8 + c] = ay;
        record[12 + c] = az;
    }
    record[3] = mass;
    record[7] = record[11] = record[15] = 0;
    transpose(record);
"""

_WEIGHTS_Z = """
        const V tz = fz[l] - KZ;
        const V wz = AZ + BZ * tz * tz;
"""

_FRAGMENTS = {"BLOCK": _BLOCK, "DERIVATIVES": _DERIVATIVES, "RECORD": _RECORD, "WEIGHTS_Z": _WEIGHTS_Z}

_BOX = """
{
    typedef V W;
    int outside = 0;
    for (int d = 0; d < 3; ++d) {
        const S* at = x_at + d * (size_t)stride;
        W low = *(const W*)at, high = low;
        for (int p = 16; p < stride; p += 16) {
            const W v = *(const W*)(at + p);
            low = __builtin_elementwise_min(low, v);
            high = __builtin_elementwise_max(high, v);
        }
        S least = low[0], most = high[0];
        for (int l = 1; l < 16; ++l) {
            least = low[l] < least ? low[l] : least;
            most = high[l] > most ? high[l] : most;
        }
        // The comparisons are false for a NaN, which must not become an index.
        least = (least - ORIGIN[d]) * PER_DX - S(.5);
        most = (most - ORIGIN[d]) * PER_DX - S(.5);
        outside |= !(least >= 0 && most < (S)(LAST[d] - 2));
        const int first = least >= 0 ? (least < (S)(LAST[d] - 3) ? (int)least : LAST[d] - 3) : 0;
        const int last = most >= (S)first ? (most < (S)(LAST[d] - 3) ? (int)most : LAST[d] - 3) : first;
        box_at[d] = first;
        box_at[3 + d] = d == 2 ? (last - first + 7) / 4 * 4 : last - first + 3;
    }
    const int layer = box_at[4] * box_at[5], wanted = box_at[3] * layer;
    if (wanted > CAPACITY) box_at[3] = CAPACITY / layer;
    W reach = *(const W*)reach_at;
    for (int p = 16; p < stride; p += 16) reach = __builtin_elementwise_max(reach, *(const W*)(reach_at + p));
    S most = reach[0];
    for (int l = 1; l < 16; ++l) most = reach[l] > most ? reach[l] : most;
    flags_at[0] = flags_at[0] > most ? flags_at[0] : most;
    flags_at[1] += outside;
    flags_at[2] += wanted > CAPACITY;
}
"""

# Which quads are touched: a byte for each, [j][quad][i], is set at the first nodes of the particles and counts for the
# two rows and layers that follow. The list is in the same order, so neighbours in it are neighbours in a plane of x and
# z; the quad that ends it is past the box, for vectors to be filled up with.
_COVER = """
{
    typedef unsigned long long Word __attribute__((aligned(1), may_alias));
    const int nx = box_at[3], ny = box_at[4], quads = box_at[5] / 4;
    const int row = (nx + 7) / 8 * 8, layer = quads * row;
    Word* const words = (Word*)marks_at;
    for (int w = 0, end = 1 + (2 + ny) * layer / 8; w < end; ++w) words[w] = 0;
    unsigned char* const marks = (unsigned char*)(words + 1) + 2 * layer;
    for (int b = 0; b < n; b += 16) {
        I first[3];
        for (int d = 0; d < 3; ++d) {
            I base = __builtin_convertvector((AT(x, d) - ORIGIN[d]) * PER_DX - S(.5), I);
            base = __builtin_elementwise_min(base, (I)(box_at[d] + box_at[3 + d] - (d == 2 ? 4 : 3)));
            first[d] = __builtin_elementwise_max(base, (I)box_at[d]) - box_at[d];
        }
        const I at = (first[1] * quads + (first[2] >> 2)) * row + first[0];
        const I also = at + (((first[2] + 3) >> 2) - (first[2] >> 2)) * row;
        #pragma unroll
        for (int l = 0; l < 16; ++l) marks[at[l]] = marks[also[l]] = 1;
    }
    int count = 0;
    for (int jq = 0; jq < ny * quads; ++jq)
        for (int w = 0; w < row; w += 8) {
            Word word = 0;
            for (int j = 0; j < 3; ++j)
                for (int i = 0; i < 3; ++i) word |= *(const Word*)(marks + jq * row + w - j * layer - i);
            if (!word) continue;
            for (int i = 0; i < 8; ++i) {
                quads_at[count] = (w + i) * (ny * quads) + jq;
                count += (word >> (8 * i)) & 1;
            }
        }
    box_at[6] = count;
    for (int l = 0; l < 4; ++l) quads_at[count + l] = nx * ny * quads;
}
"""

_CLEAR = """
for (int e = 0, end = box_at[6]; e <= end; ++e) *(V*)({at} + 16 * (size_t)quads_at[e]) = 0;
"""

_SCATTER = """
    BLOCK
    RECORD
    for (int l = 0; l < many; ++l) {
        WEIGHTS_Z
        const S* const r = records + 16 * l;
        const V vx = spread(r + 4) * wz, vy = spread(r + 8) * wz;
        V v0 = (spread(r) + OZ * spread(r + 12)) * wz;
        S* const node = grid_at + rows[l];
        #pragma unroll
        for (int i = 0; i < 3; ++i) {
            V u = v0;
            #pragma unroll
            for (int j = 0; j < 3; ++j) {
                *(V*)(node + i * step_i + j * step_j) += ww_[16 * (3 * i + j) + l] * u;
                u += vy;
            }
            v0 += vx;
        }
    }
}
"""

_GATHER = """
    BLOCK
    for (int l = 0; l < 16; ++l) {
        WEIGHTS_Z
        const S* const node = grid_at + rows[l];
        V row[3], arm[3], s0, sx;
        #pragma unroll
        for (int i = 0; i < 3; ++i) {
            const S* const at = node + i * step_i;
            const V v[3] = {*(const V*)at, *(const V*)(at + step_j), *(const V*)(at + 2 * step_j)};
            moments(wy_ + l, v, row[i], arm[i]);
        }
        moments(wx_ + l, row, s0, sx);
        const V sy = sum(wx_ + l, arm);
        s0 *= wz;
        record[l] = sum_k(s0, sx * wz, sy * wz, s0 * OZ);
    }
    transpose(record);
    const S scale = S(4) * PER_DX;
    for (int c = 0; c < 3; ++c) {
        const V v = record[c];
        AT(v_next, c) = v;
        AT(x_next, c) = AT(x, c) + DT * v;
        for (int d = 0; d < 3; ++d) AT(c_next, 3 * c + d) = scale * (record[4 + 4 * d + c] - f[d] * v);
    }
}
"""

_GATHER_ADJOINT = """
    BLOCK
    DERIVATIVES
    const S scale = S(4) * PER_DX;
    V bar_f[3] = {};
    for (int c = 0; c < 3; ++c) {
        V q = AT(bar_v, c) + DT * AT(bar_x, c);
        for (int d = 0; d < 3; ++d) {
            const V bar = scale * AT(bar_c, 3 * c + d);
            q -= f[d] * bar;
            bar_f[d] -= bar * AT(v_next, c);
            record[4 + 4 * d + c] = bar;
        }
        record[c] = q;
    }
    record[3] = record[7] = record[11] = record[15] = 0;
    transpose(record);
    for (int l = 0; l < many; ++l) {
        WEIGHTS_Z
        const S* const r = records + 16 * l;
        const V tx = spread(r + 4), ty = spread(r + 8);
        V t0 = spread(r) + OZ * spread(r + 12), h0, hx, hy;
        const V wty = wz * ty;
        const size_t node = rows[l];
        #pragma unroll
        for (int i = 0; i < 3; ++i) {
            V t = t0, wt = wz * t0, hi, hyi;
            #pragma unroll
            for (int j = 0; j < 3; ++j) {
                const size_t at = node + i * step_i + j * step_j;
                const V h = *(const V*)(grid_at + at) * t;
                hi = j ? hi + wy_[16 * j + l] * h : wy_[l] * h;
                hyi = j ? hyi + dy_[16 * j + l] * h : dy_[l] * h;
                *(V*)(bar_grid_at + at) += ww_[16 * (3 * i + j) + l] * wt;
                t += ty;
                wt += wty;
            }
            h0 = i ? h0 + wx_[16 * i + l] * hi : wx_[l] * hi;
            hx = i ? hx + dx_[16 * i + l] * hi : dx_[l] * hi;
            hy = i ? hy + wx_[16 * i + l] * hyi : wx_[l] * hyi;
            t0 += tx;
        }
        record[l] = sum_k(hx * wz, hy * wz, S(2) * h0 * (BZ * tz), 0);
    }
    transpose(record);
    for (int d = 0; d < 3; ++d) {
        bar_f[d] += (record[4 * d] + record[4 * d + 1]) + record[4 * d + 2];
        AT(bar_x, d) += PER_DX * bar_f[d];
    }
}
"""

_SCATTER_ADJOINT = """
    BLOCK
    DERIVATIVES
    RECORD
    V slope[16];
    for (int l = 0; l < 16; ++l) {
        WEIGHTS_Z
        const S* const r = records + 16 * l;
        const V tx = spread(r + 4), ty = spread(r + 8);
        const V t0 = spread(r) + OZ * spread(r + 12);
        const S* const node = bar_grid_at + rows[l];
        V row[3], arm[3], row_y[3], arm_y[3], s0, sx, s0_x, sx_x, s0_y, sx_y;
        #pragma unroll
        for (int i = 0; i < 3; ++i) {
            const S* const at = node + i * step_i;
            const V bar[3] = {*(const V*)at, *(const V*)(at + step_j), *(const V*)(at + 2 * step_j)};
            moments(wy_ + l, bar, row[i], arm[i]);
            moments(dy_ + l, bar, row_y[i], arm_y[i]);
        }
        moments(wx_ + l, row, s0, sx);
        moments(dx_ + l, row, s0_x, sx_x);
        moments(wx_ + l, row_y, s0_y, sx_y);
        const V sy = sum(wx_ + l, arm), sy_x = sum(dx_ + l, arm), sy_y = sum(wx_ + l, arm_y);
        const V h0 = t0 * s0 + (tx * sx + ty * sy);
        const V hx = t0 * s0_x + (tx * sx_x + ty * sy_x), hy = t0 * s0_y + (tx * sx_y + ty * sy_y);
        s0 *= wz;
        record[l] = sum_k(s0, sx * wz, sy * wz, s0 * OZ);
        slope[l] = sum_k(hx * wz, hy * wz, S(2) * h0 * (BZ * tz), 0);
    }
    transpose(record);
    transpose(slope);
    V bar_f[3], bar_mass = record[3];
    for (int d = 0; d < 3; ++d)
        bar_f[d] = (slope[4 * d] + slope[4 * d + 1]) + (slope[4 * d + 2] + slope[4 * d + 3]);
    for (int c = 0; c < 3; ++c) {
        const V bar_q = record[c];
        bar_mass += bar_q * AT(v, c);
        AT(bar_v, c) = mass * bar_q;
        for (int d = 0; d < 3; ++d) {
            AT(bar_a, 3 * c + d) = record[4 + 4 * d + c] - f[d] * bar_q;
            bar_f[d] -= AT(a, 3 * c + d) * bar_q;
        }
    }
    AT(bar_figures, 0) += bar_mass;
    for (int d = 0; d < 3; ++d) AT(bar_x, d) += PER_DX * bar_f[d];
}
"""


def bindings(
    arrays: Sequence[str], integers: Sequence[str], dtype: str
) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Parameters of a kernel, and lines that point `NAME_at` to the row of this thread's environment in each."""
    kinds = [(a, dtype, "S") for a in arrays] + [(a, "int32", "int") for a in integers]
    parameters = tuple((a, f"wp.array2d(dtype=wp.{kind})") for a, kind, _ in kinds)
    return parameters, [
        f"{number}* {a}_at = ({number}*)((char*){a}.data + thread * (size_t){a}.strides[0]);" for a, _, number in kinds
    ]


@dataclass(frozen=True)
class Cover:
    """How large the grid and the list of its quads may become.

    Attributes:
        model: Grid.
    """

    model: MpmModel

    @property
    def nodes(self) -> int:
        """Nodes of the largest box, and one quad past it."""
        x, y, z = self.model.nodes
        return 4 * (x * y * ((z + 3) // 4) + 1)

    @property
    def quads(self) -> int:
        """Entries of the list, with what fills up the last vector and what is written before it is known to be used."""
        return self.nodes // 4 + 16

    @property
    def marks(self) -> int:
        """Integers that hold a byte for each quad, rows along x of whole words, two empty layers and a word before."""
        x, y, z = self.model.nodes
        return 2 + 2 * ((2 + y) * ((z + 3) // 4) * ((x + 7) // 8))


@dataclass(frozen=True)
class Transfers:
    """The four transfer kernels of a model.

    Attributes:
        model: Grid and particles.
        dtype: "float32" or "float64".
        dt: Substep [s].
        stride: Particles, padded to whole vectors.
        capacity: Nodes that a box may hold.
    """

    model: MpmModel
    dtype: str
    dt: float
    stride: int
    capacity: int

    @cached_property
    def scatter(self) -> Any:
        """Finds box and quads and scatters momentum and mass: x, v, a, figures, reach → grid, box, quads, flags."""
        names = ["x", "v", "a", "figures", "reach", "grid", "flags"]
        return self._kernel("scatter", names, _BOX + _COVER, "grid", _SCATTER, ["quads", "marks"])

    @cached_property
    def gather(self) -> Any:
        """Gathers velocity and its gradient, and moves: grid, x → x_next, v_next, c_next."""
        return self._kernel("gather", ["grid", "x", "x_next", "v_next", "c_next"], "", "", _GATHER)

    @cached_property
    def gather_adjoint(self) -> Any:
        """Adjoint of `gather`: bar_c, bar_v and bar_x (replaced), x, v_next, grid → bar_grid."""
        names = ["grid", "x", "v_next", "bar_x", "bar_v", "bar_c", "bar_grid"]
        return self._kernel("gather_adjoint", names, "", "bar_grid", _GATHER_ADJOINT, ["quads"])

    @cached_property
    def scatter_adjoint(self) -> Any:
        """Adjoint of `scatter`: bar_grid, x, v, a, figures → bar_v, bar_a; adds to bar_x and bar_figures."""
        names = ["x", "v", "a", "figures", "bar_grid", "bar_x", "bar_v", "bar_a", "bar_figures"]
        return self._kernel("scatter_adjoint", names, "", "", _SCATTER_ADJOINT)

    def _kernel(
        self, name: str, arrays: list[str], first: str, cleared: str, loop: str, integers: Sequence[str] = ()
    ) -> Any:
        model, size = self.model, {"float32": 4, "float64": 8}[self.dtype]
        assert model.origin is not None
        types = _TYPES.format(
            dtype=self.dtype,
            size=size,
            dt=self.dt,
            per_dx=1.0 / model.spacing,
            origin=", ".join(map(repr, model.origin)),
            last=", ".join(str(count - 1) for count in model.nodes),
            stride=self.stride,
        )
        parameters, pointers = bindings(arrays, [*integers, "box"], self.dtype)
        body = first.replace("CAPACITY", str(self.capacity))
        body += _CLEAR.replace("{at}", f"{cleared}_at") if cleared else ""
        for key, fragment in _FRAGMENTS.items():
            loop = loop.replace(key, fragment)
        body += loop
        return native_kernel(f"mpm_{name}", parameters, f"{CPU_PROLOGUE}\n{types}" + "\n".join(pointers) + body)
