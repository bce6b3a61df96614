"""Forward mode: Jacobian-vector products of traced expressions, from the same table as `rfo.sim.trace.reverse`."""

from __future__ import annotations

from collections.abc import Sequence

from rfo.sim.trace import OPERATIONS, Expr, Scalar, constant, topological

__all__ = ["forward"]


def forward(outputs: Sequence[Expr], tangents: Sequence[Scalar], wrt: Sequence[Expr]) -> list[Expr]:
    """Returns the tangents of `outputs`: the Jacobian-vector product with `tangents`, as expressions.

    An operation's partial derivatives are its adjoints of one.

    Args:
        outputs: Results of a law.
        tangents: Tangent of each of `wrt`.
        wrt: Nodes to differentiate with respect to, usually symbols.
    """
    tangent: dict[Expr, Scalar] = dict(zip(wrt, tangents, strict=True))
    for node in topological(outputs):
        moved = [(i, arg) for i, arg in enumerate(node.args) if arg in tangent]
        if node in tangent or not moved:
            continue
        partials = OPERATIONS[node.op].adjoint(constant(1.0), node, *node.args)
        total: Scalar = 0.0
        for i, arg in moved:
            total = total + constant(partials[i]) * tangent[arg]
        tangent[node] = total
    return [constant(tangent.get(node, 0.0)) for node in outputs]
