"""Physics as scalar expressions: trace once, differentiate symbolically, emit for any scalar type and lane count.

A law is an ordinary Python function over numbers. Called with `Expr` arguments it leaves behind a graph of elementary
operations; `reverse` turns that graph into the expressions of its adjoint; `rfo.sim.kernel` prints either as native
code. NumPy arrays of `Expr` (dtype object) serve as vectors and matrices, so the same function also runs on float64
arrays, which is what the tests compare the compiled kernels with.

Everything the mechanism knows about an operation stands in one row of `OPERATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, Union
from weakref import WeakValueDictionary

import numpy as np

__all__ = [
    "OPERATIONS",
    "Expr",
    "Operation",
    "clamp",
    "constant",
    "cos",
    "detach",
    "exp",
    "floor",
    "log",
    "lookup",
    "maximum",
    "minimum",
    "reverse",
    "rsqrt",
    "select",
    "sin",
    "sqrt",
    "symbol",
    "tanh",
    "topological",
]

Scalar = Union["Expr", float]


class Expr:
    """A node of the expression graph; equal expressions are the same object.

    Attributes:
        op: Key into `OPERATIONS`, or "const" or "symbol".
        args: Operands.
        value: The number of a constant, the name of a symbol.
        serial: Creation order, which is also a topological order.
    """

    __slots__ = ("__weakref__", "args", "op", "serial", "value")
    __array_ufunc__ = None  # `ndarray * Expr` must ask the Expr, element by element
    _interned: ClassVar[WeakValueDictionary[Any, Expr]] = WeakValueDictionary()
    _serials = count()

    op: str
    args: tuple[Expr, ...]
    value: Any
    serial: int

    @classmethod
    def make(cls, op: str, args: tuple[Expr, ...] = (), value: Any = None) -> Expr:
        """Returns the one node with these contents."""
        key = (op, args, value)
        node = cls._interned.get(key)
        if node is None:
            node = object.__new__(cls)
            node.op, node.args, node.value, node.serial = op, args, value, next(cls._serials)
            cls._interned[key] = node
        return node

    @property
    def constant(self) -> float | None:
        """The number this node is known to be, if any."""
        return self.value if self.op == "const" else None

    def __repr__(self) -> str:
        if not self.args:
            return str(self.value)
        return f"{self.op}({', '.join(map(repr, self.args))})"

    def __add__(self, other: Scalar) -> Any:
        return _elementwise(_add, self, other)

    def __radd__(self, other: Scalar) -> Any:
        return _elementwise(_add, other, self)

    def __sub__(self, other: Scalar) -> Any:
        return _elementwise(_sub, self, other)

    def __rsub__(self, other: Scalar) -> Any:
        return _elementwise(_sub, other, self)

    def __mul__(self, other: Scalar) -> Any:
        return _elementwise(_mul, self, other)

    def __rmul__(self, other: Scalar) -> Any:
        return _elementwise(_mul, other, self)

    def __truediv__(self, other: Scalar) -> Any:
        return _elementwise(_div, self, other)

    def __rtruediv__(self, other: Scalar) -> Any:
        return _elementwise(_div, other, self)

    def __neg__(self) -> Expr:
        return _neg(self)

    def __pow__(self, exponent: int) -> Any:
        if not isinstance(exponent, int) or exponent < 1:
            raise TypeError(
                f"an Expr takes positive integer powers, got {exponent!r}; use sqrt, exp or log of rfo.sim.trace"
            )
        half = self ** (exponent // 2) if exponent > 1 else None
        return self if half is None else half * half * (self if exponent % 2 else 1.0)

    def __abs__(self) -> Any:
        return select(self, self, -self)


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
        code: Native code; {0}, {1}, {2} stand for the operands, {T} for the type of the result: a vector of lanes or a
            scalar, for which the same text serves.
        fold: The operation on Python numbers.
        adjoint: (g, y, *operands) → what flows back to each operand, where y is the result and g its adjoint.
    """

    code: str
    fold: Callable[..., float]
    adjoint: Callable[..., tuple[Scalar, ...]]


