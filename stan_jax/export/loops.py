"""How programs within a program become nodes of ONNX: calls, branches, loops."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stan_jax.export.graph import Graph, Value
from stan_jax.export.jaxpr import write_closed
from stan_jax.export.shapes import between, joined, one, reshaped


def _call(graph: Graph, eqn: Any, *inputs: Value) -> list[Value] | Value:
    """Write what is called in its place, or what stands for a function of that name."""
    replaced = graph.replaced.get(eqn.params.get("name", ""))
    if replaced is not None:
        return replaced(graph, eqn, *inputs)
    names = ("jaxpr", "call_jaxpr")
    called = next(eqn.params[name] for name in names if name in eqn.params)
    return write_closed(graph, called, inputs)


def _platform(graph: Graph, eqn: Any) -> Value:
    """Where code differs by platform, take what is for none in particular."""
    platforms = eqn.params["platforms"]
    index = platforms.index(None) if None in platforms else 0
    return graph.constant(np.array(index, np.int32))


def _cond(graph: Graph, eqn: Any, which: Value, *inputs: Value) -> list[Value]:
    branches = eqn.params["branches"]
    if which.array is not None:
        chosen = int(np.clip(which.array, 0, len(branches) - 1))
        return write_closed(graph, branches[chosen], inputs)
    return _chosen(graph, graph.cast(which, "int32"), branches, inputs)


def _chosen(graph: Graph, which: Value, branches: Sequence, inputs: tuple) -> list:
    """The last branch where the number is that high, else one of the others."""
    if len(branches) == 1:
        return write_closed(graph, branches[0], inputs)
    parts, last = [], branches[-1]
    for some in ((last,), branches[:-1]):
        inner = graph.inner()
        parts.append(inner.finish("branch", _chosen(inner, which, some, inputs)))
    bar = graph.constant(np.array(len(branches) - 1, np.int32))
    high = graph.each("GreaterOrEqual", which, bar, dtype=bool)
    inner = getattr(last, "jaxpr", last)
    kinds = [(x.aval.shape, x.aval.dtype) for x in inner.outvars]
    how = dict(then_branch=parts[0], else_branch=parts[1])
    return graph.nodes_of("If", high, kinds=kinds, **how)


def _while(graph: Graph, eqn: Any, *inputs: Value) -> list[Value]:
    p = eqn.params
    first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    for_test, for_body = inputs[:first], inputs[first:second]
    start = [graph.full(x) for x in inputs[second:]]

    def test(where, carried):
        (found,) = write_closed(where, p["cond_jaxpr"], [*for_test, *carried])
        return found, _any(where, found)

    rows, goes_on = test(graph, start)
    batched = rows.shape != ()
    inner = graph.inner()
    inner.input((), np.int64)
    inner.input((), bool)
    carried = [inner.input(x.shape, x.dtype) for x in start]
    new = write_closed(inner, p["body_jaxpr"], [*for_body, *carried])
    if batched:  # under vmap: a row that has ended stays as it is
        now = inner.input(rows.shape, bool)
        new = [
            inner.where(_before(inner, now, x), x, old)
            for x, old in zip(new, carried, strict=True)
        ]
    left, again = test(inner, new)
    body = inner.finish("body", [again, *new, *([left] if batched else [])])
    given = [*start, *([rows] if batched else [])]
    kinds = [(x.shape, x.dtype) for x in given]
    results = _loop(graph, None, goes_on, given, body, kinds)
    return results[: len(start)]


def _any(graph: Graph, found: Value) -> Value:
    if found.shape == ():
        return found
    number = graph.cast(found, "int32")
    most = graph.node("ReduceMax", number, shape=(), dtype=number.dtype, keepdims=0)
    return graph.cast(most, bool)


def _before(graph: Graph, rows: Value, x: Value) -> Value:
    """A truth value for each row of x."""
    more = len(x.shape) - len(rows.shape)
    return reshaped(graph, rows, (*rows.shape, *[1] * more))


def _loop(
    graph: Graph,
    times: int | None,
    goes_on: Value | None,
    start: Sequence[Value],
    body: Any,
    kinds: Sequence[tuple],
) -> list[Value]:
    """A Loop of so many times, or as long as its body says."""
    absent = Value((), (), np.dtype(bool))  # an input without a name
    number = absent if times is None else graph.constant(np.array(times, np.int64))
    begins = graph.constant(np.array(True)) if goes_on is None else goes_on
    return graph.nodes_of("Loop", number, begins, *start, kinds=kinds, body=body)


def _scan(graph: Graph, eqn: Any, *inputs: Value) -> list[Value]:
    p, kinds = eqn.params, [x.aval for x in eqn.outvars]
    fixed, start, rows = _parts(eqn, inputs)
    if p["length"] <= max(1, p["unroll"]):
        return _unrolled(graph, p, kinds, fixed, start, rows)
    start, rows = ([graph.full(x) for x in some] for some in (start, rows))
    inner = graph.inner()
    number = inner.input((), np.int64)
    inner.input((), bool)
    carried = [inner.input(x.shape, x.dtype) for x in start]
    if p["reverse"]:
        last = inner.constant(np.array(p["length"] - 1, np.int64))
        number = inner.each("Sub", last, number, dtype=np.int64)
    now = [
        inner.node("Gather", x, number, shape=x.shape[1:], dtype=x.dtype, axis=0)
        for x in rows
    ]
    new = write_closed(inner, p["jaxpr"], [*fixed, *carried, *now])
    body = inner.finish("body", [inner.constant(np.array(True)), *new])
    shapes = [(x.shape, x.dtype) for x in kinds]
    results = _loop(graph, p["length"], None, start, body, shapes)
    if p["reverse"]:
        results[len(start) :] = [_turned(graph, x) for x in results[len(start) :]]
    return results


def _parts(eqn: Any, inputs: Sequence[Value]) -> tuple[list, list, list]:
    """What stays the same, what is carried, and what goes in row by row.

    A body takes and gives rows of arrays that have one more axis outside. That tells
    them from what is carried; their numbers stand elsewhere in each version of JAX.
    """
    body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])

    def rank(x):
        return len(x.aval.shape)

    pairs = zip(eqn.outvars, body.outvars, strict=True)
    carry = sum(rank(x) == rank(inner) for x, inner in pairs)
    pairs = zip(eqn.invars, body.invars, strict=True)
    end = sum(rank(x) == rank(inner) for x, inner in pairs)
    first = end - carry
    return list(inputs[:first]), list(inputs[first:end]), list(inputs[end:])


def _unrolled(
    graph: Graph,
    p: dict,
    kinds: Sequence[Any],
    fixed: list[Value],
    carried: list[Value],
    rows: list[Value],
) -> list[Value]:
    steps = []
    for n in range(p["length"]):
        at = p["length"] - 1 - n if p["reverse"] else n
        now = []
        for x in rows:
            part = one(graph, x, 0, at)
            now.append(reshaped(graph, part, x.shape[1:]))
        new = write_closed(graph, p["jaxpr"], [*fixed, *carried, *now])
        carried, made = new[: len(carried)], new[len(carried) :]
        steps.append([reshaped(graph, x, (1, *x.shape)) for x in made])
    if not steps:
        none = (np.zeros(x.shape, x.dtype) for x in kinds[len(carried) :])
        return [*carried, *map(graph.constant, none)]
    steps = steps[::-1] if p["reverse"] else steps
    return [*carried, *(joined(graph, x, 0) for x in zip(*steps, strict=True))]


def _turned(graph: Graph, x: Value) -> Value:
    return between(graph, x, 0, x.shape[0] - 1, -1, -1)


WRITERS: dict[str, Callable] = {
    "jit": _call,
    "closed_call": _call,
    "remat2": _call,
    "custom_jvp_call": _call,
    "custom_vjp_call": _call,
    "platform_index": _platform,
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
