"""How our non-maximum suppression becomes the operator that ONNX has for it.

Its loops would be right as well, and slower. Equal scores are taken in the same order
and the overlap must exceed the threshold on both sides, so the same boxes are kept.
"""

from typing import Any

import numpy as np

from stan_jax.export.graph import Graph, Value
from stan_jax.export.shapes import one, reshaped

_LOWEST = np.array(np.finfo(np.float32).min)
_SOME = 2  # what stands for a number of rows or groups that is known only as it runs


def nms(
    graph: Graph, eqn: Any, boxes: Value, scores: Value, valid: Value, *rest: Value
) -> Value:
    """Write `ops.nms.nms`, under vmap too.

    rest: the groups, from 0 on, where there are any, and the threshold.
    """
    *groups, threshold = rest
    out, n = eqn.outvars[0].aval.shape, boxes.shape[-2]
    b = out[0] if len(out) == 2 else 1
    boxes = graph.full(_rows(graph, boxes, (b, n, 4)))
    scores, valid = (_rows(graph, x, (b, 1, n)) for x in (scores, valid))
    if groups:
        group = graph.full(_rows(graph, groups[0], (b, 1, n)))
        same = graph.each("Equal", group, _each_group(graph, group), dtype=bool)
        valid = graph.each("And", same, valid, dtype=bool)
    none = graph.constant(np.array(-np.inf, np.float32))
    found = graph.node(
        "NonMaxSuppression",
        boxes,
        graph.where(valid, scores, none),
        graph.constant(np.array([n], np.int64)),
        threshold,
        graph.constant(_LOWEST),
        shape=(_SOME, 3),
        dtype=np.int64,
    )
    image, row = (one(graph, found, 1, column) for column in (0, 2))
    places = graph.node("Concat", image, row, shape=(_SOME, 2), dtype=np.int64, axis=1)
    first = graph.node(
        "Squeeze",
        image,
        graph.constant(np.array([1])),
        shape=(_SOME,),
        dtype=np.int64,
    )
    true = graph.each("Equal", first, first, dtype=bool)
    blank = graph.constant(np.zeros((b, n), bool))
    kept = graph.node("ScatterND", blank, places, true, shape=(b, n), dtype=bool)
    return reshaped(graph, kept, out)


def _each_group(graph: Graph, group: Value) -> Value:
    """The numbers from 0 to the highest, as [1 groups 1]."""
    wide = graph.cast(group, "int64")
    most = graph.node("ReduceMax", wide, shape=(), dtype=np.int64, keepdims=0)
    zero, step = (graph.constant(np.array(x, np.int64)) for x in (0, 1))
    end = graph.each("Add", most, step, dtype=np.int64)
    numbers = graph.node("Range", zero, end, step, shape=(_SOME,), dtype=np.int64)
    sides = graph.constant(np.array([1, -1, 1], np.int64))
    column = graph.node("Reshape", numbers, sides, shape=(1, _SOME, 1), dtype=np.int64)
    return graph.cast(column, group.dtype)


def _rows(graph: Graph, value: Value, shape: tuple[int, ...]) -> Value:
    """The value with a leading axis for images; one that all share is repeated."""
    if len(value.shape) < len(shape) - (shape[1] == 1) or len(value.shape) == 1:
        between = (1, *shape[1:])
    else:
        between = shape
    return reshaped(graph, value, between)._replace(shape=shape)


REPLACED = {"nms": nms}
