"""Elementary functions over whole vectors of lanes, as native code.

The transcendental ones reduce their argument to a small interval (Cody and Waite) and sum a Taylor series there, long
enough for the scalar type: a few units in the last place. Infinities and NaN come out as the C library's would; sine
and cosine return NaN where an argument has lost all meaning as an angle: past 1e4 rad in float32 and 1e6 rad in
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import factorial, ldexp, log2

__all__ = ["FUNCTIONS", "lane_functions", "scalar_functions"]

FUNCTIONS = ("sqrt", "rsqrt", "reciprocal", "exp", "log", "sin", "cos", "tanh", "floor", "lookup")
"""Operations printed as calls of functions that are defined here."""

_INTEGRAL = ("exp", "log", "sin", "cos", "tanh")  # those that look into a number's bits
_SCALAR = {"rsqrt": "S(1) / wp::sqrt(a)", "reciprocal": "S(1) / a"}  # those without a function of Warp's
_SCALAR_LOOKUP = "S operator()(const S* t, S i) const { return t[(int)i]; }"

_PI = Fraction(3141592653589793238462643383279502884197169399375, 10**48)
_LN2 = Fraction(693147180559945309417232121458176568075500134360, 10**48)


@dataclass(frozen=True)
class _Format:
    """What the series need to know of a scalar type.

    Attributes:
        integer: Native integer of the same width.
        bits: Its width.
        mantissa: Stored bits of the mantissa.
        bias: Of the exponent.
        terms: Terms of sine, cosine, exp(r) - 1 and the logarithm.
        part: Bits per part of a split constant.
        angle: Largest argument of sine and cosine [rad].
        overflow: exp is infinite past it.
        underflow: exp is zero below it.
    """

    integer: str
    bits: int
    mantissa: int
    bias: int
    terms: tuple[int, int, int, int]
    part: int
    angle: float
    overflow: float
    underflow: float


_FORMATS = {
    "float32": _Format("int", 32, 23, 127, (5, 6, 7, 5), 11, 1e4, 88.72283, -87.33654),
    "float64": _Format("long long", 64, 52, 1023, (8, 9, 14, 11), 33, 1e6, 709.782712893384, -708.3964185322641),
}


def lane_functions(names: list[str], dtype: str, lanes: int) -> list[str]:
    """Defines lane_<name> for vectors `V` and scalars `S`, to stand at the top of a native function.

    Args:
        names: Of `FUNCTIONS`.
        dtype: "float32" or "float64".
        lanes: Entries of `V`.
    """
    form = _FORMATS[dtype]
    helpers = {"sin": "angle", "cos": "angle", "exp": "power", "tanh": "power"}
    needed = dict.fromkeys(helpers[name] for name in names if name in helpers)
    lines = []
    if set(names) & set(_INTEGRAL):
        lines.append(f"typedef {form.integer} I __attribute__((ext_vector_type({lanes}), aligned({form.bits // 8})));")
    lines += [_HELPERS[name](form) for name in needed]
    for name in names:
        if name == "lookup":
            body = f"V r; for (int k = 0; k < {lanes}; ++k) r[k] = t[(int)i[k]]; return r;"
            both = f"V operator()(const S* t, V i) const {{ {body} }} {_SCALAR_LOOKUP}"
        else:
            both = f"V operator()(V a) const {{ {_BODIES[name](form)} }} {_scalar(name)}"
        lines.append(f"struct {{ {both} }} lane_{name};")
    return lines


def scalar_functions(names: list[str]) -> list[str]:
    """Defines lane_<name> for scalars `S` alone, as CUDA threads use them."""
    return [f"struct {{ {_SCALAR_LOOKUP if name == 'lookup' else _scalar(name)} }} lane_{name};" for name in names]


def _scalar(name: str) -> str:
    return f"S operator()(S a) const {{ return {_SCALAR.get(name, f'wp::{name}(a)')}; }}"


def _split(value: Fraction, form: _Format) -> list[float]:
    """Parts of a constant whose products with a small whole number are exact, and what remains."""
    parts = []
    for _ in range(2):
        unit = Fraction(2) ** (int(log2(float(value))) - form.part)
        part = unit * int(value / unit)
        parts.append(float(part))
        value -= part
    return [*parts, float(value)]


def _horner(x: str, coefficients: list[float]) -> str:
    text = f"S({coefficients[-1]!r})"
    for coefficient in reversed(coefficients[:-1]):
        text = f"({text} * {x} + S({coefficient!r}))"
    return text


def _reduce(value: Fraction, form: _Format) -> str:
    """Code: k, the whole multiple of `value` nearest to `a`, its bits `n`, and r = a - k value."""
    magic = 1.5 * ldexp(1.0, form.mantissa)  # adding it rounds to a whole number and leaves that in the lowest bits
    parts = _split(value, form)
    return (
        f"V t = a * S({float(1 / value)!r}) + S({magic!r}); V k = t - S({magic!r}); I n = (I)t; "
        f"V r = ((a - k * S({parts[0]!r})) - k * S({parts[1]!r})) - k * S({parts[2]!r});"
    )


def _angle(form: _Format) -> str:
    sine = [(-1.0) ** i / factorial(2 * i + 1) for i in range(1, form.terms[0])]
    cosine = [(-1.0) ** i / factorial(2 * i) for i in range(1, form.terms[1])]
    return (
        "struct Turn { static V of(V a, int quarter) { "
        f"{_reduce(_PI / 2, form)} n = n + quarter; V z = r * r; "
        f"V s = r + r * z * {_horner('z', sine)}; V c = S(1) + z * {_horner('z', cosine)}; "
        f"V y = ((n & 1) == 1) ? c : s; y = (V)((I)y ^ ((n & 2) << {form.bits - 2})); "
        f'V size = a > S(0) ? a : -a; return size <= S({form.angle!r}) ? y : V(S(__builtin_nan(""))); }} }};'
    )


def _power(form: _Format) -> str:
    # p = exp(r) - 1, and 2^k in two factors so that neither overflows before their product does
    series = [1.0 / factorial(i) for i in range(1, form.terms[2] + 1)]
    scale = f"(V)((({{0}}) + {form.bias}) << {form.mantissa})"
    return (
        "struct Power { static void of(V a, V& p, V& low, V& high) { "
        f"{_reduce(_LN2, form)} p = r * {_horner('r', series)}; "
        f"n = n << {form.bits - form.mantissa} >> {form.bits - form.mantissa}; I half = n >> 1; "
        f"low = {scale.format('half')}; high = {scale.format('n - half')}; }} }};"
    )


def _exp(form: _Format) -> str:
    return (
        f"V p, low, high; Power::of(a, p, low, high); V y = (S(1) + p) * low * high; "
        f"y = a < S({form.underflow!r}) ? V(S(0)) : y; return a > S({form.overflow!r}) ? V(S(__builtin_inf())) : y;"
    )


def _tanh(form: _Format) -> str:
    # exp(2a) - 1 = u without cancellation; past 20 nothing but 1 is left in either type
    return (
        "V b = S(2) * (a > S(0) ? a : -a); b = b > S(40) ? V(S(40)) : b; "
        "V p, low, high; Power::of(b, p, low, high); V scale = low * high; V u = scale * p + (scale - S(1)); "
        "V y = u / (u + S(2)); return a > S(0) ? y : -y;"
    )


def _log(form: _Format) -> str:
    series = [2.0 / (2 * i + 1) for i in range(1, form.terms[3])]
    high, low, rest = _split(_LN2, form)
    root_half = (form.bias - 1 << form.mantissa) + int((0.5**0.5 * 2 - 1) * ldexp(1.0, form.mantissa))
    return (
        f"I n = ((I)a - ({form.integer}){root_half}) >> {form.mantissa}; V m = (V)((I)a - (n << {form.mantissa})); "
        f"V k = __builtin_convertvector(n, V); V s = (m - S(1)) / (m + S(1)); V z = s * s; "
        f"V y = (k * S({high!r}) + S(2) * s) + (s * z * {_horner('z', series)} + k * S({low + rest!r})); "
        "y = a == S(__builtin_inf()) ? a : y; "
        'V bad = a == S(0) ? V(S(-__builtin_inf())) : V(S(__builtin_nan(""))); return a > S(0) ? y : bad;'
    )


def _refined(estimate: str, error: str, step: str, exact: str) -> Callable[[_Format], str]:
    """Code: an estimate of 14 bits and one step of Newton's, where the processor has an estimate for these lanes.

    The error is not a number where the estimate is exact already: at zero and at infinity.
    """

    def body(form: _Format) -> str:
        if form.mantissa != 23:
            return f"return {exact};"
        wide = (
            f"V y = __builtin_ia32_{estimate}14ps512_mask(a, V(0), (unsigned short)-1); "
            f"V e = {error}; return e == e ? y + {step} * e : y;"
        )
        return f"\n#ifdef __AVX512F__\nif (sizeof(V) == 64) {{ {wide} }}\n#endif\nreturn {exact};"

    return body


_HELPERS = {"angle": _angle, "power": _power}
_BODIES = {
    "sqrt": lambda form: "return __builtin_elementwise_sqrt(a);",
    "rsqrt": _refined("rsqrt", "S(1) - a * y * y", "S(0.5) * y", "S(1) / __builtin_elementwise_sqrt(a)"),
    "reciprocal": _refined("rcp", "S(1) - a * y", "y", "S(1) / a"),
    "floor": lambda form: "return __builtin_elementwise_floor(a);",
    "sin": lambda form: "return Turn::of(a, 0);",
    "cos": lambda form: "return Turn::of(a, 1);",
    "exp": _exp,
    "tanh": _tanh,
    "log": _log,
}
