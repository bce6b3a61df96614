"""From a law to a native kernel over lane packs, and from its adjoint to another.

A `Law` is a traced function plus, for every argument and result, an `Access`: how one element finds its values in an
array. The accesses carry the data movement, and each has a dual, so that the adjoint of a law is again a law:

==================  ==============================  ===============================
access              as an input, an element reads   as an output, an element writes
==================  ==============================  ===============================
`Item`              its own entry                   its own entry (= or, accumulated, +=)
`Planar`            the same, components apart      the same
`Corners`           the entries of its corners      adds to the entries of its corners
`Fixed`             constants of its own            never
`Uniform`           constants of all elements       never
`Table`             any entry, by `trace.lookup`    never
==================  ==============================  ===============================

Memory of an array with `Item` or `Corners` access is [pack][item][component][lane], of one with `Planar` access
[pack][component][item][lane]: environments (or, where one environment fills a pack, consecutive elements) lie side by
side in lanes, so one vector instruction advances 16 of them. On the CPU one Warp thread walks a pack's elements with
vectors as wide as the lanes; on CUDA the same statements run with one thread for every element and lane.
"""

from __future__ import annotations

import linecache
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp

from rfo.sim.trace import OPERATIONS, Expr, constant, reverse, symbol, topological

__all__ = [
    "Access",
    "Corners",
    "Fixed",
    "Item",
    "Kernel",
    "Law",
    "Planar",
    "Statements",
    "Table",
    "Uniform",
    "lanes_for",
    "native_kernel",
    "statements",
]

# Without the width, LLVM splits 16 float lanes into two 8-wide halves on Intel's processors; without contraction no
# product and sum are fused. Together they halve the time of a tetrahedron.
CPU_COMPILER_FLAGS = "-march=native -mprefer-vector-width=512 -ffp-contract=fast"

Values = dict[str, npt.NDArray[Any]]


