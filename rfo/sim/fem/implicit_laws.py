"""The laws of an implicit substep: the residual of backward Euler, its tangent, and Newton's bookkeeping.

A substep of length h from (x, v) finds the velocity v' at its end such that

    r(v') = m (v' - v - h g) - h (f(x', v') + c(x', v')) = 0,    x' = x + h v',

with the tetrahedra's forces f and the surfaces' forces c. r is a sum of laws, each of which reads x' and v' under the
names `x` and `v`; the matrix A = dr/dv' is the sum of their tangents, and nothing of it is written by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rfo.sim.fem.contact import Ground, Plane, Shape, damped_share, obstacle_surface, ramped
from rfo.sim.fem.laws import CONTACT_PARAMETERS, vertex_inputs
from rfo.sim.law import Access, Corners, Fixed, Item, Law, Single, Uniform
from rfo.sim.tangent import forward
from rfo.sim.trace import constant, maximum, select, sqrt

__all__ = [
    "assembly",
    "begin_law",
    "body_residual",
    "check_law",
    "clear_law",
    "guard_law",
    "judge_law",
    "mark_law",
    "move_law",
    "note_law",
    "open_law",
    "product",
    "reaction",
    "refine_law",
    "seed_law",
    "settle_law",
    "shift_law",
    "size_law",
    "start_law",
    "step_law",
    "vertex_residual",
]

VECTOR = Item((3,))

SLOW = 0.4
"""Newton's matrix is renewed once a correction is not shorter than this share of the step before."""

LEAST_SHARE = 0.2
"""A Newton step is halved twice, to a quarter, before another matrix is tried."""

SHIFT = 8.0
"""Factor by which a shift of the matrix rises and falls, from 1, the mass itself."""

UNBOUNDED = 1e30
"""Length² of a step before the first."""


def reaction(distance: Any, normal: Any, carried: Any, v: Any, contact: Any, ramp: float = 0.0) -> Any:
    """Force of a surface on a vertex [N]: the law of `rfo.sim.fem.contact.respond`, at one position and velocity.

    Spring with Hunt-Crossley damping f_n = k d⁻ (1 - c v_n)⁺ along the normal, its positive part rounded off; Coulomb
    friction against the slip, smoothed below the slip speed.

    Args:
        distance: Signed distance to the surface [m].
        normal: Unit normal, shape [3].
        carried: Velocity of the surface [m/s], shape [3].
        v: Velocity of the vertex [m/s], shape [3].
        contact: Stiffness [N/m], damping c [s/m], friction coefficient, slip speed [m/s].
        ramp: Depth over which the stiffness is reached [m].
    """
    stiffness, damping, friction, slip_speed = contact
    relative = v - carried
    along = (relative * normal).sum()
    tangential = relative - along * normal
    pressure = stiffness * ramped(maximum(-distance, 0.0), ramp) * damped_share(damping * along)
    speed = sqrt((tangential * tangential).sum() + slip_speed * slip_speed)
    return pressure * normal - (pressure * friction / speed) * tangential


def body_residual(force: Law) -> Law:
    """What elements add to the residual [N s], from the law of their forces `f` on their corners."""

    def function(dt: Any, **values: Any) -> dict[str, Any]:
        return {"r": -dt * force.function(**values)["f"]}

    return Law(f"{force.name}_residual", function, {**force.inputs, "dt": Uniform()}, {"r": force.outputs["f"]})


def vertex_residual(
    ground: Ground | None = None, obstacles: Sequence[Shape] = (), ramp: float = 0.0, varied: Collection[str] = ()
) -> Law:
    """What a vertex adds to its residual [N s]: inertia, gravity and contact.

    Arguments as of `rfo.sim.fem.laws.vertex_law`, with the end of the substep as `x`, `v` and `time`, and the velocity
    at its start as `v_start`.
    """
    floor = ground or Plane()

    def function(
        x: Any, v: Any, v_start: Any, mass: Any, dt: Any, gravity: Any, contact: Any, **others: Any
    ) -> dict[str, Any]:
        contact = [others.get(name, shared) for name, shared in zip(CONTACT_PARAMETERS, contact, strict=True)]
        distance, normal = floor.surface(x, others.get("heights"))
        force = mass * gravity + reaction(distance, normal, np.zeros(3), v, contact, ramp)
        for i, shape in enumerate(obstacles):
            distance, normal, carried = obstacle_surface(shape, x, others["obstacles"][i], others["time"])
            force = force + reaction(distance, normal, carried, v, contact, ramp)
        return {"r": mass * (v - v_start) - dt * force}

    inputs = {"v_start": Item((3,)), **vertex_inputs(floor, obstacles, varied)}
    return Law("vertex_residual", function, inputs, {"r": Item((3,), accumulate=True)})


