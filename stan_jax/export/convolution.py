"""How a convolution becomes nodes of ONNX, which has channels before cells."""

from collections.abc import Callable
from typing import Any

import numpy as np

from stan_jax.errors import InputError
from stan_jax.export.graph import Graph, Value
from stan_jax.export.shapes import padded, transposed


def _convolve(graph: Graph, eqn: Any, x: Value, kernel: Value) -> Value:
    p, out = eqn.params, eqn.outvars[0].aval
    if p["batch_group_count"] != 1:
        rule = "with batch_group_count has no writer to ONNX"
        raise InputError(eqn.primitive.name, "", rule)
    numbers, dtype = p["dimension_numbers"], out.dtype
    x, kernel = (graph.wide(value) for value in (x, kernel))
    x = transposed(graph, x, numbers.lhs_spec)
    kernel = transposed(graph, kernel, numbers.rhs_spec)
    edges = list(p["padding"])
    apart = [step - 1 for step in p["lhs_dilation"]]
    if any(apart) or any(min(edge) < 0 for edge in edges):
        zero = graph.constant(np.zeros((), x.dtype))
        cut = [(min(low, 0), min(high, 0)) for low, high in edges]
        ends = [(*edge, gap) for edge, gap in zip(cut, apart, strict=True)]
        x = padded(graph, x, zero, [(0, 0, 0), (0, 0, 0), *ends])
        edges = [(max(low, 0), max(high, 0)) for low, high in edges]
    shape = [out.shape[n] for n in numbers.out_spec]
    found = graph.node(
        "Conv",
        x,
        kernel,
        shape=shape,
        dtype=x.dtype,
        strides=list(p["window_strides"]),
        pads=[low for low, _ in edges] + [high for _, high in edges],
        dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"],
    )
    found = transposed(graph, found, np.argsort(numbers.out_spec).tolist())
    return graph.cast(found, dtype)


WRITERS: dict[str, Callable] = {"conv_general_dilated": _convolve}
