"""The table of operations, compiled and differentiated, and the algebra that shortens expressions."""

from __future__ import annotations

import numpy as np
import pytest
from law_runner import run_law

from rfo.sim import trace
from rfo.sim.kernel import Item, Law, Table
from rfo.sim.tangent import forward
from rfo.sim.trace import OPERATIONS, Expr, constant, reverse, symbol, topological

POSITIVE = {"sqrt", "rsqrt", "log"}
ARITY = {"select": 3, **dict.fromkeys(["add", "sub", "mul", "min", "max"], 2)}
ON_NUMPY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "reciprocal": lambda a: 1.0 / a,
    "rsqrt": lambda a: 1.0 / np.sqrt(a),
    "neg": np.negative,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "min": np.minimum,
    "max": np.maximum,
    "select": lambda c, a, b: np.where(c > 0, a, b),
    "floor": np.floor,
    "detach": lambda a: a,
}

PASSING = [column for column, op in enumerate(ON_NUMPY) if op != "detach"]


def _raw(op: str, operands: np.ndarray) -> Expr:
    """The operation itself, past every simplification."""
    return Expr.make(op, tuple(constant(x) for x in operands[: ARITY.get(op, 1)]))


def _table() -> Law:
    def function(any_sign: np.ndarray, positive: np.ndarray) -> dict[str, np.ndarray]:
        results = [_raw(op, positive if op in POSITIVE else any_sign) for op in ON_NUMPY]
        return {"y": np.array(results, dtype=object)}

    return Law("table", function, {"any_sign": Item((3,)), "positive": Item((3,))}, {"y": Item((len(ON_NUMPY),))})


def _operands(n: int = 19, items: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    any_sign = rng.uniform(-2.0, 2.0, (n, items, 3))
    any_sign[..., 0] = np.where(np.abs(any_sign[..., 0]) < 0.3, 0.4, any_sign[..., 0])  # what is inverted
    return {"any_sign": any_sign, "positive": rng.uniform(0.2, 3.0, (n, items, 3))}


def _on_numpy(values: dict[str, np.ndarray]) -> np.ndarray:
    columns = []
    for op in ON_NUMPY:
        source = values["positive" if op in POSITIVE else "any_sign"]
        columns.append(ON_NUMPY[op](*(source[..., i] for i in range(ARITY.get(op, 1)))))
    return np.stack(columns, axis=-1)


def test_every_operation_is_listed_here() -> None:
    """A new row of the table must come with its reference."""
    assert {*ON_NUMPY, "lookup"} == set(OPERATIONS)


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-14), ("float32", 1e-6)])
def test_compiled_operations_equal_numpy(dtype: str, limit: float) -> None:
    """Each row of the table, compiled for lanes of either type, computes what NumPy computes."""
    values = _operands()
    found = run_law(_table(), values, {"y": (7, len(ON_NUMPY))}, dtype)["y"]
    expected = _on_numpy({k: v.astype(dtype).astype(np.float64) for k, v in values.items()})
    assert np.abs(found - expected).max(initial=0.0) <= limit * np.abs(expected).max()


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-8), ("float32", 3e-6)])
def test_compiled_adjoints_equal_differences(dtype: str, limit: float) -> None:
    """Each row's adjoint, compiled, is the derivative of what NumPy computes."""
    values = _operands()
    bar = np.random.default_rng(1).standard_normal((19, 7, len(ON_NUMPY)))
    adjoint = _table().adjoint(["any_sign", "positive"])
    shapes = {"bar_any_sign": (7, 3), "bar_positive": (7, 3)}
    found = run_law(adjoint, {**values, "bar_y": bar}, shapes, dtype)
    step = 1e-6
    for name in values:
        for component in range(3):
            ends = []
            for sign in (1, -1):
                moved = {k: v.copy() for k, v in values.items()}
                moved[name][..., component] += sign * step
                ends.append(_on_numpy(moved))
            expected = (bar * (ends[0] - ends[1]) / (2 * step))[..., PASSING].sum(axis=-1)
            error = np.abs(found[f"bar_{name}"][..., component] - expected)
            assert error.max() <= limit * max(1.0, np.abs(expected).max())


def _evaluate(output: Expr, inputs: dict[str, float]) -> float:
    numbers: dict[Expr, float] = {}
    for node in topological([output]):
        if node.op == "const":
            numbers[node] = node.value
        elif node.op == "symbol":
            numbers[node] = inputs[node.value]
        else:
            numbers[node] = OPERATIONS[node.op].fold(*(numbers[arg] for arg in node.args))
    return numbers[output]


def _random_tree(rng: np.random.Generator, depth: int, leaves: dict[str, object]) -> object:
    """A random expression over `leaves`, which may be numbers or expressions; the same draw gives the same tree."""
    kind = rng.integers(10) if depth else 0
    if kind < 2:
        chosen = rng.integers(8)
        names = list(leaves)
        return leaves[names[chosen % len(names)]] if chosen < 5 else (0.0, 1.0, -1.0)[chosen - 5]
    a, b = (_random_tree(rng, depth - 1, leaves) for _ in range(2))
    return [
        lambda: a + b,
        lambda: a - b,
        lambda: a * b,
        lambda: -a,
        lambda: a / (b * b + 1.0),
        lambda: trace.select(a, b, a),
        lambda: trace.maximum(a, b),
        lambda: 2.5 * (a * 0.5),
    ][kind - 2]()