def product(residual: Law) -> Law:
    """The law that adds A p to `r`, for a change `p` of the velocity v': x' moves by h p."""

    def function(p: Any, **values: Any) -> dict[str, Any]:
        r = residual.function(**values)["r"]
        return {"r": _along(r, values, [values["dt"] * p, p])}

    entry = residual.outputs["r"]
    direction = replace(entry, accumulate=False) if isinstance(entry, Item) else entry
    return Law(f"{residual.name}_product", function, {**residual.inputs, "p": direction}, {"r": entry})


def assembly(residual: Law, gate: str = "") -> Law:
    """The law that adds an element's share of A to the blocks that couple its corners (`rfo.sim.block_lu`)."""
    shape = residual.inputs["v"].shape
    corners = shape[0] if len(shape) == 2 else 1

    def function(**values: Any) -> dict[str, Any]:
        r = residual.function(**values)["r"]
        columns = np.empty((corners, 3, corners, 3), dtype=object)  # [corner, axis] of v', then of r
        for i in range(corners):
            for j in range(3):
                p = np.zeros((corners, 3))
                p[i, j] = 1.0
                moved = p.reshape(shape)
                columns[i, j] = np.reshape(_along(r, values, [values["dt"] * moved, moved]), (corners, 3))
        return {"matrix": columns.transpose(2, 0, 3, 1).reshape(-1, 3, 3)}

    blocks = "blocks" if corners > 1 else "diagonal"
    outputs: dict[str, Access] = {"matrix": Corners((corners * corners, 3, 3), blocks)}
    return Law(f"{residual.name}_assembly", function, residual.inputs, outputs, gate=gate)


def _along(r: Any, values: dict[str, Any], moves: list[Any]) -> Any:
    """Tangent of an array of results, for moves of x and of v."""
    wrt = [*np.ravel(values["x"]), *np.ravel(values["v"])]
    tangents = [*np.ravel(moves[0]), *np.ravel(moves[1])]
    flat = forward([constant(y) for y in np.ravel(r)], tangents, wrt)
    return np.array(flat, dtype=object).reshape(np.shape(r))


def move_law() -> Law:
    """Where a vertex ends up, and an empty residual: `x` = `x_start` + h `v`, `r` = 0."""

    def function(x_start: Any, v: Any, dt: Any) -> dict[str, Any]:
        return {"x": x_start + dt * v, "r": np.zeros(3)}

    return Law("move", function, {"x_start": VECTOR, "v": VECTOR, "dt": Uniform()}, {"x": VECTOR, "r": VECTOR})


def size_law() -> Law:
    """Adds squares over the vertices to `size`: of a `correction`, and of `y`, against which its rounding is judged."""

    def function(correction: Any, y: Any) -> dict[str, Any]:
        return {"size": np.array([(correction * correction).sum(), (y * y).sum()])}

    return Law(
        "size", function, {"correction": VECTOR, "y": VECTOR}, {"size": Single((2,), accumulate=True)}, "forward"
    )


def start_law() -> Law:
    """Newton starts from the velocity before the substep."""
    return Law("start", lambda v_start: {"v": v_start}, {"v_start": VECTOR}, {"v": VECTOR})


def begin_law(due: bool) -> Law:
    """Newton's state at the start of a substep: everyone active, the first correction taken as it comes.

    Args:
        due: Renew the matrix first; otherwise the one of the substep before serves.
    """

    def function() -> dict[str, Any]:
        state = {"active": 1.0, "last": UNBOUNDED, "share": 1.0, "fresh": 0.0, "due": float(due)}
        return {**state, "shift": 0.0, "size": np.zeros(2)} if due else {**state, "size": np.zeros(2)}

    names = ("active", "last", "share", "fresh", "due", *(["shift"] if due else []))
    return Law("begin_due" if due else "begin", function, {}, {**dict.fromkeys(names, Item()), "size": Item((2,))})