def lanes_for(dtype: str, *, cuda: bool) -> int:
    """Environments per pack: a 64-byte vector on the CPU, a warp of threads on CUDA."""
    return 32 if cuda else {"float32": 16, "float64": 8}[dtype]


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
    """

    name: str
    function: Callable[..., Mapping[str, Any]]
    inputs: Mapping[str, Access]
    outputs: Mapping[str, Access]

    def adjoint(self, wrt: Sequence[str], accumulate: Sequence[str] = ()) -> Law:
        """Returns the law that carries adjoints of the outputs back to the inputs `wrt`.

        Its inputs are this law's and `bar_<output>`; its outputs `bar_<input>`. Corners are added to; items are
        stored, or added to where named in `accumulate`.
        """
        outputs: dict[str, Access] = {}
        for name in wrt:
            access = self.inputs[name]
            if isinstance(access, (Fixed, Uniform)):
                raise TypeError(f"{self.name}: {name!r} is shared by environments; make it an Item to differentiate it")
            if name in accumulate and isinstance(access, Item):
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

        return Law(f"{self.name}_adjoint", function, inputs, outputs)

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


@dataclass(frozen=True)
class Kernel:
    """A law compiled for a scalar type, a lane count and a kind of device.

    Attributes:
        law: What it computes.
        dtype: "float32" or "float64".
        lanes: Environments per pack.
        cuda: Compile for CUDA threads instead of CPU vectors.
    """

    law: Law
    dtype: str
    lanes: int
    cuda: bool = False
    _names: tuple[str, ...] = field(init=False, repr=False)
    _kernel: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        source = _Source(self.law, self.dtype, self.lanes, self.cuda)
        parameters = tuple(source.parameters())
        kernel = native_kernel(self.law.name, parameters, source.snippet())
        object.__setattr__(self, "_names", tuple(name for name, _ in parameters))
        object.__setattr__(self, "_kernel", kernel)

    @property
    def source(self) -> str:
        """The native code, to read."""
        return _Source(self.law, self.dtype, self.lanes, self.cuda).snippet()

    @property
    def operation_count(self) -> int:
        """Arithmetic operations per element and environment, a fused multiply-add counted as two."""
        _, outputs = self.law.trace()
        nodes = topological(x for values in outputs.values() for x in values.flat)
        return sum(node.op in OPERATIONS and node.op not in ("neg", "detach", "lookup") for node in nodes)

    def launch(self, arrays: Mapping[str, Any], *, elements: int, packs: int, device: Any) -> None:
        """Launches (or, inside a capture, records) the kernel.

        Args:
            arrays: A Warp array for every name of the law's inputs, outputs and index arrays.
            elements: Number of elements per pack.
            packs: Number of packs.
            device: Warp device.
        """
        dim = packs * elements * self.lanes if self.cuda else packs
        inputs = [elements, *(arrays[name] for name in self._names)]
        wp.launch(self._kernel, dim=dim, inputs=inputs, device=device, record_tape=False)

    def warp_module(self) -> Any:
        """The Warp module that holds the kernel, for ahead-of-time compilation."""
        return self._kernel.module


class _Source:
    """Prints a law as the body of a native function."""

    def __init__(self, law: Law, dtype: str, lanes: int, cuda: bool) -> None:
        self.law, self.lanes, self.cuda = law, lanes, cuda
        self.dtype = dtype
        self.inputs, self.outputs = law.trace()
        self.names: dict[Expr, str] = {}
        self.uniform: set[Expr] = set()

    def parameters(self) -> list[tuple[str, str]]:
        """(name, Warp type) of each array."""
        scalar = f"wp.{self.dtype}"
        result: dict[str, str] = {}
        for name, access in {**self.law.inputs, **self.law.outputs}.items():
            shared = isinstance(access, (Fixed, Uniform))
            result[name] = f"wp.array(dtype={scalar})" if shared else f"wp.array2d(dtype={scalar})"
            if isinstance(access, Corners):
                result[access.index] = "wp.array(dtype=wp.int32)"
        return list(result.items())

    def snippet(self) -> str:
        """The whole function body."""
        lines = [*self._prelude(), *self._pointers()]
        body = [*self._corner_lines(), *self._loads(), *self._statements(), *self._stores()]
        if self.cuda:
            return "\n".join([*lines, *body])
        return "\n".join([*lines, "for (int e = 0; e < element_count; ++e) {", *("    " + line for line in body), "}"])

    def _prelude(self) -> list[str]:
        scalar = {"float32": "wp::float32", "float64": "wp::float64"}[self.dtype]
        used = {node.op for values in self.outputs.values() for node in topological(values.flat)}
        functions = sorted(op for op in used if "lane_" in getattr(OPERATIONS.get(op), "code", ""))
        if self.cuda:
            vector = ["typedef S V;"]
            place = [
                f"const int lane = thread % {self.lanes};",
                f"const int e = (thread / {self.lanes}) % element_count;",
                f"const int pack = thread / ({self.lanes} * element_count);",
            ]
            inline = [f"auto lane_{f} = [](S a) {{ return wp::{f}(a); }};" for f in functions if f != "lookup"]
            if "lookup" in functions:
                inline.append("auto lane_lookup = [](const S* t, S i) { return t[(int)i]; };")
        else:
            size = {"float32": 4, "float64": 8}[self.dtype]
            vector = [f"typedef S V __attribute__((ext_vector_type({self.lanes}), aligned({size})));"]
            place = ["const int pack = thread;"]
            special = {
                "sqrt": "auto lane_sqrt = [](V a) { return __builtin_elementwise_sqrt(a); };",
                "floor": "auto lane_floor = [](V a) { return __builtin_elementwise_floor(a); };",
                "lookup": "auto lane_lookup = [](const S* t, V i) "
                f"{{ V r; for (int k = 0; k < {self.lanes}; ++k) r[k] = t[(int)i[k]]; return r; }};",
            }
            each = "[](V a) {{ V r; for (int i = 0; i < {n}; ++i) r[i] = wp::{f}((S)a[i]); return r; }}"
            inline = [f"auto lane_{f} = {each.format(n=self.lanes, f=f)};" for f in functions if f not in special]
            inline += [code for f, code in special.items() if f in functions]
        return [f"typedef {scalar} S;", *vector, "const S ZERO = 0;", *inline, *place]

    def _pointers(self) -> Iterator[str]:
        for name, kind in self.parameters():
            if "array2d" in kind:
                lane = " + lane" if self.cuda else ""
                yield f"S* {name}_at = (S*)((char*){name}.data + pack * (size_t){name}.strides[0]){lane};"

    def _corner_lines(self) -> Iterator[str]:
        counts = {
            a.index: a.shape[0]
            for a in [*self.law.inputs.values(), *self.law.outputs.values()]
            if isinstance(a, Corners)
        }
        for index, n in counts.items():
            yield f"const int* {index}_at = {index}.data + e * {n};"

    def _place(self, name: str, access: Access, i: int) -> str:
        """Pointer to component `i` (flattened) of the element's values."""
        if isinstance(access, Corners):
            corner, component = divmod(i, access.components)
            return f"{name}_at + ({access.index}_at[{corner}] * {access.components} + {component}) * {self.lanes}"
        if isinstance(access, Planar):
            return f"{name}_at + ({i} * element_count + e) * {self.lanes}"
        return f"{name}_at + (e * {access.components} + {i}) * {self.lanes}"

    def _loads(self) -> Iterator[str]:
        needed = {node for values in self.outputs.values() for node in topological(values.flat)}
        for name, access in self.law.inputs.items():
            for i, node in enumerate(self.inputs[name].flat):
                if node not in needed:
                    continue
                self.names[node] = f"{name}_{i}"
                if isinstance(access, (Fixed, Uniform)):
                    self.uniform.add(node)
                    if isinstance(access, Table):
                        yield f"const S* {name}_{i} = {name}.data;"
                        continue
                    where = f"e * {access.components} + {i}" if isinstance(access, Fixed) else f"{i}"
                    yield f"const S {name}_{i} = {name}.data[{where}];"
                else:
                    yield f"const V {name}_{i} = *(const V*)({self._place(name, access, i)});"

    def _statements(self) -> Iterator[str]:
        nodes = topological(x for values in self.outputs.values() for x in values.flat)
        uses: dict[Expr, list[str]] = {}
        for node in nodes:
            for arg in node.args:
                uses.setdefault(arg, []).append(node.op)
        results = {x for values in self.outputs.values() for x in values.flat}
        for node in nodes:
            if node.op == "const":
                self.names[node] = f"S({node.value!r})" if node.value >= 0 else f"(-S({-node.value!r}))"
                self.uniform.add(node)
                continue
            if node.op == "symbol":
                continue
            if all(arg in self.uniform for arg in node.args):
                self.uniform.add(node)
            kind = "S" if node in self.uniform else "V"
            code = OPERATIONS[node.op].code.format(*(self.names[arg] for arg in node.args), T=kind)
            # A product used once, by a sum, is printed inside it: compilers fuse within an expression only.
            if node not in results and (node.op == "neg" or (node.op == "mul" and uses[node] in (["add"], ["sub"]))):
                self.names[node] = f"({code})"
                continue
            self.names[node] = f"v{len(self.names)}"
            yield f"const {kind} {self.names[node]} = {code};"

    def _stores(self) -> Iterator[str]:
        for name, access in self.law.outputs.items():
            for i, node in enumerate(self.outputs[name].flat):
                adds = isinstance(access, Corners) or (isinstance(access, Item) and access.accumulate)
                if adds and node.constant == 0.0:
                    continue
                place = self._place(name, access, i)
                if isinstance(access, Corners) and self.cuda:
                    yield f"atomicAdd({place}, {self.names[node]});"
                else:
                    yield f"*(V*)({place}) {'+=' if adds else '='} {self.names[node]};"


