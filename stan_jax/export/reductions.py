"""How sums and products along axes become nodes of ONNX, of matrices too."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from stan_jax.errors import InputError
from stan_jax.export.graph import Graph, Value
from stan_jax.export.shapes import reshaped, transposed


def _reduction(op: str) -> Callable:
    def write(graph: Graph, eqn: Any, x: Value) -> Value:
        axes, out = eqn.params["axes"], eqn.outvars[0].aval
        if not axes:
            return x
        given = graph.number(x)
        along = graph.constant(np.array(axes, np.int64))
        found = graph.node(
            op, given, along, shape=out.shape, dtype=given.dtype, keepdims=0
        )
        return graph.cast(found, out.dtype)

    return write


def _cumulative_sum(graph: Graph, eqn: Any, x: Value) -> Value:
    given = graph.wide(x)
    axis = graph.constant(np.array(eqn.params["axis"], np.int64))
    how = dict(reverse=int(eqn.params["reverse"]))
    found = graph.node("CumSum", given, axis, shape=x.shape, dtype=given.dtype, **how)
    return graph.cast(found, x.dtype)


def _dot(graph: Graph, eqn: Any, left: Value, right: Value) -> Value:
    (of_left, of_right), (batch_left, batch_right) = eqn.params["dimension_numbers"]
    out = eqn.outvars[0].aval
    free = [
        [n for n in range(len(x.shape)) if n not in (*given, *batch)]
        for x, given, batch in (
            (left, of_left, batch_left),
            (right, of_right, batch_right),
        )
    ]
    batch = [left.shape[n] for n in batch_left]
    rows, columns = (
        math.prod(x.shape[n] for n in axes)
        for x, axes in zip((left, right), free, strict=True)
    )
    inner = math.prod(left.shape[n] for n in of_left)
    left, right = (
        graph.cast(graph.wide(x), _computed(out.dtype)) for x in (left, right)
    )
    left = transposed(graph, left, (*batch_left, *free[0], *of_left))
    right = transposed(graph, right, (*batch_right, *of_right, *free[1]))
    left = reshaped(graph, left, (*batch, rows, inner))
    right = reshaped(graph, right, (*batch, inner, columns))
    shape = (*batch, rows, columns)
    product = graph.node("MatMul", left, right, shape=shape, dtype=left.dtype)
    return graph.cast(reshaped(graph, product, out.shape), out.dtype)


def _computed(dtype: Any) -> str:
    """Type of the sums: onnxruntime multiplies matrices of these alone."""
    name = np.dtype(dtype).name
    return name if name in ("float64", "int32", "int64") else "float32"


def _max_pool(graph: Graph, eqn: Any, x: Value) -> Value:
    return _pooled(graph, eqn, x, "MaxPool")


def _sum_pool(graph: Graph, eqn: Any, x: Value) -> Value:
    size = math.prod(eqn.params["window_dimensions"])
    mean = _pooled(graph, eqn, x, "AveragePool", count_include_pad=1)
    return graph.each(
        "Mul", mean, graph.constant(np.array(size, x.dtype)), dtype=x.dtype
    )


def _pooled(graph: Graph, eqn: Any, x: Value, op: str, **how) -> Value:
    """Windows are laid along the last axes, where ONNX has them."""
    p, out = eqn.params, eqn.outvars[0].aval
    if {*p["base_dilation"], *p["window_dilation"]} != {1}:
        rule = "of cells that lie apart has no writer to ONNX"
        raise InputError(eqn.primitive.name, "", rule)
    sizes, strides = p["window_dimensions"], p["window_strides"]
    moved = [
        n
        for n, sides in enumerate(zip(sizes, strides, p["padding"], strict=True))
        if sides != (1, 1, (0, 0))
    ] or [len(x.shape) - 1]
    order = [n for n in range(len(x.shape)) if n not in moved] + moved
    front = [x.shape[n] for n in order[: -len(moved)]]
    given = transposed(graph, graph.wide(x), order)
    given = reshaped(graph, given, (1, math.prod(front), *given.shape[len(front) :]))
    shape = [out.shape[n] for n in order]
    edges = [p["padding"][n] for n in moved]
    found = graph.node(
        op,
        given,
        shape=(1, math.prod(front), *shape[len(front) :]),
        dtype=given.dtype,
        kernel_shape=[sizes[n] for n in moved],
        strides=[strides[n] for n in moved],
        pads=[low for low, _ in edges] + [high for _, high in edges],
        **how,
    )
    found = transposed(graph, reshaped(graph, found, shape), np.argsort(order).tolist())
    return graph.cast(found, out.dtype)


WRITERS: dict[str, Callable] = {
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_or": _reduction("ReduceMax"),
    "reduce_and": _reduction("ReduceMin"),
    "cumsum": _cumulative_sum,
    "dot_general": _dot,
    "reduce_window_max": _max_pool,
    "reduce_window_sum": _sum_pool,
}
