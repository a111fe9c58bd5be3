"""Walk through a jaxpr: each equation becomes nodes, or a constant at once."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core, source_info_util

from stan_jax.errors import InputError
from stan_jax.export import elementwise
from stan_jax.export.graph import Graph, Value

# Their writers keep constants short that repeat themselves.
_SHORT = {"broadcast_in_dim", "reshape", "squeeze", "transpose"}
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
    if inner is not None or eqn.primitive.name in _SHORT:
        return False
    if eqn.primitive.name in elementwise.WRITERS:
        return True
    given = sum(math.prod(x.held) for x in inputs)
    return sum(math.prod(x.aval.shape) for x in eqn.outvars) <= max(_MOST, given)


def _folded(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    shapes = [x.shape for x in inputs]
    if eqn.primitive.name in elementwise.WRITERS:
        held = np.broadcast_shapes(*(x.held for x in inputs))
        shapes = [held if shape else () for shape in shapes]
    arrays = [
        jnp.asarray(np.broadcast_to(np.asarray(x.array), shape))
        for x, shape in zip(inputs, shapes, strict=True)
    ]
    found = eqn.primitive.bind(*arrays, **eqn.params)
    found = found if eqn.primitive.multiple_results else [found]
    return [
        graph.constant(np.asarray(jax.device_get(x)), out.aval.shape)
        for x, out in zip(found, eqn.outvars, strict=True)
    ]
