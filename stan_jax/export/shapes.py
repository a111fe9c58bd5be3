"""How primitives that move entries without computing become nodes of ONNX."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stan_jax.export.graph import Graph, Value


def reshaped(graph: Graph, value: Value, shape: Sequence[int]) -> Value:
    """Return the value with other sides; if only 1s come or go it stays short."""
    shape = tuple(int(x) for x in shape)
    if value.shape == shape:
        return value
    held = shape
    if value.held != value.shape:
        long = [n for n, side in enumerate(value.shape) if side != 1]
        if [value.shape[n] for n in long] == [side for side in shape if side != 1]:
            rest = iter([value.held[n] for n in long])
            held = tuple(1 if side == 1 else next(rest) for side in shape)
        else:
            value = graph.full(value)
    if value.array is not None:
        return graph.constant(value.array.reshape(held), shape)
    # Of several in a row only the last: OpenVINO (2026.4) mistakes others' layout.
    value = graph.unshaped(value)
    if value.held == held:
        return value._replace(shape=shape)
    sides = graph.constant(np.array(held, np.int64))
    new = graph.node("Reshape", _whole(value), sides, shape=held, dtype=value.dtype)
    graph.reshaped[new.name] = value
    return new._replace(shape=shape)


def transposed(graph: Graph, value: Value, order: Sequence[int]) -> Value:
    """Return the value with its axes in another order."""
    order = [int(axis) for axis in order]
    if order == sorted(order):
        return value
    shape, held = ([sides[n] for n in order] for sides in (value.shape, value.held))
    if value.array is not None:
        return graph.constant(value.array.transpose(order), shape)
    long = [axis for axis in order if value.shape[axis] != 1]
    if long == sorted(long):  # only sides of 1 go elsewhere
        return reshaped(graph, value, shape)
    new = graph.node(
        "Transpose", _whole(value), shape=held, dtype=value.dtype, perm=order
    )
    return new._replace(shape=tuple(shape))


def sliced(
    graph: Graph,
    value: Value,
    starts: Sequence[int],
    ends: Sequence[int],
    steps: Sequence[int],
) -> Value:
    """Return the entries from starts up to ends; steps below 0 go from the end."""
    parts = zip(starts, ends, steps, strict=True)
    shape = [len(range(start, end, step)) for start, end, step in parts]
    axes = [
        n
        for n, side in enumerate(value.held)
        if value.held[n] == value.shape[n]
        and (starts[n], ends[n], steps[n]) != (0, side, 1)
    ]
    held = [shape[n] if n in axes else side for n, side in enumerate(value.held)]
    if not axes:
        return value._replace(shape=tuple(shape))
    if value.array is not None:
        parts = [slice(None)] * len(shape)
        for n in axes:
            parts[n] = slice(starts[n], ends[n] if ends[n] >= 0 else None, steps[n])
        return graph.constant(value.array[tuple(parts)], shape)
    # Below -side there is nothing: the end of an axis that is walked to its start.
    rows = [
        [starts[n] for n in axes],
        [ends[n] if ends[n] >= 0 else -value.shape[n] - 1 for n in axes],
        axes,
        [steps[n] for n in axes],
    ]
    given = [graph.constant(np.array(row, np.int64)) for row in rows]
    new = graph.node("Slice", _whole(value), *given, shape=held, dtype=value.dtype)
    return new._replace(shape=tuple(shape))


def between(
    graph: Graph, value: Value, axis: int, start: int, end: int, step: int = 1
) -> Value:
    """Return the entries from start up to end along one axis; as `sliced`."""
    starts, ends, steps = [0] * len(value.shape), [*value.shape], [1] * len(value.shape)
    starts[axis], ends[axis], steps[axis] = start, end, step
    return sliced(graph, value, starts, ends, steps)


def one(graph: Graph, value: Value, axis: int, number: int) -> Value:
    """Return one entry along an axis, which stays."""
    return between(graph, value, axis, number, number + 1)


def joined(graph: Graph, parts: Sequence[Value], axis: int) -> Value:
    """Return values one after the other along an axis."""
    shape = list(parts[0].shape)
    shape[axis] = sum(x.shape[axis] for x in parts)
    parts = [x for x in parts if x.shape[axis]]
    if len(parts) == 1:
        return parts[0]
    if all(x.array is not None for x in parts):
        arrays = [np.broadcast_to(np.asarray(x.array), x.shape) for x in parts]
        return graph.constant(np.concatenate(arrays, axis))
    dtype = parts[0].dtype
    return graph.node("Concat", *parts, shape=shape, dtype=dtype, axis=axis)


def _whole(value: Value) -> Value:
    """The value as if it were no longer than it is held."""
    return value._replace(shape=value.held)


def _reshape(graph: Graph, eqn: Any, x: Value, *rest: Value) -> Value:
    return reshaped(graph, x, eqn.outvars[0].aval.shape)


def _transpose(graph: Graph, eqn: Any, x: Value) -> Value:
    return transposed(graph, x, eqn.params["permutation"])


def _broadcast(graph: Graph, eqn: Any, x: Value, *rest: Value) -> Value:
    shape, axes = eqn.outvars[0].aval.shape, eqn.params["broadcast_dimensions"]
    sides = [1] * len(shape)
    for side, axis in zip(x.shape, axes, strict=True):
        sides[axis] = side
    return reshaped(graph, x, sides)._replace(shape=tuple(shape))


def _tile(graph: Graph, eqn: Any, x: Value) -> Value:
    pairs = list(zip(eqn.params["reps"], x.shape, strict=True))
    apart = reshaped(graph, x, [n for _, side in pairs for n in (1, side)])
    many = tuple(n for pair in pairs for n in pair)
    return reshaped(graph, apart._replace(shape=many), eqn.outvars[0].aval.shape)


def _concatenate(graph: Graph, eqn: Any, *parts: Value) -> Value:
    return joined(graph, parts, eqn.params["dimension"])


def _stack(graph: Graph, eqn: Any, *parts: Value) -> Value:
    axis = eqn.params.get("axis", eqn.params.get("dimension", 0))
    shape = list(parts[0].shape)
    shape.insert(axis, 1)
    return joined(graph, [reshaped(graph, x, shape) for x in parts], axis)


def _unstack(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    axis, shape = eqn.params["axis"], eqn.outvars[0].aval.shape
    parts = [one(graph, x, axis, n) for n in range(x.shape[axis])]
    return [reshaped(graph, part, shape) for part in parts]


def _split(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    found, axis, first = [], eqn.params["axis"], 0
    for size in eqn.params["sizes"]:
        found.append(between(graph, x, axis, first, first + size))
        first += size
    return found


def _slice(graph: Graph, eqn: Any, x: Value) -> Value:
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(x.shape)
    return sliced(graph, x, starts, ends, steps)


def _reverse(graph: Graph, eqn: Any, x: Value) -> Value:
    turned = eqn.params["dimensions"]
    rows = [
        (side - 1, -1, -1) if n in turned else (0, side, 1)
        for n, side in enumerate(x.shape)
    ]
    return sliced(graph, x, *zip(*rows, strict=True)) if rows else x


def _iota(graph: Graph, eqn: Any, *rest: Value) -> Value:
    shape, axis = eqn.outvars[0].aval.shape, eqn.params["dimension"]
    row = np.arange(shape[axis]).astype(eqn.params["dtype"])
    sides = [shape[axis] if n == axis else 1 for n in range(len(shape))]
    return graph.constant(row.reshape(sides), shape)


def _pad(graph: Graph, eqn: Any, x: Value, value: Value) -> Value:
    return padded(graph, x, value, eqn.params["padding_config"])


def padded(graph: Graph, x: Value, value: Value, config: Sequence[tuple]) -> Value:
    """Return x with copies of a value around it and between its entries.

    config: how many before, after and between along each axis; below 0 takes away.
    """
    config = [tuple(int(n) for n in ends) for ends in config]  # JAX has some of NumPy
    for axis, (_, _, gap) in enumerate(config):
        if gap and x.shape[axis]:
            x = _spread(graph, x, value, axis, gap)
    ends = [(low, high) for low, high, _ in config]
    if not any(low or high for low, high in ends):
        return x
    shape = [side + low + high for side, (low, high) in zip(x.shape, ends, strict=True)]
    counts = [max(low, 0) for low, _ in ends] + [max(high, 0) for _, high in ends]
    around = graph.constant(np.array(counts, np.int64))
    wide = [s + max(a, 0) + max(b, 0) for s, (a, b) in zip(x.shape, ends, strict=True)]
    found = x
    if any(counts):
        given = [graph.wide(found), around, graph.wide(value)]
        found = graph.node("Pad", *given, shape=wide, dtype=given[0].dtype)
        found = graph.cast(found, x.dtype)
    starts = [max(-low, 0) for low, _ in ends]
    stops = [start + side for start, side in zip(starts, shape, strict=True)]
    return sliced(graph, found, starts, stops, [1] * len(shape))


def _spread(graph: Graph, x: Value, value: Value, axis: int, number: int) -> Value:
    """Copies of a value between the entries along an axis, none after the last."""
    side = x.shape[axis]
    before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
    rows = reshaped(graph, x, (*before, 1, *after))
    gap = (*before, number, *after)
    blank = reshaped(graph, value, (1,) * len(gap))._replace(shape=gap)
    rows = joined(graph, [rows, blank], axis + 1)
    total = side * (number + 1)
    whole = reshaped(graph, rows, (*before[:-1], total, *after))
    return between(graph, whole, axis, 0, total - number)


def is_empty(value: Value) -> bool:
    """Return whether a value has no entries."""
    return math.prod(value.shape) == 0


WRITERS: dict[str, Callable] = {
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "tile": _tile,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "split": _split,
    "slice": _slice,
    "rev": _reverse,
    "iota": _iota,
    "pad": _pad,
}