@dataclass(frozen=True)
class Statements:
    """A law printed for use inside a hand-written native loop, on CPU vectors.

    The loop declares every input component as `<name>_<i>`: a scalar S where its access is shared by the elements, a
    vector V of lanes elsewhere.

    Attributes:
        prelude: Types S and V and the functions of lanes.
        uniform: Statements on scalars, to stand before the loop.
        body: Statements on vectors, to stand inside it.
        results: Expressions of the results' components, by name.
    """

    prelude: tuple[str, ...]
    uniform: tuple[str, ...]
    body: tuple[str, ...]
    results: Mapping[str, tuple[str, ...]]


def statements(law: Law, dtype: str, lanes: int) -> Statements:
    """Prints a law without its data movement."""
    source = _Source(law, dtype, lanes, cuda=False)
    list(source._loads())  # names the inputs
    lines = list(source._statements())
    uniform = tuple(line for line in lines if line.startswith("const S "))
    body = tuple(line for line in lines if not line.startswith("const S "))
    results = {name: tuple(source.names[x] for x in values.flat) for name, values in source.outputs.items()}
    prelude = tuple(line for line in source._prelude() if not line.startswith("const int "))
    return Statements(prelude, uniform, body, results)


@cache
def native_kernel(name: str, parameters: tuple[tuple[str, str], ...], snippet: str) -> Any:
    """Builds a Warp kernel around a native function body.

    Args:
        name: Identifier of the kernel.
        parameters: (name, Warp type) of each argument, for example ("x", "wp.array2d(dtype=wp.float32)").
        snippet: Body of a function of `thread`, `element_count` and the parameters.
    """
    arguments = ", ".join(f"{p}: {kind}" for p, kind in parameters)
    names = ", ".join(p for p, _ in parameters)
    source = (
        f"def {name}_body(thread: int, element_count: int, {arguments}): ...\n\n"
        f"def {name}(element_count: int, {arguments}):\n    body(wp.tid(), element_count, {names})\n"
    )
    # Warp reads a kernel's source through `inspect`, which finds generated code in the line cache.
    filename = f"<law {name} {abs(hash((source, snippet)))}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    scope: dict[str, Any] = {"wp": wp}
    exec(compile(source, filename, "exec", dont_inherit=True), scope)
    scope["body"] = wp.func_native(snippet)(scope[f"{name}_body"])
    kernel = wp.kernel(scope[name], module="unique", enable_backward=False)
    kernel.module.options["cpu_compiler_flags"] = CPU_COMPILER_FLAGS
    return kernel


def _flat(values: Any) -> list[Any]:
    return list(np.asarray(values, dtype=object).flat)


def _fill(shape: tuple[int, ...], values: Iterator[Any]) -> npt.NDArray[Any]:
    result = np.empty(shape, dtype=object)
    for index in product(*map(range, shape)):
        result[index] = next(values)
    return result