def test_simplifications_never_change_a_value() -> None:
    """Random expressions have the value of the same arithmetic on plain numbers."""
    rng = np.random.default_rng(2)
    for seed in range(600):
        numbers = dict(zip("xyz", rng.uniform(-1.5, 1.5, 3).tolist(), strict=True))
        plain = float(_random_tree(np.random.default_rng(seed), 6, dict(numbers)))
        symbols = {name: symbol(name) for name in numbers}
        traced = constant(_random_tree(np.random.default_rng(seed), 6, symbols))
        assert _evaluate(traced, numbers) == pytest.approx(plain, rel=1e-11, abs=1e-11)


def test_adjoints_of_random_expressions_equal_differences() -> None:
    """`reverse` differentiates whole expressions, shared nodes and simplified signs included."""
    rng = np.random.default_rng(3)
    for seed in range(200):
        numbers = dict(zip("xyz", rng.uniform(0.3, 1.5, 3).tolist(), strict=True))
        symbols = {name: symbol(name) for name in numbers}
        # Smooth trees only: a kink within a step would be the difference's fault.
        traced = constant(_random_tree(np.random.default_rng(seed), 5, symbols))
        if any(node.op in ("select", "max", "min") for node in topological([traced])):
            continue
        adjoints = reverse([traced], [1.0], list(symbols.values()))
        for name, adjoint in zip(numbers, adjoints, strict=True):
            step = 1e-6
            ends = [_evaluate(traced, {**numbers, name: numbers[name] + sign * step}) for sign in (1, -1)]
            difference = (ends[0] - ends[1]) / (2 * step)
            assert _evaluate(adjoint, numbers) == pytest.approx(difference, rel=1e-6, abs=1e-6)


def test_equal_expressions_are_one_node() -> None:
    """Common subexpressions cost nothing: equal contents give the same object."""
    x, y = symbol("x"), symbol("y")
    assert (x * y + 1.0) is (y * x + 1.0)
    assert (x - y) + (y - x) is not None
    assert (x - x) is constant(0.0)


def test_powers_other_than_positive_integers_are_refused() -> None:
    """An exponent the table cannot express says what to use instead."""
    with pytest.raises(TypeError, match="sqrt, exp or log"):
        symbol("x") ** 0.5


def test_lookup_reads_a_table() -> None:
    """Entries of a table are found by a computed index, in compiled lanes as in NumPy, and carry no gradient."""

    def function(x: object, table: object) -> dict[str, object]:
        cell = trace.floor(x)
        return {"y": trace.lookup(table, cell) * (x - cell)}

    law = Law("lookup", function, {"x": Item(), "table": Table()}, {"y": Item()})
    x = np.random.default_rng(0).uniform(0.0, 6.0, (19, 4))
    table = np.arange(7.0) ** 2
    assert np.abs(run_law(law, {"x": x, "table": table}, {"y": (4,)})["y"] - function(x, table)["y"]).max() < 1e-13
    adjoint = run_law(law.adjoint(["x"]), {"x": x, "table": table, "bar_y": np.ones_like(x)}, {"bar_x": (4,)})["bar_x"]
    assert (adjoint == table[x.astype(int)]).all()


def test_forward_mode_is_the_transpose_of_reverse_mode() -> None:
    """For every operation, seeds times the Jacobian-vector product equals tangents times the vector-Jacobian one."""
    x, p = [symbol(f"x{i}") for i in range(3)], [symbol(f"p{i}") for i in range(3)]
    rng = np.random.default_rng(3)
    point, move = rng.uniform(0.5, 1.5, 3), rng.standard_normal(3)
    numbers = {node: value for node, value in zip([*x, *p], [*point, *move], strict=True)}
    for op in ON_NUMPY:
        y = Expr.make(op, tuple(x[: ARITY.get(op, 1)]))
        (tangent,) = forward([y], p, x)
        adjoints = reverse([y], [1.0], x)
        expected = sum(_number(adjoint, numbers) * by for adjoint, by in zip(adjoints, move, strict=True))
        assert _number(tangent, numbers) == pytest.approx(expected, abs=1e-14), op


def _number(node: Expr, numbers: dict[Expr, float]) -> float:
    """Value of an expression on numbers."""
    if node in numbers:
        return numbers[node]
    if node.op == "const":
        return float(node.value)
    return float(OPERATIONS[node.op].fold(*(_number(arg, numbers) for arg in node.args)))


def test_a_gate_skips_packs_that_are_switched_off() -> None:
    """A pack in which no environment is on keeps its outputs; one with any is computed."""
    law = Law("doubled", lambda x: {"y": 2.0 * x}, {"x": Item()}, {"y": Item()}, gate="on")
    rng = np.random.default_rng(4)
    x, on = rng.standard_normal((24, 5)), np.zeros((24, 1))
    on[9] = 1.0  # of three packs of eight the second
    y = run_law(law, {"x": x, "y": -x, "on": on}, {"y": (5,)})["y"]
    expected = np.concatenate([-x[:8], 2.0 * x[8:16], -x[16:]])
    assert np.array_equal(y, expected)
