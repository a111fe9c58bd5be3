"""How reads and writes at computed places become nodes of ONNX.

Both are done on the array as a table of rows, with the number of a row for each place.
Trailing axes that are taken whole make up a row.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.lax import GatherScatterMode

from stan_jax.export.graph import Graph, Value
from stan_jax.export.shapes import between, joined, one, reshaped


class Windows(NamedTuple):
    """Where windows of an array lie, in words of `gather` for `scatter` as well.

    Args:
      sides: of the array.
      sizes: of a window along each of them.
      places: shape of all windows together, one entry each.
      offset_axes: those of `places` that lie within a window.
      dropped: axes of the array that are none of a window.
      start_axes: axes of the array that the starts are for.
      batch_axes, start_batch_axes: that go along together, of array and starts.
      mode: what becomes of windows that poke out.
    """

    sides: tuple[int, ...]
    sizes: tuple[int, ...]
    places: tuple[int, ...]
    offset_axes: tuple[int, ...]
    dropped: tuple[int, ...]
    start_axes: tuple[int, ...]
    batch_axes: tuple[int, ...]
    start_batch_axes: tuple[int, ...]
    mode: Any

    @property
    def window_axes(self) -> list[int]:
        """Axes of the array that lie within a window."""
        gone = {*self.dropped, *self.batch_axes}
        return [n for n in range(len(self.sides)) if n not in gone]

    @property
    def tail(self) -> int:
        """How many trailing axes every window takes whole, and `places` ends with."""
        axes, place, found = self.window_axes, len(self.places) - 1, 0
        while axes and axes[-1] == len(self.sides) - 1 - found:
            whole = self.sizes[axes[-1]] == self.sides[axes[-1]]
            if not whole or place not in self.offset_axes:
                break
            axes, place, found = axes[:-1], place - 1, found + 1
        return found

    @property
    def table(self) -> tuple[int, ...]:
        """Shape of the array as a table: its rows, and the axes that make up one."""
        lead = len(self.sides) - self.tail
        return math.prod(self.sides[:lead]), *self.sides[lead:]

    @property
    def strides(self) -> np.ndarray:
        """Rows from one entry to the next, along each axis before the tail."""
        rows = self.sides[: len(self.sides) - self.tail]
        return np.array([math.prod(rows[n + 1 :]) for n in range(len(rows))], int)


def rows_of(
    graph: Graph, windows: Windows, starts: Value
) -> tuple[Value, Value | None]:
    """Return the row at each place before the tail, and whether it is inside.

    The second is None where all are, or are moved to be. starts: [... axes].
    """
    w, lead = windows, len(windows.places) - windows.tail
    front = [n for n in range(len(w.places)) if n not in w.offset_axes]
    starts = graph.cast(starts, "int64" if starts.dtype.itemsize > 4 else "int32")
    dtype = starts.dtype
    index: Value = graph.constant(_offsets(w, front).astype(dtype))
    inside: Value | None = None
    for number, axis in enumerate(w.start_axes):
        start, last = _column(graph, starts, number), w.sides[axis] - w.sizes[axis]
        sides = [1] * len(w.places)
        for place, side in zip(front, start.shape, strict=True):
            sides[place] = side
        start = reshaped(graph, start, sides[:lead])
        low, high = (graph.constant(np.array(x, dtype)) for x in (0, last))
        if w.mode == GatherScatterMode.FILL_OR_DROP:
            fits = [
                graph.each(op, start, bar, dtype=bool)
                for op, bar in (("GreaterOrEqual", low), ("LessOrEqual", high))
            ]
            for test in fits:
                inside = _both(graph, inside, test)
        if axis >= len(w.sides) - w.tail or last == 0:
            continue
        if w.mode != GatherScatterMode.PROMISE_IN_BOUNDS:
            start = graph.each("Max", start, low, dtype=dtype)
            start = graph.each("Min", start, high, dtype=dtype)
        step = graph.constant(np.array(w.strides[axis], dtype))
        index = _sum(graph, index, graph.each("Mul", start, step, dtype=dtype))
    return index._replace(shape=w.places[:lead]), inside


def _offsets(w: Windows, front: Sequence[int]) -> np.ndarray:
    """What batches and places within a window add to a row, whatever the starts."""
    lead = len(w.places) - w.tail
    total = np.zeros([1] * lead, int)

    def along(place, side, axis):
        sides = [side if n == place else 1 for n in range(lead)]
        return (np.arange(side) * w.strides[axis]).reshape(sides)

    for place, axis in zip(w.offset_axes, w.window_axes, strict=True):
        if place < lead and axis < len(w.strides):
            total = total + along(place, w.sizes[axis], axis)
    for axis, of_starts in zip(w.batch_axes, w.start_batch_axes, strict=True):
        total = total + along(front[of_starts], w.sides[axis], axis)
    return total


def _column(graph: Graph, starts: Value, number: int) -> Value:
    """One of the numbers along the last axis."""
    part = one(graph, starts, len(starts.shape) - 1, number)
    return reshaped(graph, part, starts.shape[:-1])


def _both(graph: Graph, first: Value | None, other: Value) -> Value:
    return other if first is None else graph.each("And", first, other, dtype=bool)


def _sum(graph: Graph, first: Value, other: Value) -> Value:
    if first.array is not None and not first.array.any():  # adds nothing
        shape = np.broadcast_shapes(first.shape, other.shape)
        if np.broadcast_shapes(first.held, other.held) == other.held:
            return other._replace(shape=shape)
    return graph.each("Add", first, other, dtype=first.dtype)


def read_at(
    graph: Graph, table: Value, windows: Windows, starts: Value, fill: Value | None
) -> Value:
    """Return the entries of all windows; fill: what stands for those outside."""
    w = windows
    index, inside = rows_of(graph, w, starts)
    flat = reshaped(graph, table, w.table)
    found = graph.node("Gather", flat, index, shape=w.places, dtype=table.dtype, axis=0)
    if inside is None or fill is None:
        return found
    sides = (*inside.shape, *[1] * w.tail)
    return graph.where(reshaped(graph, inside, sides), found, fill)


def write_at(
    graph: Graph,
    table: Value,
    windows: Windows,
    starts: Value,
    updates: Value,
    reduction: str = "none",
) -> Value:
    """Return the table with the updates in its windows; those outside are dropped."""
    w, dtype = windows, table.dtype
    index, inside = rows_of(graph, w, starts)
    rows, *rest = w.table
    flat = reshaped(graph, table, w.table)
    if inside is not None:  # one further row, which is then thrown away
        blank = graph.constant(np.zeros([1] * (1 + w.tail), dtype), (1, *rest))
        flat = joined(graph, [flat, blank], 0)
        index = graph.where(inside, index, graph.constant(np.array(rows, index.dtype)))
        index = index._replace(shape=w.places[: len(w.places) - w.tail])
    index = graph.cast(index, "int64")
    given = [flat, reshaped(graph, index, (*index.shape, 1)), updates]
    if reduction != "none":
        given[0], given[2] = (graph.wide(x) for x in (given[0], given[2]))
    found = graph.node(
        "ScatterND", *given, shape=flat.shape, dtype=given[0].dtype, reduction=reduction
    )
    found = graph.cast(found, dtype)
    if inside is not None:
        found = between(graph, found, 0, 0, rows)
    return reshaped(graph, found, w.sides)


def _gather(graph: Graph, eqn: Any, table: Value, starts: Value) -> Value:
    d, out = eqn.params["dimension_numbers"], eqn.outvars[0].aval
    windows = Windows(
        sides=table.shape,
        sizes=tuple(eqn.params["slice_sizes"]),
        places=out.shape,
        offset_axes=d.offset_dims,
        dropped=d.collapsed_slice_dims,
        start_axes=d.start_index_map,
        batch_axes=d.operand_batching_dims,
        start_batch_axes=d.start_indices_batching_dims,
        mode=eqn.params["mode"],
    )
    fill = eqn.params["fill_value"]
    if fill is None:
        fill = _filling(table.dtype)
    value = graph.constant(np.array(fill, table.dtype))
    return read_at(graph, table, windows, starts, value)


def _filling(dtype: np.dtype) -> Any:
    """What JAX fills with unless told otherwise."""
    if dtype.kind == "u":
        return np.iinfo(dtype).max
    if dtype.kind == "i":
        return np.iinfo(dtype).min
    return True if dtype.kind == "b" else np.nan


def _scatter(reduction: str) -> Callable:
    def write(
        graph: Graph, eqn: Any, table: Value, starts: Value, updates: Value
    ) -> Value:
        d = eqn.params["dimension_numbers"]
        gone = {*d.inserted_window_dims, *d.operand_batching_dims}
        within = iter(d.update_window_dims)
        sizes = tuple(
            1 if n in gone else updates.shape[next(within)]
            for n in range(len(table.shape))
        )
        windows = Windows(
            sides=table.shape,
            sizes=sizes,
            places=updates.shape,
            offset_axes=d.update_window_dims,
            dropped=d.inserted_window_dims,
            start_axes=d.scatter_dims_to_operand_dims,
            batch_axes=d.operand_batching_dims,
            start_batch_axes=d.scatter_indices_batching_dims,
            mode=eqn.params["mode"],
        )
        return write_at(graph, table, windows, starts, updates, reduction)

    return write


def _one_window(
    graph: Graph, sides: Sequence[int], sizes: Sequence[int], starts: Sequence[Value]
) -> tuple[Windows, Value]:
    """A window of each axis, moved to where it fits, and its starts [axes]."""
    axes = tuple(range(len(sides)))
    sides, sizes = tuple(sides), tuple(sizes)
    windows = Windows(
        sides, sizes, sizes, axes, (), axes, (), (), GatherScatterMode.CLIP
    )
    column = [reshaped(graph, graph.cast(x, "int32"), (1,)) for x in starts]
    return windows, joined(graph, column, 0)


def _dynamic_slice(graph: Graph, eqn: Any, table: Value, *starts: Value) -> Value:
    if not starts:
        return table
    sizes = eqn.params["slice_sizes"]
    return read_at(graph, table, *_one_window(graph, table.shape, sizes, starts), None)


def _dynamic_update(
    graph: Graph, eqn: Any, table: Value, updates: Value, *starts: Value
) -> Value:
    if not starts:
        return updates
    where = _one_window(graph, table.shape, updates.shape, starts)
    return write_at(graph, table, *where, updates)


WRITERS: dict[str, Callable] = {
    "gather": _gather,
    "scatter": _scatter("none"),
    "scatter-add": _scatter("add"),
    "scatter-mul": _scatter("mul"),
    "scatter-max": _scatter("max"),
    "scatter-min": _scatter("min"),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
}
