"""Transfers between particles and grid and their adjoints, by hand, for CPU vectors.

A node is four numbers: velocity (or momentum) and mass. A particle touches 3 x 3 rows of four nodes along z, the
fourth with weight zero, and a row is one vector of 16 lanes. Everything scattered to a row, and everything gathered
from one, is affine in the node's offset (i, j, k) from the particle's first node, so each transfer is 9 loads and a few
products: momentum q + i X + j Y + k Z (Hu et al. 2018), and the moments of the velocity. Nodes live in the bounding box
of what the particles touch, [i][j][k][4], found anew in every substep.

Notation: f is the particle's place relative to its first node [cells], w the weights along each axis, w_d their
derivatives, `bar_` adjoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rfo.sim.kernel import native_kernel
from rfo.sim.mpm.model import MpmModel

__all__ = ["BOX", "FLAGS", "Transfers"]

BOX = 8  # integers of a box: first node (3), node counts (3), two spare
FLAGS = 3  # largest reach, particles outside the domain, nodes beyond the box's capacity

_TYPES = """
typedef wp::{dtype} S;
typedef S V __attribute__((ext_vector_type(16), aligned({size})));
typedef S Q __attribute__((ext_vector_type(4), aligned({size})));
const V KZ = {{1.5, 1.5, 1.5, 1.5, 1, 1, 1, 1, .5, .5, .5, .5, 0, 0, 0, 0}};
const V AZ = {{0, 0, 0, 0, .75, .75, .75, .75, 0, 0, 0, 0, 0, 0, 0, 0}};
const V BZ = {{.5, .5, .5, .5, -1, -1, -1, -1, .5, .5, .5, .5, 0, 0, 0, 0}};
const V OZ = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0}};
const S DT = {dt!r}, DX = {dx!r}, PER_DX = {per_dx!r};
const S ORIGIN[3] = {{{origin}}};
const int LAST[3] = {{{last}}};
const int n = element_count, stride = {stride};
auto spread = [](Q q) {{ return __builtin_shufflevector(q, q, 0,1,2,3, 0,1,2,3, 0,1,2,3, 0,1,2,3); }};
auto fold = [](V v) {{
    Q a = __builtin_shufflevector(v, v, 0,1,2,3) + __builtin_shufflevector(v, v, 4,5,6,7);
    return a + __builtin_shufflevector(v, v, 8,9,10,11);
}};
auto total = [](V v) {{
    Q a = __builtin_shufflevector(v, v, 0,1,2,3) + __builtin_shufflevector(v, v, 4,5,6,7);
    a += __builtin_shufflevector(v, v, 8,9,10,11);
    return (a[0] + a[1]) + (a[2] + a[3]);
}};
auto planes = [](S* at, int first, int step, int count) {{
    Q q = 0;
    for (int c = 0; c < 4; ++c) if (c < count) q[c] = at[(first + c * step) * (size_t)stride];
    return q;
}};
"""

# Place, weights and first row of particle p. A particle outside the domain is held at its edge and flagged.
_PLACE = """
    S f[3], wx[3], wy[3];
    int at[3];
    for (int d = 0; d < 3; ++d) {
        const S cell = (x_at[p + d * (size_t)stride] - ORIGIN[d]) * PER_DX;
        int base = (int)(cell - S(.5));
        const int most = box_at[d] + box_at[3 + d] - (d == 2 ? 4 : 3);
        base = base > most ? most : base;
        base = base < box_at[d] ? box_at[d] : base;
        f[d] = cell - (S)base;
        at[d] = base - box_at[d];
    }
    const S x0 = S(1.5) - f[0], x1 = f[0] - S(1), x2 = f[0] - S(.5);
    const S y0 = S(1.5) - f[1], y1 = f[1] - S(1), y2 = f[1] - S(.5);
    wx[0] = S(.5) * x0 * x0; wx[1] = S(.75) - x1 * x1; wx[2] = S(.5) * x2 * x2;
    wy[0] = S(.5) * y0 * y0; wy[1] = S(.75) - y1 * y1; wy[2] = S(.5) * y2 * y2;
    const V tz = f[2] - KZ;
    const V wz = AZ + BZ * tz * tz;
    const size_t row = 4 * (((size_t)at[0] * box_at[4] + at[1]) * box_at[5] + at[2]);
    const size_t step_i = 4 * (size_t)box_at[4] * box_at[5], step_j = 4 * (size_t)box_at[5];
"""

_DERIVATIVES = """
    const S dx_[3] = {-x0, S(-2) * x1, x2}, dy_[3] = {-y0, S(-2) * y1, y2};
    const V dz = S(2) * BZ * tz;
