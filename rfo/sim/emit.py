"""Prints a law as native code, and wraps native code in a Warp kernel."""

from __future__ import annotations

import linecache
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import warp as wp

from rfo.sim.law import Access, Corners, Fixed, Item, Law, Planar, Single, Table, Uniform
from rfo.sim.trace import OPERATIONS, Expr, topological
from rfo.sim.vector_math import FUNCTIONS, lane_functions, scalar_functions

__all__ = ["CPU_COMPILER_FLAGS", "CPU_PROLOGUE", "Source", "Statements", "gate_lines", "native_kernel", "statements"]

# Without the width, LLVM splits 16 float lanes into two 8-wide halves on Intel's processors; without contraction no
# product and sum are fused. Together they halve the time of a tetrahedron.
CPU_COMPILER_FLAGS = "-march=native -mprefer-vector-width=512 -ffp-contract=fast"

# What every function on CPU vectors begins with.
# Numbers below 1e-38 cost a processor a hundred cycles each, and decaying activations and adjoints reach them. They
# count as zero inside a kernel, as on CUDA's fast paths and in most neural network libraries.
# LLVM keeps the caller's alignment of the stack, 16 bytes, unless a variable asks for more: vectors that it spills
# would then straddle two cache lines, which made a humanoid's adjoint half as long again.
CPU_PROLOGUE = """\
#if defined(__SSE__)
struct Flush {
    const unsigned kept = __builtin_ia32_stmxcsr();
    Flush() { __builtin_ia32_ldmxcsr(kept | 0x8040); }
    ~Flush() { __builtin_ia32_ldmxcsr(kept); }
} flush;
alignas(64) volatile char stack_alignment[64];
stack_alignment[0] = 0;
#endif"""


class Source:
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
        if self.law.gate:
            result[self.law.gate] = f"wp.array2d(dtype={scalar})"
        return list(result.items())

    def snippet(self) -> str:
        """The whole function body."""
        prologue = [] if self.cuda else [CPU_PROLOGUE]
        lines = [*prologue, *self._prelude(), *self._pointers(), *gate_lines(self.law.gate, self.lanes, self.cuda)]
        body = [*self._corner_lines(), *self._loads(), *self._statements(), *self._stores()]
        if self.cuda and self.law.order == "any":
            return "\n".join([*lines, *body])
        loop = "e = element_count; e-- > 0;" if self.law.order == "backward" else "e = 0; e < element_count; ++e"
        return "\n".join([*lines, f"for (int {loop}) {{", *("    " + line for line in body), "}"])

    def operation_count(self) -> int:
        """Arithmetic operations per element and environment, a fused multiply-add counted as two."""
        list(self._loads()), list(self._statements())  # these find out what is shared
        nodes = topological(x for values in self.outputs.values() for x in values.flat)
        counted = OPERATIONS.keys() - {"neg", "detach", "lookup"}
        return sum(node.op in counted and node not in self.uniform for node in nodes)

    def statements(self) -> Statements:
        """The law without its data movement."""
        list(self._loads())  # names the inputs
        lines = list(self._statements())
        return Statements(
            prelude=tuple(line for line in self._prelude() if not line.startswith("const int ")),
            uniform=tuple(line for line in lines if line.startswith("const S ")),
            body=tuple(line for line in lines if not line.startswith("const S ")),
            results={name: tuple(self.names[x] for x in values.flat) for name, values in self.outputs.items()},
        )

    def element(self, given: Collection[str]) -> list[str]:
        """What one element does, for a hand-written loop around it.

        The loop declares the functions and types of `preamble`, a pointer `<index>_at` to the element's corners for
        every index array, and a scalar `<name>_<i>` for every component of the inputs `given`.
        """
        loads = list(self._loads(given))
        return [*loads, *self._statements(), *self._stores()]

    def preamble(self) -> list[str]:
        """Types, functions of lanes, and a pointer to every array of the thread's pack (and, on CUDA, its lane)."""
        return [*self._prelude(), *self._pointers()]

    def _prelude(self) -> list[str]:
        scalar = {"float32": "wp::float32", "float64": "wp::float64"}[self.dtype]
        used = {node.op for values in self.outputs.values() for node in topological(values.flat)}
        functions = sorted(op for op in used if op in FUNCTIONS)
        if self.cuda:
            vector = ["typedef S V;"]
            place = [f"const int lane = thread % {self.lanes};"]
            if self.law.order == "any":
                place.append(f"const int e = (thread / {self.lanes}) % element_count;")
                place.append(f"const int pack = thread / ({self.lanes} * element_count);")
            else:
                place.append(f"const int pack = thread / {self.lanes};")
            inline = scalar_functions(functions)
        else:
            size = {"float32": 4, "float64": 8}[self.dtype]
            vector = [f"typedef S V __attribute__((ext_vector_type({self.lanes}), aligned({size})));"]
            place = ["const int pack = thread;"]
            inline = lane_functions(functions, self.dtype, self.lanes)
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
        first = f"{i}" if isinstance(access, Single) else f"(e * {access.components} + {i})"
        return f"{name}_at + {first} * {self.lanes}"

    def _loads(self, given: Collection[str] = ()) -> Iterator[str]:
        needed = {node for values in self.outputs.values() for node in topological(values.flat)}
        for name, access in self.law.inputs.items():
            for i, node in enumerate(self.inputs[name].flat):
                if node not in needed:
                    continue
                self.names[node] = f"{name}_{i}"
                if isinstance(access, (Fixed, Uniform)):
                    self.uniform.add(node)
                    if name in given:
                        continue
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
                adds = isinstance(access, Corners) or (isinstance(access, (Item, Single)) and access.accumulate)
                if adds and node.constant == 0.0:
                    continue
                place = self._place(name, access, i)
                shared = isinstance(access, Corners) or (isinstance(access, Single) and self.law.order == "any")
                if self.cuda and shared:
                    yield f"atomicAdd({place}, {self.names[node]});"
                else:
                    yield f"*(V*)({place}) {'+=' if adds else '='} {self.names[node]};"


