"""What keeps the parts of a soft body out of each other: a spring between surface vertices that come near.

Which pairs are near differs from lane to lane and from substep to substep. Listing them would take memory that a
recorded schedule cannot grow, and the adjoint would need the list again. Instead the surface is cut, at rest, into
patches of eight vertices. Each substep bounds every patch by a ball, and only where the boxes of two patches meet, in
any environment of the pack, are their vertices compared: no list that could be too short or out of date, nothing to
keep, and the adjoint walks the same way. The law is zero beyond its reach, so what is skipped changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp

from rfo.core.errors import UsageError
from rfo.sim.emit import CPU_PROLOGUE, Source, native_kernel
from rfo.sim.fem.contact import ramped
from rfo.sim.kernel import Corners, Item, Kernel, Law, Uniform
from rfo.sim.trace import maximum, minimum, sqrt, tanh

__all__ = ["PATCH", "Patches", "SelfContact", "SelfContactKernels", "pair_law", "patch_law"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PATCH = 8
"""Vertices of a patch; the pairs between two patches are the bits of one 64-bit number."""

COMPARISONS = 6
"""Of two boxes."""

RAMP_SHARE = 0.25
"""Share of the radius over which the spring reaches its stiffness: without a ramp the force would have a kink."""


@dataclass(frozen=True)
class SelfContact:
    """How parts of a body's surface keep their distance: a penalty between vertices.

    The force acts along the line between two vertices, so that momentum and angular momentum are conserved; friction
    would not, and there is none.

    Attributes:
        stiffness: Spring of a pair of vertices [N/m].
        damping: Damping, as a share of the spring force per speed at which the pair separates [s/m]; the force is
            never negative, and at most doubled.
        radius: Distance at which the spring sets in [m]; None for three quarters of the surface's mean edge, which
            closes the gaps between the vertices. Pairs closer than that at rest keep at their distance at rest.
        hops: Vertices at most so many edges apart never touch each other: the material between them is what keeps
            them apart.
    """

    stiffness: float
    damping: float = 1.0
    radius: float | None = None
    hops: int = 3

    def __post_init__(self) -> None:
        if self.hops < 1 or (self.radius is not None and self.radius <= 0.0):
            raise UsageError(
                f"self-contact takes at least 1 hop and a positive radius, got {self.hops} and {self.radius}"
            )


def pair_law(radius: float) -> Law:
    """Forces of two vertices on each other [N], added to `f`.

    With r = x₀ - x₁, d = |r| and the depth of penetration R - d, the force on the first is k s (1 - tanh(c ḋ)) r / d,
    where s is the depth past a ramp (`ramped`): smooth, central, and never attracting.

    Arguments of the law: positions `x` [m] and velocities `v` [m/s] of both, `reach`, the distance R at which they
    touch [m], and for all pairs `self_contact`: stiffness k [N/m] and damping c [s/m].

    Args:
        radius: `SelfContact.radius` [m].
    """

    def forces(x: Any, v: Any, reach: Any, self_contact: Any) -> dict[str, Any]:
        arm = x[0] - x[1]
        distance = sqrt((arm * arm).sum() + (1e-6 * radius) ** 2)
        normal = arm * (1.0 / distance)
        spring = self_contact[0] * ramped(maximum(reach - distance, 0.0), RAMP_SHARE * radius)
        apart = ((v[0] - v[1]) * normal).sum()
        push = (spring * (1.0 - tanh(self_contact[1] * apart))) * normal
        return {"f": np.stack([push, -push])}

    inputs = {
        "x": Corners((2, 3), "pairs"),
        "v": Corners((2, 3), "pairs"),
        "reach": Uniform(),
        "self_contact": Uniform((2,)),
    }
    return Law("self_contact", forces, inputs, {"f": Corners((2, 3), "pairs")})


def block_law() -> Law:
    """Bounds a block of patches: `block_boxes` holds the least and largest coordinates of its patches' `boxes` [m]."""

    def bound(boxes: Any) -> dict[str, Any]:
        return {"block_boxes": np.concatenate([reduce(minimum, boxes[:, :3]), reduce(maximum, boxes[:, 3:])])}

    inputs = {"boxes": Corners((PATCH, 6), "block_members")}
    return Law("patch_block", bound, inputs, {"block_boxes": Item((6,))})