OPERATIONS: dict[str, Operation] = {
    "add": Operation("{0} + {1}", lambda a, b: a + b, lambda g, y, a, b: (g, g)),
    "sub": Operation("{0} - {1}", lambda a, b: a - b, lambda g, y, a, b: (g, -g)),
    "mul": Operation("{0} * {1}", lambda a, b: a * b, lambda g, y, a, b: (g * b, g * a)),
    # Every division by an expression is a product with one of these two: a vector division takes sixteen cycles, a
    # reciprocal refined from a table a few, and one serves all that is divided by it, adjoints included. Their powers
    # would overflow before their products with g do.
    "reciprocal": Operation("lane_reciprocal({0})", lambda a: 1.0 / a, lambda g, y, a: (-g * y * y,)),
    "rsqrt": Operation("lane_rsqrt({0})", lambda a: 1.0 / math.sqrt(a), lambda g, y, a: (-0.5 * g * y * y * y,)),
    "neg": Operation("-{0}", lambda a: -a, lambda g, y, a: (-g,)),
    "sqrt": Operation("lane_sqrt({0})", math.sqrt, lambda g, y, a: (0.5 * g * rsqrt(a),)),
    "exp": Operation("lane_exp({0})", math.exp, lambda g, y, a: (g * y,)),
    "log": Operation("lane_log({0})", math.log, lambda g, y, a: (g / a,)),
    "sin": Operation("lane_sin({0})", math.sin, lambda g, y, a: (g * cos(a),)),
    "cos": Operation("lane_cos({0})", math.cos, lambda g, y, a: (-g * sin(a),)),
    "tanh": Operation("lane_tanh({0})", math.tanh, lambda g, y, a: (g * (1.0 - y * y),)),
    "min": Operation(
        "({0} < {1} ? {T}({0}) : {T}({1}))", min, lambda g, y, a, b: (select(b - a, g, 0.0), select(b - a, 0.0, g))
    ),
    "max": Operation(
        "({0} > {1} ? {T}({0}) : {T}({1}))", max, lambda g, y, a, b: (select(a - b, g, 0.0), select(a - b, 0.0, g))
    ),
    # select(c, a, b): a where c > 0, b elsewhere. No gradient to c: the choice is piecewise constant.
    "select": Operation(
        "({0} > ZERO ? {T}({1}) : {T}({2}))",
        lambda c, a, b: a if c > 0 else b,
        lambda g, y, c, a, b: (0.0, select(c, g, 0.0), select(c, 0.0, g)),
    ),
    "floor": Operation("lane_floor({0})", math.floor, lambda g, y, a: (0.0,)),
    # The number itself, but no gradient passes.
    "detach": Operation("{0}", lambda a: a, lambda g, y, a: (0.0,)),
    # lookup(t, i): entry i of a table (`rfo.sim.kernel.Table`), i truncated; piecewise constant in i, like select.
    "lookup": Operation("lane_lookup({0}, {1})", lambda t, i: t[int(i)], lambda g, y, t, i: (0.0, 0.0)),
}


def symbol(name: str) -> Expr:
    """Returns the input called `name`."""
    return Expr.make("symbol", (), name)


def constant(value: Scalar) -> Expr:
    """Returns `value` as an expression."""
    return value if isinstance(value, Expr) else Expr.make("const", (), float(value))


def select(condition: Any, positive: Any, otherwise: Any) -> Any:
    """Returns `positive` where `condition` > 0 and `otherwise` elsewhere; numbers, arrays and expressions alike."""
    return _apply("select", lambda c, a, b: np.where(np.asarray(c) > 0, a, b), condition, positive, otherwise)


def sqrt(x: Any) -> Any:
    """Square root."""
    return _apply("sqrt", np.sqrt, x)


def rsqrt(x: Any) -> Any:
    """One over the square root."""
    return _apply("rsqrt", lambda number: 1.0 / np.sqrt(number), x)


def exp(x: Any) -> Any:
    """Exponential."""
    return _apply("exp", np.exp, x)


def log(x: Any) -> Any:
    """Natural logarithm."""
    return _apply("log", np.log, x)


def sin(x: Any) -> Any:
    """Sine."""
    return _apply("sin", np.sin, x)