def gate_lines(gate: str, lanes: int, cuda: bool) -> list[str]:
    """Code that returns from a native function whose environments are all switched off (`Law.gate`)."""
    if not gate:
        return []
    if cuda:
        return [f"if (!({gate}_at[0] > ZERO)) return;"]
    return [
        "bool any_open = false;",
        f"for (int k = 0; k < {lanes}; ++k) any_open |= {gate}_at[k] > ZERO;",
        "if (!any_open) return;",
    ]


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
    return Source(law, dtype, lanes, cuda=False).statements()


@cache
def native_kernel(
    name: str, parameters: tuple[tuple[str, str], ...], snippet: str, flags: str = CPU_COMPILER_FLAGS
) -> Any:
    """Builds a Warp kernel around a native function body.

    Args:
        name: Identifier of the kernel.
        parameters: (name, Warp type) of each argument, for example ("x", "wp.array2d(dtype=wp.float32)").
        snippet: Body of a function of `thread`, `element_count` and the parameters.
        flags: Of the CPU compiler.
    """
    arguments = ", ".join(f"{p}: {kind}" for p, kind in parameters)
    names = ", ".join(p for p, _ in parameters)
    source = (
        f"def {name}_body(thread: int, element_count: int, {arguments}): ...\n\n"
        f"def {name}(element_count: int, {arguments}):\n    {name}_body(wp.tid(), element_count, {names})\n"
    )
    # Warp reads a kernel's source through `inspect`, which finds generated code in the line cache.
    filename = f"<law {name} {abs(hash((source, snippet)))}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    scope: dict[str, Any] = {"wp": wp}
    exec(compile(source, filename, "exec", dont_inherit=True), scope)
    scope[f"{name}_body"] = wp.func_native(snippet)(scope[f"{name}_body"])
    kernel = wp.kernel(scope[name], module="unique", enable_backward=False)
    kernel.module.options["cpu_compiler_flags"] = flags
    return kernel
