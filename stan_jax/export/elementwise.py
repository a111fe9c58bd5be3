"""How primitives that work entry by entry become nodes of ONNX."""

from collections.abc import Callable
from typing import Any

import numpy as np

from stan_jax.errors import InputError
from stan_jax.export.graph import Graph, Value


def _plain(op: str, **attributes) -> Callable:
    """Writer of an operator that does the same, in a type that it is there for."""

    def write(graph: Graph, eqn: Any, *inputs: Value) -> Value:
        given = [graph.wide(x) for x in inputs]
        found = graph.each(op, *given, dtype=given[0].dtype, **attributes)
        return graph.cast(found, eqn.outvars[0].aval.dtype)

    return write


def _composed(make: Callable) -> Callable:
    """Writer of what several operators do; make: of a function for one of them."""

    def write(graph: Graph, eqn: Any, *inputs: Value) -> Value:
        given = [graph.wide(x) for x in inputs]
        dtype = given[0].dtype

        def of(op, *values, **attributes):
            values = [
                x if isinstance(x, Value) else graph.constant(np.array(x, dtype))
                for x in values
            ]
            return graph.each(op, *values, dtype=dtype, **attributes)

        return graph.cast(make(of, *given), eqn.outvars[0].aval.dtype)

    return write


def _compared(op: str, negated: bool = False) -> Callable:
    def write(graph: Graph, eqn: Any, *inputs: Value) -> Value:
        given = [graph.number(x) for x in inputs]
        found = graph.each(op, *given, dtype=bool)
        return graph.each("Not", found, dtype=bool) if negated else found

    return write


def _logical(op: str) -> Callable:
    """Writer of what is And of truth values, BitwiseAnd of numbers."""

    def write(graph: Graph, eqn: Any, *inputs: Value) -> Value:
        dtype = inputs[0].dtype
        name = op if dtype.kind == "b" else f"Bitwise{op}"
        return graph.each(name, *inputs, dtype=dtype)

    return write


def _integer_pow(graph: Graph, eqn: Any, x: Value) -> Value:
    y, given = eqn.params["y"], graph.wide(x)
    if y == 2:
        found = graph.each("Mul", given, given, dtype=given.dtype)
    else:
        power = graph.constant(np.array(y, given.dtype))
        found = graph.each("Pow", given, power, dtype=given.dtype)
    return graph.cast(found, x.dtype)


def _is_finite(graph: Graph, eqn: Any, x: Value) -> Value:
    x = graph.wide(x)
    odd = [graph.each(op, x, dtype=bool) for op in ("IsInf", "IsNaN")]
    return graph.each("Not", graph.each("Or", *odd, dtype=bool), dtype=bool)


def _round(graph: Graph, eqn: Any, x: Value) -> Value:
    if int(eqn.params["rounding_method"]) == 1:  # to even
        return _plain("Round")(graph, eqn, x)

    def away(of, x):
        return of("Mul", of("Sign", x), of("Floor", of("Add", of("Abs", x), 0.5)))

    return _composed(away)(graph, eqn, x)


def _select(graph: Graph, eqn: Any, which: Value, *cases: Value) -> Value:
    chosen = cases[0]
    for number, case in enumerate(cases[1:], start=1):
        condition = which
        if which.dtype != bool:
            bar = graph.constant(np.array(number, which.dtype))
            condition = graph.each("Equal", which, bar, dtype=bool)
        chosen = graph.where(condition, case, chosen)
    return chosen


def _convert(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.cast(x, eqn.params["new_dtype"])


def _same(graph: Graph, eqn: Any, *inputs: Value) -> list[Value]:
    return list(inputs)


def _shift(direction: str) -> Callable:
    def write(graph: Graph, eqn: Any, *inputs: Value) -> Value:
        x = inputs[0]
        if x.dtype.kind != "u":
            rule = f"of {x.dtype} has no writer to ONNX, which shifts unsigned numbers"
            raise InputError(eqn.primitive.name, "", rule)
        return graph.each("BitShift", *inputs, dtype=x.dtype, direction=direction)

    return write


WRITERS: dict[str, Callable] = {
    "add": _plain("Add"),
    "add_any": _plain("Add"),
    "sub": _plain("Sub"),
    "mul": _plain("Mul"),
    "div": _plain("Div"),
    "rem": _plain("Mod", fmod=1),
    "max": _plain("Max"),
    "min": _plain("Min"),
    "pow": _plain("Pow"),
    "integer_pow": _integer_pow,
    "square": _composed(lambda of, x: of("Mul", x, x)),
    "neg": _plain("Neg"),
    "abs": _plain("Abs"),
    "sign": _plain("Sign"),
    "floor": _plain("Floor"),
    "ceil": _plain("Ceil"),
    "round": _round,
    "exp": _plain("Exp"),
    "exp2": _composed(lambda of, x: of("Exp", of("Mul", x, np.log(2)))),
    "expm1": _composed(lambda of, x: of("Sub", of("Exp", x), 1)),
    "log": _plain("Log"),
    "log2": _composed(lambda of, x: of("Div", of("Log", x), np.log(2))),
    "log1p": _composed(lambda of, x: of("Log", of("Add", x, 1))),
    "sqrt": _plain("Sqrt"),
    "rsqrt": _composed(lambda of, x: of("Reciprocal", of("Sqrt", x))),
    "sin": _plain("Sin"),
    "cos": _plain("Cos"),
    "tan": _plain("Tan"),
    "tanh": _plain("Tanh"),
    "logistic": _plain("Sigmoid"),
    "erf": _plain("Erf"),
    "clamp": _composed(lambda of, low, x, high: of("Min", of("Max", x, low), high)),
    "is_finite": _is_finite,
    "eq": _compared("Equal"),
    "ne": _compared("Equal", negated=True),
    "lt": _compared("Less"),
    "le": _compared("LessOrEqual"),
    "gt": _compared("Greater"),
    "ge": _compared("GreaterOrEqual"),
    "and": _logical("And"),
    "or": _logical("Or"),
    "xor": _logical("Xor"),
    "not": _logical("Not"),
    "shift_left": _shift("LEFT"),
    "shift_right_logical": _shift("RIGHT"),
    "select_n": _select,
    "convert_element_type": _convert,
    "copy": _same,
    "stop_gradient": _same,
    "optimization_barrier": _same,
}