def cos(x: Any) -> Any:
    """Cosine."""
    return _apply("cos", np.cos, x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return _apply("tanh", np.tanh, x)


def minimum(a: Any, b: Any) -> Any:
    """Smaller of two values; the gradient goes to the smaller."""
    return _apply("min", np.minimum, a, b)


def maximum(a: Any, b: Any) -> Any:
    """Larger of two values; the gradient goes to the larger."""
    return _apply("max", np.maximum, a, b)


def floor(x: Any) -> Any:
    """Largest whole number not above; no gradient passes."""
    return _apply("floor", np.floor, x)


def detach(x: Any) -> Any:
    """`x`, through which no gradient passes."""
    return _apply("detach", lambda number: number, x)


def lookup(table: Any, index: Any) -> Any:
    """Entry `index` of a table; no gradient passes."""
    if isinstance(table, np.ndarray) and table.dtype != object:
        return table[np.asarray(index).astype(np.int64)]
    return _apply("lookup", lambda t, i: t[int(i)], table, index)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """`x` limited to [low, high]; zero gradient outside."""
    return minimum(maximum(x, low), high)


def topological(outputs: Iterable[Expr]) -> list[Expr]:
    """Returns every node that `outputs` need, operands first."""
    seen: dict[int, Expr] = {}
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node.serial not in seen:
            seen[node.serial] = node
            stack.extend(node.args)
    return [seen[serial] for serial in sorted(seen)]


def reverse(outputs: Sequence[Expr], seeds: Sequence[Scalar], wrt: Sequence[Expr]) -> list[Expr]:
    """Returns the adjoints of `wrt`: the vector-Jacobian product of `outputs` with `seeds`, as expressions.

    Args:
        outputs: Results of a law.
        seeds: Adjoint of each output.
        wrt: Nodes to differentiate with respect to, usually symbols.
    """
    adjoint: dict[Expr, Scalar] = {}
    for output, seed in zip(outputs, seeds, strict=True):
        adjoint[output] = adjoint.get(output, 0.0) + seed
    active = _depends_on(topological(outputs), set(wrt))
    for node in reversed(active):
        g = adjoint.get(node)
        if g is None or node.op in ("const", "symbol") or constant(g).constant == 0.0:
            continue
        for arg, contribution in zip(node.args, OPERATIONS[node.op].adjoint(g, node, *node.args), strict=True):
            adjoint[arg] = adjoint.get(arg, 0.0) + contribution
    return [constant(adjoint.get(node, 0.0)) for node in wrt]


def _depends_on(nodes: list[Expr], wrt: set[Expr]) -> list[Expr]:
    """Keeps the nodes through which a derivative with respect to `wrt` flows."""
    live: set[Expr] = set()
    for node in nodes:
        if node in wrt or any(arg in live for arg in node.args):
            live.add(node)
    return [node for node in nodes if node in live]


def _elementwise(operation: Callable[[Expr, Expr], Expr], a: Any, b: Any) -> Any:
    for operand in (a, b):
        if isinstance(operand, np.ndarray):
            boxed = [x if isinstance(x, np.ndarray) else np.array(x, dtype=object) for x in (a, b)]
            return np.frompyfunc(lambda x, y: operation(constant(x), constant(y)), 2, 1)(*boxed)
        if not isinstance(operand, (Expr, int, float, np.number)):
            return NotImplemented
    return operation(constant(a), constant(b))


def _fold(op: str, *args: Expr) -> Expr | None:
    values = [arg.constant for arg in args]
    if any(value is None for value in values):
        return None
    return constant(OPERATIONS[op].fold(*values))


def _apply(op: str, on_numbers: Callable[..., Any], *operands: Any) -> Any:
    """Applies a function to numbers, expressions, or arrays of either."""
    if any(isinstance(x, np.ndarray) and x.dtype == object for x in operands):
        boxed = [x if isinstance(x, np.ndarray) else np.array(x, dtype=object) for x in operands]
        return np.frompyfunc(lambda *xs: _apply(op, on_numbers, *xs), len(operands), 1)(*boxed)
    if not any(isinstance(x, Expr) for x in operands):
        return on_numbers(*operands)
    args = tuple(constant(x) for x in operands)
    return _select(*args) if op == "select" else _fold(op, *args) or Expr.make(op, args)


def _select(c: Expr, a: Expr, b: Expr) -> Expr:
    if a is b:
        return a
    if c.constant is not None:
        return a if c.constant > 0 else b
    return Expr.make("select", (c, a, b))


# The algebra below is what keeps generated adjoints as short as hand-written ones: zeros and ones vanish, signs are
# pushed outward until a subtraction absorbs them.
def _add(a: Expr, b: Expr) -> Expr:
    if a.constant == 0.0:
        return b
    if b.constant == 0.0:
        return a
    if b.op == "neg":
        return _sub(a, b.args[0])
    if a.op == "neg":
        return _sub(b, a.args[0])
    return _fold("add", a, b) or Expr.make("add", (a, b))


def _sub(a: Expr, b: Expr) -> Expr:
    if b.constant == 0.0:
        return a
    if a.constant == 0.0:
        return _neg(b)
    if a is b:
        return constant(0.0)
    if b.op == "neg":
        return _add(a, b.args[0])
    if ("sub", (b, a), None) in Expr._interned:
        return _neg(Expr.make("sub", (b, a)))
    return _fold("sub", a, b) or Expr.make("sub", (a, b))


def _mul(a: Expr, b: Expr) -> Expr:
    if b.constant is not None:
        a, b = b, a
    folded = _fold("mul", a, b)
    if folded is not None:
        return folded
    if a.constant is not None:
        if a.constant == 0.0:
            return a
        if a.constant == 1.0:
            return b
        if a.constant == -1.0:
            return _neg(b)
        if b.op == "mul" and b.args[0].constant is not None:
            return _mul(constant(a.constant * b.args[0].constant), b.args[1])
    if a.op == "neg":
        return _neg(_mul(a.args[0], b))
    if b.op == "neg":
        return _neg(_mul(a, b.args[0])) if a.constant is None else _mul(constant(-a.constant), b.args[0])
    return Expr.make("mul", (a, b) if a.constant is not None or a.serial <= b.serial else (b, a))


def _div(a: Expr, b: Expr) -> Expr:
    if a.constant == 0.0:
        return a
    if b.constant is not None:
        return _mul(a, constant(1.0 / b.constant))
    return _mul(a, Expr.make("rsqrt", b.args) if b.op == "sqrt" else Expr.make("reciprocal", (b,)))


def _neg(a: Expr) -> Expr:
    if a.op == "neg":
        return a.args[0]
    if a.op == "mul" and a.args[0].constant is not None:
        return _mul(constant(-a.args[0].constant), a.args[1])
    return _fold("neg", a) or Expr.make("neg", (a,))
