"""Laws: traced functions of one element, with the way each of their arguments and results lies in memory.

An `Access` says how one element finds its values in an array. The accesses carry the data movement, and each has a
dual, so that the adjoint of a law is again a law:

==================  ==============================  ===========================================
access              as an input, an element reads   as an output, an element writes
==================  ==============================  ===========================================
`Item`              its own entry                   its own entry (= or, accumulated, +=)
`Planar`            the same, components apart      the same
`Corners`           the entries of its corners      adds to the entries of its corners
`Single`            its environment's only entry    its environment's only entry (=, or accumulated +=)
`Fixed`             constants of its own            never
`Uniform`           constants of all elements       never
`Table`             any entry, by `trace.lookup`    never
==================  ==============================  ===========================================

A law whose elements follow on each other, such as the substeps of a small body whose state is stored substep by
substep, says so in its `order`: one thread then walks a lane's elements, on CUDA too. Its kernel is a fused loop over
substeps when the array it writes is the one it reads, one entry further on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rfo.sim.trace import constant, reverse, symbol

__all__ = ["Access", "Corners", "Fixed", "Item", "Law", "Order", "Planar", "Single", "Table", "Uniform", "Values"]

Order = Literal["any", "forward", "backward"]

Values = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Access:
    """How one element finds its values; `shape` is what the law's function sees."""

    shape: tuple[int, ...] = ()

    @property
    def components(self) -> int:
        """Numbers per entry."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Item(Access):
    """The element's own entry; `accumulate` adds instead of storing when written."""

    accumulate: bool = False


@dataclass(frozen=True)
class Planar(Item):
    """The element's own entry of an array that holds each component of all elements together."""


@dataclass(frozen=True)
class Corners(Access):
    """The entries at the element's corners.

    Attributes:
        shape: (corner_count, *entry shape).
        index: Name of the index array, int32, shape [element_count * corner_count].
    """

    index: str = "corners"

    @property
    def components(self) -> int:
        """Numbers per entry."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True)
class Single(Access):
    """One entry for all elements of an environment.

    Laws whose elements are independent may add to it (`accumulate`); only those whose elements follow on each other may
    store it.
    """

    accumulate: bool = False


@dataclass(frozen=True)
class Fixed(Access):
    """Constants of the element, shared by all environments; array shape [element_count * components]."""


@dataclass(frozen=True)
class Uniform(Access):
    """Constants shared by all elements and environments; array shape [components]."""


@dataclass(frozen=True)
class Table(Uniform):
    """Numbers shared by all, of which `rfo.sim.trace.lookup` reads some; array of any length."""


@dataclass(frozen=True)
class Law:
    """A function of one element, with the access of each argument and result.

    Attributes:
        name: Identifier of the kernel.
        function: Takes object arrays of `Expr` (or float64 arrays) by name, returns results by name.
        inputs: Access of each argument.
        outputs: Access of each result.
        order: "any" where elements are independent; "forward" or "backward" where one follows on another.
        gate: Name of an array with one number per environment, or none. A pack in which no number is positive is
            skipped; where some are, what the other environments' outputs become is undefined unless the law says it.
    """

    name: str
    function: Callable[..., Mapping[str, Any]]
    inputs: Mapping[str, Access]
    outputs: Mapping[str, Access]
    order: Order = "any"
    gate: str = ""

    def adjoint(self, wrt: Sequence[str], accumulate: Sequence[str] = ()) -> Law:
        """Returns the law that carries adjoints of the outputs back to the inputs `wrt`.

        Its inputs are this law's and `bar_<output>`; its outputs `bar_<input>`. Corners and single entries are added
        to; items are stored, or added to where named in `accumulate`.
        """
        outputs: dict[str, Access] = {}
        for name in wrt:
            access = self.inputs[name]
            if isinstance(access, (Fixed, Uniform)):
                raise TypeError(f"{self.name}: {name!r} is shared by environments; make it an Item to differentiate it")
            if isinstance(access, Single) or (isinstance(access, Item) and name in accumulate):
                access = replace(access, accumulate=True)
            outputs[f"bar_{name}"] = access
        inputs = {**self.inputs, **{f"bar_{name}": access for name, access in self.outputs.items()}}

        def function(**values: npt.NDArray[Any]) -> Values:
            seeds = {name: values.pop(f"bar_{name}") for name in self.outputs}
            results = self.function(**values)
            pairs = [
                (constant(y), g)
                for name in seeds
                for y, g in zip(_flat(results[name]), _flat(seeds[name]), strict=True)
            ]
            adjoints = iter(
                reverse([y for y, _ in pairs], [g for _, g in pairs], [x for n in wrt for x in _flat(values[n])])
            )
            return {f"bar_{n}": _fill(self.inputs[n].shape, adjoints) for n in wrt}

        order: dict[Order, Order] = {"any": "any", "forward": "backward", "backward": "forward"}
        return Law(f"{self.name}_adjoint", function, inputs, outputs, order[self.order], self.gate)

    def trace(self) -> tuple[Values, Values]:
        """Runs the function on symbols; returns them and the resulting expressions, by name and shape."""
        inputs: Values = {}
        for name, access in self.inputs.items():
            inputs[name] = _fill(access.shape, (symbol(f"{name}_{i}") for i in range(math.prod(access.shape))))
        results = self.function(**{name: values[()] for name, values in inputs.items()})  # a shape () is a scalar
        outputs: Values = {}
        for name, access in self.outputs.items():
            found = np.array(results[name], dtype=object)
            if found.shape != access.shape:
                raise ValueError(f"{self.name}: {name!r} has shape {found.shape}, its access says {access.shape}")
            outputs[name] = _fill(access.shape, map(constant, found.flat))
        return inputs, outputs


def _flat(values: Any) -> list[Any]:
    return list(np.asarray(values, dtype=object).flat)


def _fill(shape: tuple[int, ...], values: Iterator[Any]) -> npt.NDArray[Any]:
    result = np.empty(shape, dtype=object)
    for index in product(*map(range, shape)):
        result[index] = next(values)
    return result
