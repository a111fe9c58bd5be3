"""Walk through a jaxpr: each equation becomes nodes, or a constant at once."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core, source_info_util

from stan_jax.errors import InputError
from stan_jax.export import elementwise, shapes
from stan_jax.export.graph import Graph, Value

# Their writers give constants for constants, and keep them short where they repeat
# themselves.
_MOVED = set(shapes.WRITERS) - {"pad"} | {"convert_element_type"}
# NumPy does the same, and JAX compiles a program for each type and shape: that would be
# three quarters of the time that it takes to convert a small model.
_NUMPY: dict[str, Callable] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "sqrt": np.sqrt,
    "select_n": lambda which, *cases: np.choose(which, cases),
}
# A constant may be longer than what it is made of up to so many entries.
_MOST = 1 << 20


def write(
    graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]
) -> list[Value]:
    """Return the results of a jaxpr, its equations written into a graph.

    Raises: InputError for a primitive that has no writer, with the line that made it.
    """
    table = dict(zip(jaxpr.constvars, map(graph.constant, consts), strict=True))
    table |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(x):
        if isinstance(x, core.Literal):
            return graph.constant(np.asarray(x.val, x.aval.dtype))
        return table[x]

    for eqn in jaxpr.eqns:
        results = _written(graph, eqn, [read(x) for x in eqn.invars])
        table |= dict(zip(eqn.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def write_closed(graph: Graph, jaxpr: Any, inputs: Sequence[Value]) -> list[Value]:
    """Return the results of a jaxpr that may bring constants of its own."""
    if isinstance(jaxpr, core.ClosedJaxpr):
        return write(graph, jaxpr.jaxpr, jaxpr.consts, inputs)
    return write(graph, jaxpr, (), inputs)


def _written(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    if name not in graph.table:
        place = f"made at {source_info_util.summarize(eqn.source_info)}"
        raise InputError(f"primitive {name}", place, "has no writer to ONNX")
    if inputs and all(x.array is not None for x in inputs) and _may_fold(eqn, inputs):
        return _folded(graph, eqn, inputs)
    results = graph.table[name](graph, eqn, *inputs)
    return [results] if isinstance(results, Value) else list(results)


def _may_fold(eqn: Any, inputs: list[Value]) -> bool:
    """Whether the results are to be computed now: no inner programs, not too long."""
    inner = next(core.jaxprs_in_params(eqn.params), None)
    if inner is not None or eqn.primitive.name in _MOVED:
        return False
    if eqn.primitive.name in elementwise.WRITERS:
        return True
    given = sum(math.prod(x.held) for x in inputs)
    return sum(math.prod(x.aval.shape) for x in eqn.outvars) <= max(_MOST, given)


def _folded(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    sides = [x.shape for x in inputs]
    if eqn.primitive.name in elementwise.WRITERS:
        held = np.broadcast_shapes(*(x.held for x in inputs))
        sides = [held if shape else () for shape in sides]
    arrays = [
        np.broadcast_to(np.asarray(x.array), shape)
        for x, shape in zip(inputs, sides, strict=True)
    ]
    if (name := eqn.primitive.name) in _NUMPY:
        with np.errstate(all="ignore"):
            found = _NUMPY[name](*arrays)
    else:
        found = eqn.primitive.bind(*map(jnp.asarray, arrays), **eqn.params)
    found = found if eqn.primitive.multiple_results else [found]
    return [
        graph.constant(np.asarray(jax.device_get(x)), out.aval.shape)
        for x, out in zip(found, eqn.outvars, strict=True)
    ]