def judge_law(renewal: bool) -> Law:
    """What Newton does with the correction P⁻¹ r at a trial point, for a matrix P from here or from before.

    Deuflhard's natural monotonicity test: the correction must be shorter than the step that led here, of length²
    `last`, of which a `share` was taken. Then it is the next step: the last one where it is within the tolerance
    (`done`), and computed once more with a new matrix where it is not much shorter (`renew`). Otherwise a share of that
    step is taken `back`: half of what was taken where the matrix was made at its start (`fresh`), twice at most, and
    else all, to make one there (`due`).

    P = A + `shift` M: a shift makes P definite where A is not, as under strong compression. It follows the flow
    M dv'/dτ = -r for pseudo-time 1 / `shift` (pseudo-transient continuation), where corrections may grow for a while,
    and falls with every renewal that goes well; the last step is one without.

    Args:
        renewal: Whether the matrix can be renewed in this iteration; otherwise who needs that waits.
    """

    def function(
        active: Any, size: Any, last: Any, share: Any, fresh: Any, due: Any, shift: Any, tolerance: Any
    ) -> dict[str, Any]:
        length, bound = size[0], select(shift, 2.0, 1.0 - 0.25 * share)
        shorter = select(bound * bound * last - length, active, 0.0)
        accepted = select(due, active if renewal else 0.0, shorter)  # a correction by an outdated matrix says nothing
        excess = maximum(length - (tolerance[0] + tolerance[1] * size[1]), shift)
        slow = maximum(length - SLOW * SLOW * last, maximum(due, shift))
        renew = select(maximum(excess, due), select(slow, accepted, 0.0), 0.0) if renewal else constant(0.0)
        half = select(fresh, select(share - LEAST_SHARE, 0.5 * share, share), share)
        lower = select(shift - SHIFT, shift / SHIFT, 0.0)
        return {
            "accepted": accepted,
            "done": select(due, 0.0, select(excess, 0.0, select(-length, 0.0, accepted))),
            "renew": renew,
            "back": select(due, 0.0, half),
            "length": length,
            "shift": select(renew, select(due, shift, lower), shift),
            "size": np.zeros(2),
        }

    names = ("active", "last", "share", "fresh", "due", "shift")
    inputs: dict[str, Access] = {**dict.fromkeys(names, Item()), "size": Item((2,)), "tolerance": Uniform((3,))}
    outputs: dict[str, Access] = dict.fromkeys(("accepted", "done", "renew", "back", "length", "shift"), Item())
    return Law("judge_renewal" if renewal else "judge", function, inputs, {**outputs, "size": Item((2,))})


def guard_law() -> Law:
    """Refuses a step by a renewed matrix that is longer than an edge, or not a number: `stuck`."""

    def function(renew: Any, accepted: Any, size: Any, back: Any, tolerance: Any) -> dict[str, Any]:
        stuck = select(renew, select(tolerance[2] - size[0], 0.0, 1.0), 0.0)
        return {"stuck": stuck, "accepted": select(stuck, 0.0, accepted), "back": select(stuck, 0.0, back)}

    inputs: dict[str, Access] = {**dict.fromkeys(("renew", "accepted", "back"), Item()), "size": Item((2,))}
    outputs: dict[str, Access] = dict.fromkeys(("stuck", "accepted", "back"), Item())
    return Law("guard", function, {**inputs, "tolerance": Uniform((3,))}, outputs)


def shift_law() -> Law:
    """Adds `shift` times the mass to the diagonal of the matrix."""

    def function(shift: Any, mass: Any) -> dict[str, Any]:
        return {"matrix": (shift * mass * np.eye(3))[None]}

    return Law(
        "shift",
        function,
        {"shift": Single(), "mass": Fixed()},
        {"matrix": Corners((1, 3, 3), "diagonal")},
        gate="renew",
    )


def step_law() -> Law:
    """Takes the accepted step, or a share of the last one back; who is not active stays."""

    def function(v: Any, correction: Any, step: Any, active: Any, accepted: Any, back: Any) -> dict[str, Any]:
        change = [select(active, select(accepted, correction[i], -back * step[i]), 0.0) for i in range(3)]
        return {
            "v": v - np.array(change),
            "step": np.array([select(accepted, correction[i], step[i]) for i in range(3)]),
        }

    inputs: dict[str, Access] = {name: VECTOR for name in ("v", "correction", "step")}
    inputs |= {name: Single() for name in ("active", "accepted", "back")}
    return Law("step", function, inputs, {"v": VECTOR, "step": VECTOR})


