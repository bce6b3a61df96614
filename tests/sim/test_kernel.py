"""Laws as kernels: every access and its dual, against differences and against Warp's generated adjoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import warp as wp
from law_runner import run_law

from rfo.sim.kernel import Corners, Fixed, Item, Law, Uniform
from rfo.sim.trace import exp, sin

N, ELEMENTS, NODES = 11, 5, 6


def _everything() -> Law:
    """A law with every access: own items, corners, constants of the element and of all, stored and accumulated."""

    def function(own: np.ndarray, at: np.ndarray, k: object, shift: np.ndarray) -> dict[str, object]:
        stretch = at[1] - at[0]
        pull = k * stretch * exp(0.1 * own[0]) + shift
        return {"energy": (stretch * stretch).sum() * own[1], "log": sin(own) + own[0] * own[1], "f": [pull, -pull]}

    inputs = {"own": Item((2,)), "at": Corners((2, 3), "ends"), "k": Fixed(), "shift": Uniform((3,))}
    outputs = {"energy": Item(), "log": Item((2,), accumulate=True), "f": Corners((2, 3), "ends")}
    return Law("everything", function, inputs, outputs)


def _values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "own": rng.standard_normal((N, ELEMENTS, 2)),
        "at": rng.standard_normal((N, NODES, 3)),
        "k": rng.uniform(1.0, 2.0, ELEMENTS),
        "shift": rng.standard_normal(3),
        "ends": np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 1]]),
    }


SHAPES = {"energy": (ELEMENTS,), "log": (ELEMENTS, 2), "f": (NODES, 3)}


def _reference(v: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same in plain NumPy, one element at a time."""
    out = {name: np.zeros((N, *shape)) for name, shape in SHAPES.items()}
    law = _everything()
    for n in range(N):
        for e, (a, b) in enumerate(v["ends"]):
            r = law.function(own=v["own"][n, e], at=v["at"][n, [a, b]], k=v["k"][e], shift=v["shift"])
            out["energy"][n, e] = r["energy"]
            out["log"][n, e] += r["log"]
            out["f"][n, a] += r["f"][0]
            out["f"][n, b] += r["f"][1]
    return out


def test_every_access_equals_plain_numpy() -> None:
    """Gather, scatter, store, accumulate and constants move the right numbers, for more environments than a pack."""
    values = _values()
    found, expected = run_law(_everything(), values, SHAPES), _reference(values)
    for name in SHAPES:
        assert np.abs(found[name] - expected[name]).max() < 1e-14


def test_accumulated_items_add_to_what_is_there() -> None:
    """`accumulate` adds, a plain item overwrites, corners add."""
    values = _values()
    before = {name: np.random.default_rng(1).standard_normal((N, *shape)) for name, shape in SHAPES.items()}
    found, expected = run_law(_everything(), {**values, **before}, SHAPES), _reference(values)
    assert np.abs(found["energy"] - expected["energy"]).max() < 1e-14
    assert np.abs(found["log"] - before["log"] - expected["log"]).max() < 1e-14
    assert np.abs(found["f"] - before["f"] - expected["f"]).max() < 1e-14


@pytest.mark.parametrize("accumulate", [(), ("own",)])
def test_adjoint_of_every_access_equals_differences(accumulate: tuple[str, ...]) -> None:
    """The adjoint law carries the outputs' adjoints back through every access."""
    values = _values()
    rng = np.random.default_rng(2)
    bars = {f"bar_{name}": rng.standard_normal((N, *shape)) for name, shape in SHAPES.items()}
    shapes = {"bar_own": (ELEMENTS, 2), "bar_at": (NODES, 3)}
    before = {name: np.ones((N, *shape)) for name, shape in shapes.items()}
    adjoint = _everything().adjoint(["own", "at"], accumulate)
    found = run_law(adjoint, {**values, **bars, **before}, shapes)
    found["bar_at"] -= 1.0
    found["bar_own"] -= 1.0 if accumulate else 0.0

    def total(moved: dict[str, np.ndarray]) -> float:
        return sum(float((bars[f"bar_{name}"] * y).sum()) for name, y in _reference(moved).items())

    for name in ("own", "at"):
        direction, step = rng.standard_normal(values[name].shape), 1e-6
        ends = [total({**values, name: values[name] + sign * step * direction}) for sign in (1, -1)]
        exact = float((found[f"bar_{name}"] * direction).sum())
        assert exact == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-8)


