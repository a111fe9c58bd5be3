"""How orders of entries become nodes of ONNX: sort, top_k, argmax, all as TopK is.

TopK takes the entry of the lower index first where two are equal, as a stable sort.
Where entries are NaN their order is not that of JAX.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from stan_jax.export.graph import Graph, Value


def _top(
    graph: Graph, x: Value, k: int, axis: int, *, largest: bool
) -> tuple[Value, Value]:
    """The k first along an axis, and where they were, int64."""
    given = graph.number(x)
    shape = list(x.shape)
    shape[axis] = k
    number = graph.constant(np.array([k], np.int64))
    how = dict(axis=axis, largest=int(largest), sorted=1)
    kinds = [(shape, given.dtype), (shape, np.int64)]
    values, index = graph.nodes_of("TopK", given, number, kinds=kinds, **how)
    return graph.cast(values, x.dtype), index


def _top_k(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    axis = eqn.params.get("axis", len(x.shape) - 1) % len(x.shape)
    values, index = _top(graph, x, eqn.params["k"], axis, largest=True)
    return [values, graph.cast(index, eqn.outvars[1].aval.dtype)]


def _sort(graph: Graph, eqn: Any, *inputs: Value) -> list[Value]:
    axis, keys = eqn.params["dimension"], eqn.params["num_keys"]
    results, k = list(inputs), inputs[0].shape[eqn.params["dimension"]]
    for key in reversed(range(keys)):  # stable: the first key goes last, and decides
        _, index = _top(graph, results[key], k, axis, largest=False)
        results = [
            graph.node(
                "GatherElements", x, index, shape=x.shape, dtype=x.dtype, axis=axis
            )
            for x in results
        ]
    return results


def _best(op: str) -> Callable:
    def write(graph: Graph, eqn: Any, x: Value) -> Value:
        (axis,), out = eqn.params["axes"], eqn.outvars[0].aval
        given = graph.number(x)
        index = graph.node(
            op, given, shape=out.shape, dtype=np.int64, axis=axis, keepdims=0
        )
        return graph.cast(index, out.dtype)

    return write


WRITERS: dict[str, Callable] = {
    "sort": _sort,
    "top_k": _top_k,
    "argmax": _best("ArgMax"),
    "argmin": _best("ArgMin"),
}