def settle_law() -> Law:
    """Newton's state after a step that `judge_law` decided on; `size` is that of the step where it was renewed."""

    def function(
        active: Any,
        size: Any,
        last: Any,
        share: Any,
        fresh: Any,
        due: Any,
        shift: Any,
        accepted: Any,
        done: Any,
        renew: Any,
        stuck: Any,
        length: Any,
        tolerance: Any,
    ) -> dict[str, Any]:
        excess = maximum(size[0] - (tolerance[0] + tolerance[1] * size[1]), shift)
        finished = select(renew, select(accepted, select(excess, 0.0, 1.0), 0.0), done)
        # At the start of a step whose matrix was made there, and none of whose shares will do.
        hopeless = select(due, 0.0, select(fresh, select(share - LEAST_SHARE, 0.0, 1.0), 0.0))
        restart = select(stuck, 1.0, select(fresh, hopeless, 1.0))
        failed = select(stuck, 1.0, hopeless)
        raised = select(failed, maximum(SHIFT * shift, 1.0), shift)
        return {
            "active": select(finished, 0.0, active),
            "last": select(accepted, select(renew, size[0], length), select(restart, UNBOUNDED, last)),
            "share": select(accepted, 1.0, select(restart, 1.0, 0.5 * share)),
            "due": select(accepted, 0.0, restart),
            "fresh": select(accepted, renew, select(restart, 0.0, fresh)),
            "shift": select(accepted, shift, raised),
            "size": np.zeros(2),
        }

    names = ("active", "last", "share", "fresh", "due", "shift", "accepted", "done", "renew", "stuck", "length")
    inputs: dict[str, Access] = {**dict.fromkeys(names, Item()), "size": Item((2,)), "tolerance": Uniform((3,))}
    outputs: dict[str, Access] = dict.fromkeys(("active", "last", "share", "due", "fresh", "shift"), Item())
    return Law("settle", function, inputs, {**outputs, "size": Item((2,))})


def note_law() -> Law:
    """Remembers who is still active once the iterations of a substep are used up."""
    inputs = {"active": Item(), "failed": Item()}
    return Law("note", lambda active, failed: {"failed": maximum(active, failed)}, inputs, {"failed": Item()})


def mark_law(name: str) -> Law:
    """Makes an array of an environment that failed NaN, which stops whoever uses it."""

    def function(failed: Any, **values: Any) -> dict[str, Any]:
        one = select(failed, 0.0, 1.0)
        return {name: values[name] * (one / one)}

    return Law("mark", function, {name: Item(), "failed": Single()}, {name: Item()})


def clear_law(gate: str) -> Law:
    """Zeros in every block of the matrix."""
    return Law("clear", lambda: {"matrix": np.zeros(9)}, {}, {"matrix": Item((9,))}, gate=gate)


def seed_law() -> Law:
    """The right-hand side of the adjoint system, `p` = v̄' + h x̄'."""

    def function(bar_x: Any, bar_v: Any, dt: Any) -> dict[str, Any]:
        return {"p": bar_v + dt * bar_x}

    return Law("seed", function, {"bar_x": VECTOR, "bar_v": VECTOR, "dt": Uniform()}, {"p": VECTOR})


def open_law() -> Law:
    """Everyone's adjoint system is yet to be solved, with a matrix to be made."""
    outputs: dict[str, Access] = {"active": Item(), "renew": Item(), "shift": Item(), "size": Item((2,))}
    return Law("open", lambda: {"active": 1.0, "renew": 1.0, "shift": 0.0, "size": np.zeros(2)}, {}, outputs)


def refine_law() -> Law:
    """Adds a `correction` to the adjoint solution, kept with the opposite sign as `bar_r`."""

    def function(bar_r: Any, correction: Any, active: Any) -> dict[str, Any]:
        return {"bar_r": bar_r - np.array([select(active, correction[i], 0.0) for i in range(3)])}

    return Law("refine", function, {"bar_r": VECTOR, "correction": VECTOR, "active": Single()}, {"bar_r": VECTOR})


def check_law() -> Law:
    """Whether another correction of the adjoint solution is needed: one that is a small part of it was the last."""

    def function(active: Any, size: Any, share: Any) -> dict[str, Any]:
        return {"active": select(size[0] - share * share * size[1], active, 0.0), "size": np.zeros(2)}

    inputs: dict[str, Access] = {"active": Item(), "size": Item((2,)), "share": Uniform()}
    return Law("check", function, inputs, {"active": Item(), "size": Item((2,))})