@pytest.mark.parametrize("name", ["k", "shift"])
def test_shared_constants_have_no_adjoint(name: str) -> None:
    """Differentiating what all environments share is refused with the way out."""
    with pytest.raises(TypeError, match="make it an Item"):
        _everything().adjoint([name])


def test_a_wrong_shape_is_named() -> None:
    """A result that does not fit its access says so when the law is traced."""
    law = Law("crooked", lambda x: {"y": [x, x]}, {"x": Item()}, {"y": Item((3,))})
    with pytest.raises(ValueError, match="'y' has shape"):
        law.trace()


@wp.kernel
def _spring(x: wp.array(dtype=wp.vec3d), ends: wp.array(dtype=wp.int32), f: wp.array(dtype=wp.vec3d)) -> None:
    e = wp.tid()
    a, b = ends[2 * e], ends[2 * e + 1]
    d = x[b] - x[a]
    length = wp.sqrt(wp.dot(d, d) + wp.float64(0.01))
    pull = d * (wp.float64(3.0) * (length - wp.float64(1.0)) / length)
    wp.atomic_add(f, a, pull)
    wp.atomic_add(f, b, -pull)


def _spring_law() -> Law:
    def function(x: np.ndarray) -> dict[str, object]:
        from rfo.sim.trace import sqrt

        d = x[1] - x[0]
        length = sqrt((d * d).sum() + 0.01)
        pull = d * (3.0 * (length - 1.0) / length)
        return {"f": [pull, -pull]}

    return Law("spring", function, {"x": Corners((2, 3), "ends")}, {"f": Corners((2, 3), "ends")})


def test_adjoint_equals_warps_generated_one() -> None:
    """A scattered spring force has the adjoint that Warp derives for the same kernel, to rounding."""
    values = _values()
    law, bar = _spring_law(), np.random.default_rng(4).standard_normal((N, NODES, 3))
    found = run_law(
        law.adjoint(["x"]), {"x": values["at"], "ends": values["ends"], "bar_f": bar}, {"bar_x": (NODES, 3)}
    )["bar_x"]
    ends = wp.array(values["ends"].ravel(), dtype=wp.int32, device="cpu")
    for n in range(N):
        x = wp.array(values["at"][n], dtype=wp.vec3d, device="cpu", requires_grad=True)
        f = wp.zeros(NODES, dtype=wp.vec3d, device="cpu", requires_grad=True)
        with wp.Tape() as tape:
            wp.launch(_spring, dim=ELEMENTS, inputs=[x, ends, f], device="cpu")
        tape.backward(grads={f: wp.array(bar[n], dtype=wp.vec3d, device="cpu")})
        assert np.abs(x.grad.numpy() - found[n]).max() < 1e-13


@pytest.mark.parametrize("transform", [lambda law: law, lambda law: law.adjoint(["own", "at"])])
def test_float32_agrees_with_float64(transform: Callable[[Law], Law]) -> None:
    """Both scalar types come from one source and agree to float32's rounding."""
    values = _values()
    rng = np.random.default_rng(2)
    bars = {f"bar_{name}": rng.standard_normal((N, *shape)) for name, shape in SHAPES.items()}
    shapes = {**SHAPES, "bar_own": (ELEMENTS, 2), "bar_at": (NODES, 3)}
    law = transform(_everything())
    one, two = (run_law(law, {**values, **bars}, shapes, dtype) for dtype in ("float32", "float64"))
    for name in law.outputs:
        assert np.abs(one[name] - two[name]).max() < 1e-5