"""

_BOX = """
{
    typedef S W __attribute__((ext_vector_type(16), aligned(SIZE)));
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
        box_at[3 + d] = last - first + (d == 2 ? 4 : 3);
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

_CLEAR = """
for (size_t i = 0, end = 4 * ((size_t)box_at[3] * box_at[4] * box_at[5] + 16); i < end; ++i) {at}[i] = 0;
"""

_SCATTER = """
for (int p = 0; p < n; ++p) {
    PLACE
    const S mass = figures_at[p];
    const Q ax = planes(a_at + p, 0, 3, 3), ay = planes(a_at + p, 1, 3, 3), az = planes(a_at + p, 2, 3, 3);
    Q q = mass * planes(v_at + p, 0, 1, 3) - (f[0] * ax + f[1] * ay + f[2] * az);
    q[3] = mass;
    const V vx = spread(ax) * wz, vy = spread(ay) * wz;
    V v0 = (spread(q) + OZ * spread(az)) * wz;
    for (int i = 0; i < 3; ++i) {
        V r = v0;
        for (int j = 0; j < 3; ++j) {
            V* node = (V*)(grid_at + row + i * step_i + j * step_j);
            *node += (wx[i] * wy[j]) * r;
            r += vy;
        }
        v0 += vx;
    }
}
"""

_GATHER = """
for (int p = 0; p < n; ++p) {
    PLACE
    V s0 = 0, sx = 0, sy = 0;
    for (int i = 0; i < 3; ++i) {
        const S* at_i = grid_at + row + i * step_i;
        const V g0 = *(const V*)at_i, g1 = wy[1] * *(const V*)(at_i + step_j);
        const V g2 = wy[2] * *(const V*)(at_i + 2 * step_j);
        const V r = wx[i] * (wy[0] * g0 + g1 + g2);
        s0 += r;
        sx += S(i) * r;
        sy += wx[i] * (g1 + S(2) * g2);
    }
    s0 *= wz;
    const Q v = fold(s0);
    const S scale = S(4) * PER_DX;
    const Q cz = scale * (fold(s0 * OZ) - f[2] * v);
    const Q cx = scale * (fold(sx * wz) - f[0] * v), cy = scale * (fold(sy * wz) - f[1] * v);
    for (int c = 0; c < 3; ++c) {
        v_next_at[p + c * (size_t)stride] = v[c];
        x_next_at[p + c * (size_t)stride] = x_at[p + c * (size_t)stride] + DT * v[c];
        c_next_at[p + (3 * c + 0) * (size_t)stride] = cx[c];
        c_next_at[p + (3 * c + 1) * (size_t)stride] = cy[c];
        c_next_at[p + (3 * c + 2) * (size_t)stride] = cz[c];
    }
}
for (int p = n; p < stride; ++p) {  // what pads the last vector follows the last particle
    for (int c = 0; c < 3; ++c) {
        v_next_at[p + c * (size_t)stride] = v_next_at[n - 1 + c * (size_t)stride];
        x_next_at[p + c * (size_t)stride] = x_next_at[n - 1 + c * (size_t)stride];
    }
    for (int c = 0; c < 9; ++c) c_next_at[p + c * (size_t)stride] = c_next_at[n - 1 + c * (size_t)stride];
}
"""

_GATHER_ADJOINT = """
for (int p = 0; p < n; ++p) {
    PLACE
    DERIVATIVES
    const S scale = S(4) * PER_DX;
    const Q bx = scale * planes(bar_c_at + p, 0, 3, 3), by = scale * planes(bar_c_at + p, 1, 3, 3);
    const Q bz = scale * planes(bar_c_at + p, 2, 3, 3), bar_x = planes(bar_x_at + p, 0, 1, 3);
    const Q u = planes(bar_v_at + p, 0, 1, 3) + DT * bar_x;
    const Q q = u - (f[0] * bx + f[1] * by + f[2] * bz);
    V t0 = spread(q) + OZ * spread(bz);
    const V tx = spread(bx), ty = spread(by);
    V h0 = 0, hx = 0, hy = 0;
    for (int i = 0; i < 3; ++i) {
        V t = t0, hi = 0, hyi = 0;
        for (int j = 0; j < 3; ++j) {
            const size_t node = row + i * step_i + j * step_j;
            const V h = *(const V*)(grid_at + node) * t;
            hi += wy[j] * h;
            hyi += dy_[j] * h;
            *(V*)(bar_grid_at + node) += (wx[i] * wy[j]) * (wz * t);
            t += ty;
        }
        h0 += wx[i] * hi;
        hx += dx_[i] * hi;
        hy += wx[i] * hyi;
        t0 += tx;
    }
    const Q v = planes(v_next_at + p, 0, 1, 3);
    const Q ex = bx * v, ey = by * v, ez = bz * v;
    bar_x_at[p] = bar_x[0] + PER_DX * (total(hx * wz) - (ex[0] + ex[1] + ex[2]));
    bar_x_at[p + (size_t)stride] = bar_x[1] + PER_DX * (total(hy * wz) - (ey[0] + ey[1] + ey[2]));
    bar_x_at[p + 2 * (size_t)stride] = bar_x[2] + PER_DX * (total(h0 * dz) - (ez[0] + ez[1] + ez[2]));
}
"""

_SCATTER_ADJOINT = """
for (int p = 0; p < n; ++p) {
    PLACE
    DERIVATIVES
    const S mass = figures_at[p];
    const Q ax = planes(a_at + p, 0, 3, 3), ay = planes(a_at + p, 1, 3, 3), az = planes(a_at + p, 2, 3, 3);
    const Q v = planes(v_at + p, 0, 1, 3);
    Q q = mass * v - (f[0] * ax + f[1] * ay + f[2] * az);
    q[3] = mass;
    V t0 = spread(q) + OZ * spread(az);
    const V tx = spread(ax), ty = spread(ay);
    V h0 = 0, hx = 0, hy = 0, s0 = 0, sx = 0, sy = 0;
    for (int i = 0; i < 3; ++i) {
        V t = t0, hi = 0, hyi = 0, r = 0, ry = 0;
        for (int j = 0; j < 3; ++j) {
            const V b = *(const V*)(bar_grid_at + row + i * step_i + j * step_j);
            const V h = b * t, wb = wy[j] * b;
            hi += wy[j] * h;
            hyi += dy_[j] * h;
            r += wb;
            ry += S(j) * wb;
            t += ty;
        }
        h0 += wx[i] * hi;
        hx += dx_[i] * hi;
        hy += wx[i] * hyi;
        r *= wx[i];
        s0 += r;
        sx += S(i) * r;
        sy += wx[i] * ry;
        t0 += tx;
    }
    s0 *= wz;
    const Q bar_q = fold(s0);
    const Q cz = fold(s0 * OZ) - f[2] * bar_q;
    const Q cx = fold(sx * wz) - f[0] * bar_q, cy = fold(sy * wz) - f[1] * bar_q;
    const Q qx = ax * bar_q, qy = ay * bar_q, qz = az * bar_q;
    bar_x_at[p] += PER_DX * (total(hx * wz) - (qx[0] + qx[1] + qx[2]));
    bar_x_at[p + (size_t)stride] += PER_DX * (total(hy * wz) - (qy[0] + qy[1] + qy[2]));
    bar_x_at[p + 2 * (size_t)stride] += PER_DX * (total(h0 * dz) - (qz[0] + qz[1] + qz[2]));
    for (int c = 0; c < 3; ++c) {
        bar_v_at[p + c * (size_t)stride] = mass * bar_q[c];
        bar_a_at[p + (3 * c + 0) * (size_t)stride] = cx[c];
        bar_a_at[p + (3 * c + 1) * (size_t)stride] = cy[c];
        bar_a_at[p + (3 * c + 2) * (size_t)stride] = cz[c];
    }
    bar_mass_at[p] = bar_q[0] * v[0] + bar_q[1] * v[1] + bar_q[2] * v[2] + bar_q[3];
}
"""


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
        """Finds the box and scatters momentum and mass: x, v, a, figures, reach → grid, box, flags."""
        return self._kernel("scatter", ["x", "v", "a", "figures", "reach", "grid", "flags"], _BOX, "grid", _SCATTER)

    @cached_property
    def gather(self) -> Any:
        """Gathers velocity and its gradient, and moves: grid, x → x_next, v_next, c_next."""
        return self._kernel("gather", ["grid", "x", "x_next", "v_next", "c_next"], "", "", _GATHER)

    @cached_property
    def gather_adjoint(self) -> Any:
        """Adjoint of `gather`: bar_c, bar_v and bar_x (replaced), x, v_next, grid → bar_grid."""
        names = ["grid", "x", "v_next", "bar_x", "bar_v", "bar_c", "bar_grid"]
        return self._kernel("gather_adjoint", names, "", "bar_grid", _GATHER_ADJOINT)

    @cached_property
    def scatter_adjoint(self) -> Any:
        """Adjoint of `scatter`: bar_grid, x, v, a, figures → bar_v, bar_a, bar_mass; added to bar_x."""
        names = ["x", "v", "a", "figures", "bar_grid", "bar_x", "bar_v", "bar_a", "bar_mass"]
        return self._kernel("scatter_adjoint", names, "", "", _SCATTER_ADJOINT)

    def _kernel(self, name: str, arrays: list[str], first: str, cleared: str, loop: str) -> Any:
        model, size = self.model, {"float32": 4, "float64": 8}[self.dtype]
        assert model.origin is not None
        types = _TYPES.format(
            dtype=self.dtype,
            size=size,
            dt=self.dt,
            dx=model.spacing,
            per_dx=1.0 / model.spacing,
            origin=", ".join(map(repr, model.origin)),
            last=", ".join(str(count - 1) for count in model.nodes),
            stride=self.stride,
        )
        pointers = [f"S* {a}_at = (S*)((char*){a}.data + thread * (size_t){a}.strides[0]);" for a in arrays]
        pointers.append("int* box_at = (int*)((char*)box.data + thread * (size_t)box.strides[0]);")
        body = first.replace("SIZE", str(size)).replace("CAPACITY", str(self.capacity))
        body += _CLEAR.replace("{at}", f"{cleared}_at") if cleared else ""
        body += loop.replace("PLACE", _PLACE).replace("DERIVATIVES", _DERIVATIVES)
        parameters = [(a, f"wp.array2d(dtype=wp.{self.dtype})") for a in arrays] + [("box", "wp.array2d(dtype=wp.int32)")]
        return native_kernel(f"mpm_{name}", tuple(parameters), types + "\n".join(pointers) + body)
