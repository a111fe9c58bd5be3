"""How a JAX function becomes an ONNX model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import onnx
from onnx import helper

from stan_jax import __version__
from stan_jax.errors import InputError
from stan_jax.export import (
    convolution,
    elementwise,
    gather_scatter,
    loops,
    reductions,
    shapes,
    sort,
)
from stan_jax.export.graph import Graph
from stan_jax.export.jaxpr import write_closed

OPSET, IR_VERSION = 18, 8  # IR 8 is the version that came with opset 18
WRITERS: dict[str, Callable] = {
    **elementwise.WRITERS,
    **shapes.WRITERS,
    **gather_scatter.WRITERS,
    **sort.WRITERS,
    **reductions.WRITERS,
    **convolution.WRITERS,
    **loops.WRITERS,
}


def onnx_of(
    function: Callable,
    *args: Any,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    replaced: Mapping[str, Callable] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Return the model that computes what a JAX function does.

        model = onnx_of(jnp.sin, jax.ShapeDtypeStruct((3,), jnp.float32))

    Arrays that the function holds become constants, and what follows from constants
    alone is computed here.

    Args:
      args: arrays or their shapes, in any pytree; the model takes this shape alone.
      inputs, outputs: names of the leaves of arguments and results, in order; default
        input_0, input_1, ... and output_0, ...
      replaced: writers that stand for jitted functions, by the function's name.
      metadata: what is written into the model beside the program.
    Raises: InputError for a primitive that has no writer, and for other names than
      there are leaves.
    """
    closed = jax.make_jaxpr(function)(*args)
    graph = Graph(WRITERS, replaced or {})
    given_names = _names("input", inputs, len(closed.in_avals))
    given = [
        graph.input(x.shape, x.dtype, name)
        for x, name in zip(closed.in_avals, given_names, strict=True)
    ]
    found = write_closed(graph, closed, given)
    names = _names("output", outputs, len(found), given_names)
    model = helper.make_model(
        graph.finish(getattr(function, "__name__", "function"), found, names),
        producer_name="stan_jax",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, dict(metadata or {}))
    return model


def _names(
    kind: str, given: Sequence[str], number: int, taken: Sequence[str] = ()
) -> list[str]:
    names = list(given) or [f"{kind}_{n}" for n in range(number)]
    if len(names) != number or len({*names, *taken}) != number + len(taken):
        rule = f"must be {number} names that nothing else has, are {names}"
        raise InputError(f"{kind}s", "", rule)
    return names