def patch_law(radius: float) -> Law:
    """Bounds a patch: `boxes` is the least and largest coordinates of its vertices `x`, wider by half a radius [m]."""

    def bound(x: Any) -> dict[str, Any]:
        low, high = reduce(minimum, x), reduce(maximum, x)
        return {"boxes": np.concatenate([low - 0.5 * radius, high + 0.5 * radius])}

    return Law("patch", bound, {"x": Corners((PATCH, 3), "members")}, {"boxes": Item((6,))})


@dataclass(frozen=True)
class Patches:
    """A surface cut into patches, and which of their vertices can touch.

    Attributes:
        members: Vertices of each patch, the last one repeated where there are fewer, shape [patch_count, PATCH].
        pairs: Patches of which vertices can touch, a pair of blocks (PATCH patches each) after the other, shape
            [pair_count, 2].
        masks: Bit PATCH i + j of entry p says whether member i of pairs[p, 0] and member j of pairs[p, 1] can touch;
            uint64, shape [pair_count].
        radius: Distance at which the spring sets in [m].
    """

    members: Ints
    pairs: Ints
    masks: npt.NDArray[np.uint64]
    radius: float

    @classmethod
    def of(cls, vertices: Floats, tets: Ints, faces: Ints, contact: SelfContact) -> Patches:
        """Cuts the surface of a body.

        Args:
            vertices: Rest positions [m], shape [V, 3].
            tets: Tetrahedra, shape [T, 4].
            faces: Triangles of the surface, shape [F, 3].
            contact: Radius and hops.
        """
        members = _halved(np.unique(faces), vertices)
        count = len(members)
        first, second = np.triu_indices(count)
        # A vertex that fills up a patch has no place of its own, and no bits.
        held = np.array([len(set(patch)) for patch in members.tolist()])
        i, j = np.divmod(np.arange(PATCH * PATCH), PATCH)
        allowed = (i < held[first][:, None]) & (j < held[second][:, None]) & ((first < second)[:, None] | (i < j))
        masks = (allowed.astype(np.uint64) << np.arange(PATCH * PATCH, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
        place = np.full(len(vertices), -1)
        for column in reversed(range(PATCH)):  # the first place of a repeated vertex is its own
            place[members[:, column]] = np.arange(count) * PATCH + column
        near = place[_within(tets, np.unique(faces), contact.hops, len(vertices))]
        near = near[(near >= 0).all(axis=1)]
        (a, i), (b, j) = np.divmod(near[:, 0], PATCH), np.divmod(near[:, 1], PATCH)
        ordered = a <= b  # `near` holds every pair both ways
        a, i, b, j = a[ordered], i[ordered], b[ordered], j[ordered]
        entry = a * count - a * (a - 1) // 2 + b - a
        bits = np.uint64(1) << (PATCH * i + j).astype(np.uint64)
        np.bitwise_and.at(masks, entry, ~bits)
        kept = np.flatnonzero(masks)
        kept = kept[np.lexsort((second[kept] // PATCH, first[kept] // PATCH))]  # a pair of blocks after the other
        edges = vertices[faces] - vertices[np.roll(faces, 1, axis=1)]
        radius = contact.radius or 0.75 * float(np.linalg.norm(edges, axis=2).mean())
        return cls(members, np.stack([first, second], axis=1)[kept], masks[kept], radius)

    @property
    def block_count(self) -> int:
        """Number of blocks of PATCH patches."""
        return -(-len(self.members) // PATCH)

    def constants(self, vertices: Floats, contact: SelfContact) -> dict[str, npt.NDArray[Any]]:
        """The arrays that the kernels read, by name."""
        count = len(self.members)
        blocks = np.minimum(np.arange(PATCH * self.block_count).reshape(-1, PATCH), count - 1)
        block_pairs, start = np.unique(self.pairs // PATCH, axis=0, return_index=True)
        return {
            "block_members": blocks,
            "block_pairs": block_pairs,
            "block_start": np.append(start, len(self.pairs)),
            "members": self.members,
            "patch_pairs": self.pairs,
            "patch_masks": self.masks.view(np.int32),
            "rest_points": vertices,
            "self_contact": np.array([contact.stiffness, contact.damping]),
        }


class SelfContactKernels:
    """The kernels of self-contact: bounds of patches, forces of pairs, and the adjoint of these.

    Args:
        patches: The surface.
        dtype: "float32" or "float64".
        lanes: Environments per pack.
        cuda: Compile for CUDA threads instead of CPU vectors.

    Attributes:
        scratch: Numbers per environment of the arrays that bounds of patches are written to, by name.
    """

    def __init__(self, patches: Patches, dtype: str, lanes: int, cuda: bool) -> None:
        self.patches, self._lanes, self._cuda = patches, lanes, cuda
        law = pair_law(patches.radius)
        self._bound = Kernel(patch_law(patches.radius), dtype, lanes, cuda)
        self._bound_block = Kernel(block_law(), dtype, lanes, cuda)
        self._block_pair_count = len(np.unique(patches.pairs // PATCH, axis=0))
        self.scratch = {"boxes": 6 * len(patches.members), "block_boxes": 6 * patches.block_count}
        self._forces = _Walk(law, patches.radius, dtype, lanes, cuda)
        self._adjoint = _Walk(law.adjoint(["x", "v"]), patches.radius, dtype, lanes, cuda)

    @property
    def operation_count(self) -> int:
        """Arithmetic operations of a substep per environment that bounds patches and compares blocks of them."""
        bounds = len(self.patches.members) * self._bound.operation_count
        bounds += self.patches.block_count * self._bound_block.operation_count
        return bounds + COMPARISONS * self.patches.block_count * (self.patches.block_count + 1) // 2

    def forces(self, arrays: Mapping[str, Any], *, packs: int, device: Any) -> None:
        """Adds the forces of all pairs: x, v → f, by way of `scratch`."""
        self._launch(self._forces, arrays, packs, device)

    def adjoint(self, arrays: Mapping[str, Any], *, packs: int, device: Any) -> None:
        """Adds the adjoints of all pairs: x, v, bar_f → bar_x, bar_v, by way of `scratch`."""
        self._launch(self._adjoint, arrays, packs, device)

    def warp_modules(self) -> list[Any]:
        """The Warp modules of the kernels, for ahead-of-time compilation."""
        return [
            self._bound.warp_module(),
            self._bound_block.warp_module(),
            self._forces.kernel.module,
            self._adjoint.kernel.module,
        ]

    def _launch(self, walk: _Walk, arrays: Mapping[str, Any], packs: int, device: Any) -> None:
        self._bound.launch(arrays, elements=len(self.patches.members), packs=packs, device=device)
        if self._cuda:
            elements = len(self.patches.pairs)
            threads = packs * self._lanes * elements
        else:
            self._bound_block.launch(arrays, elements=self.patches.block_count, packs=packs, device=device)
            elements, threads = self._block_pair_count, packs
        inputs = [elements, *(arrays[name] for name, _ in walk.parameters)]
        wp.launch(walk.kernel, dim=threads, inputs=inputs, device=device, record_tape=False)


# On the CPU a thread walks all pairs of blocks with vectors of lanes, and the pairs of patches of those that meet. On
# CUDA every pair of patches and lane has a thread of its own: fewer comparisons would be fewer threads. BODY is the law
# of a pair of vertices, or its adjoint.
_WALK = """\
const S* const one = boxes_at + patch_pairs.data[2 * e] * (6 * LANES);
const S* const two = boxes_at + patch_pairs.data[2 * e + 1] * (6 * LANES);
if (MEET(one, two)) {
    const int* const mine = members.data + PATCH * patch_pairs.data[2 * e];
    const int* const other = members.data + PATCH * patch_pairs.data[2 * e + 1];
    for (int half = 0; half < 2; ++half)
    for (unsigned mask = patch_masks.data[2 * e + half]; mask; mask &= mask - 1) {
        const int bit = 32 * half + LOWEST(mask);
        const int pairs_at[2] = {mine[bit / PATCH], other[bit % PATCH]};
        const S *const p = rest_points.data + 3 * pairs_at[0], *const q = rest_points.data + 3 * pairs_at[1];
        const S rest = (p[0] - q[0]) * (p[0] - q[0]) + (p[1] - q[1]) * (p[1] - q[1]) + (p[2] - q[2]) * (p[2] - q[2]);
        const S reach_0 = rest < RADIUS * RADIUS ? sqrt(rest) : RADIUS;
        const S *const here = x_at + pairs_at[0] * (3 * LANES), *const there = x_at + pairs_at[1] * (3 * LANES);
        const V x = AT(here, 0) - AT(there, 0), y = AT(here, 1) - AT(there, 1), z = AT(here, 2) - AT(there, 2);
        if (ANY(x * x + y * y + z * z < reach_0 * reach_0)) {
BODY
        }
    }
}"""

_MEET = """\
#define AT(place, c) (*(const V*)((place) + (c) * LANES))
#define MEET(p, q) ANY((AT(p, 0) < AT(q, 3)) & (AT(q, 0) < AT(p, 3)) & (AT(p, 1) < AT(q, 4)) & (AT(q, 1) < AT(p, 4)) \\
    & (AT(p, 2) < AT(q, 5)) & (AT(q, 2) < AT(p, 5)))"""

_BLOCKS = """\
for (int b = 0; b < element_count; ++b) {
const S* const one = block_boxes_at + block_pairs.data[2 * b] * (6 * LANES);
const S* const two = block_boxes_at + block_pairs.data[2 * b + 1] * (6 * LANES);
if (MEET(one, two))
for (int e = block_start.data[b]; e < block_start.data[b + 1]; ++e) {
WALK
}
}"""

_CPU = """\
#define ANY(condition) __builtin_reduce_or(condition)
#define LOWEST(mask) __builtin_ctz(mask)"""

_CUDA = """\
#define ANY(condition) (condition)
#define LOWEST(mask) (__ffs(mask) - 1)"""


class _Walk:
    """A law of pairs of vertices, applied to every pair that is near in some lane.

    Attributes:
        parameters: Name and Warp type of every array.
        kernel: The Warp kernel.
    """

    def __init__(self, law: Law, radius: float, dtype: str, lanes: int, cuda: bool) -> None:
        source = Source(law, dtype, lanes, cuda)
        own = {name: kind for name, kind in source.parameters() if name not in ("pairs", "reach")}
        scalar = f"wp.{dtype}"
        indices = ["members", "patch_pairs", "patch_masks", *([] if cuda else ["block_pairs", "block_start"])]
        boxes = ["boxes", *([] if cuda else ["block_boxes"])]
        own |= dict.fromkeys(indices, "wp.array(dtype=wp.int32)") | {"rest_points": f"wp.array(dtype={scalar})"}
        own |= dict.fromkeys(boxes, f"wp.array2d(dtype={scalar})")
        self.parameters = tuple(own.items())
        lane = " + lane" if cuda else ""
        walk = _WALK.replace("BODY", "\n".join(source.element(given=("reach",)))).replace("RADIUS", f"S({radius!r})")
        lines = [
            *([] if cuda else [CPU_PROLOGUE]),
            *(_CUDA if cuda else _CPU, _MEET),
            *source.preamble(),
            *(
                f"const S* {b}_at = (const S*)((const char*){b}.data + pack * (size_t){b}.strides[0]){lane};"
                for b in boxes
            ),
            walk if cuda else _BLOCKS.replace("WALK", walk),
        ]
        snippet = "\n".join(lines).replace("LANES", str(lanes)).replace("PATCH", str(PATCH))
        self.kernel = native_kernel(law.name, self.parameters, snippet)


def _halved(chosen: Ints, vertices: Floats) -> Ints:
    """Cuts a set of vertices into patches of neighbours: again and again in two, across the longest side."""
    if len(chosen) <= PATCH:
        return np.pad(chosen, (0, PATCH - len(chosen)), mode="edge")[None]
    points = vertices[chosen]
    order = chosen[np.argsort(points[:, np.ptp(points, axis=0).argmax()], kind="stable")]
    middle = PATCH * ((-(-len(chosen) // PATCH) + 1) // 2)  # whole patches on one side
    return np.concatenate([_halved(part, vertices) for part in (order[:middle], order[middle:])])


def _within(tets: Ints, chosen: Ints, hops: int, count: int) -> Ints:
    """Pairs of a chosen vertex and any vertex at most so many edges of tetrahedra away, shape [M, 2]."""
    corners = np.array([(i, j) for i in range(4) for j in range(4) if i != j])
    edges = np.unique(tets[:, corners].reshape(-1, 2), axis=0)
    degree = np.bincount(edges[:, 0], minlength=count)
    start = np.cumsum(degree) - degree
    near = np.stack([chosen, chosen], axis=1)
    for _ in range(hops):
        many = degree[near[:, 1]]
        steps = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        reached = edges[np.repeat(start[near[:, 1]], many) + steps, 1]
        keys = np.unique(
            np.concatenate([near[:, 0] * count + near[:, 1], np.repeat(near[:, 0], many) * count + reached])
        )
        near = np.stack(np.divmod(keys, count), axis=1)
    return near
