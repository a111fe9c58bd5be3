"""The ONNX graph while it is written: values, nodes, constants, graphs inside it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

WIDER = {"bfloat16": "float32"}  # a type that runtimes have few operators for


class Value(NamedTuple):
    """One array of the program: a tensor of the graph by name, or a constant.

    A side of `held` is 1 where that of `shape` is longer and all along it is the same:
    ONNX repeats it by itself, so that most broadcasts never happen.
    """

    shape: tuple[int, ...]
    held: tuple[int, ...]
    dtype: np.dtype
    name: str = ""
    array: np.ndarray | None = None  # of shape `held`; None: not known before it runs


class Graph:
    """A graph that nodes are added to, and the constants of the whole model.

    table: writer of each primitive, by its name.
    replaced: writers of jitted functions, by the name of the function.
    """

    def __init__(
        self,
        table: Mapping[str, Callable],
        replaced: Mapping[str, Callable],
        root: "Graph | None" = None,
    ):
        self.table, self.replaced, self.root = table, replaced, root or self
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._own: set[str] = set()  # tensors that nodes of this very graph give
        self._full: dict[tuple[str, tuple[int, ...]], Value] = {}
        self.constants: dict[tuple, onnx.TensorProto] = {}  # of the root alone
        self.reshaped: dict[str, Value] = {}  # what a Reshape of this graph was given
        self._names = 0

    def inner(self) -> "Graph":
        """Return a graph for a loop or a branch in this one, all of which it sees."""
        return Graph(self.table, self.replaced, self.root)

    def new_name(self, of: str) -> str:
        """Return a name that nothing else in the model has."""
        self.root._names += 1
        return f"{of}_{self.root._names}"

    def input(self, shape: Sequence[int], dtype: Any, name: str = "") -> Value:
        """Return a new input of this graph."""
        name = name or self.new_name("given")
        self.inputs.append(_described(name, shape, dtype))
        return Value(tuple(shape), tuple(shape), np.dtype(dtype), name)

    def constant(self, array: Any, shape: Sequence[int] | None = None) -> Value:
        """Return a constant; shape: that it stands for, where longer than its own."""
        array = np.asarray(array)
        whole = array.shape if shape is None else tuple(shape)
        return Value(whole, array.shape, array.dtype, array=array)

    def node(
        self, op: str, *inputs: Value, shape: Sequence[int], dtype: Any, **attributes
    ) -> Value:
        """Return what an operator makes of whole arrays."""
        return self.nodes_of(op, *inputs, kinds=[(shape, dtype)], **attributes)[0]

    def nodes_of(
        self, op: str, *inputs: Value, kinds: Sequence[tuple], **attributes
    ) -> list[Value]:
        """Return the results of an operator, given the shape and type of each."""
        whole = [self.full(x) for x in inputs]
        names = [self.new_name(op) for _ in kinds]
        self._add(op, [self.named(x) for x in whole], names, attributes)
        return [
            Value(tuple(shape), tuple(shape), np.dtype(dtype), name)
            for name, (shape, dtype) in zip(names, kinds, strict=True)
        ]

    def each(self, op: str, *inputs: Value, dtype: Any, **attributes) -> Value:
        """Return what an operator makes of entries at the same place."""
        shape = np.broadcast_shapes(*(x.shape for x in inputs))
        held = np.broadcast_shapes(*(x.held for x in inputs))
        name = self.new_name(op)
        self._add(op, [self.named(x) for x in inputs], [name], attributes)
        return Value(shape, held, np.dtype(dtype), name)

    def _add(self, op: str, inputs: list, outputs: list, attributes: dict) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        self._own.update(outputs)

    def cast(self, value: Value, dtype: Any) -> Value:
        """Return the value as another type."""
        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        if value.array is not None:
            return value._replace(dtype=dtype, array=value.array.astype(dtype))
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        return self.each("Cast", value, dtype=dtype, to=kind)

    def wide(self, value: Value) -> Value:
        """Return the value in a type that can be computed with."""
        return self.cast(value, WIDER.get(value.dtype.name, value.dtype))

    def number(self, value: Value) -> Value:
        """Return the value in a type that has an order: truth values as 0 and 1."""
        return self.cast(value, "int32") if value.dtype == bool else self.wide(value)

    def where(self, condition: Value, true: Value, false: Value) -> Value:
        """Return entries of one value where a condition holds, else of the other."""
        dtype = true.dtype
        true, false = self.number(true), self.number(false)  # it takes no truth values
        chosen = self.each("Where", condition, true, false, dtype=true.dtype)
        return self.cast(chosen, dtype)

    def unshaped(self, value: Value) -> Value:
        """Return what a value was made of, if it only has other sides."""
        return self.reshaped.get(value.name, value)

    def full(self, value: Value) -> Value:
        """Return the value with all its sides as long as they are."""
        if value.held == value.shape:
            return value
        if value.array is not None and math.prod(value.shape) <= 1 << 12:
            return self.constant(np.broadcast_to(value.array, value.shape))
        name = self.named(value)
        if (name, value.shape) not in self._full:
            sides = self.named(self.constant(np.array(value.shape, np.int64)))
            new = self.new_name("Expand")
            self._add("Expand", [name, sides], [new], {})
            whole = Value(value.shape, value.shape, value.dtype, new)
            self._full[name, value.shape] = whole
        return self._full[name, value.shape]

    def named(self, value: Value) -> str:
        """Return the name of a value in the graph; constants get theirs here."""
        if value.array is None:
            return value.name  # "" for an input that is left out
        array, known = np.ascontiguousarray(value.array), self.root.constants
        array = array.reshape(value.array.shape)  # which the line above loses if []
        key = (array.dtype.name, array.shape, hash(array.tobytes()))
        if key not in known:
            known[key] = numpy_helper.from_array(array, self.new_name("constant"))
        return known[key].name

    def finish(
        self, name: str, results: Sequence[Value], names: Sequence[str] = ()
    ) -> onnx.GraphProto:
        """Return the graph with these results; what none of them needs is left out."""
        outputs = []
        for i, value in enumerate(results):
            value, wanted = self.full(value), names[i] if names else ""
            given = self.named(value)
            if wanted or given not in self._own or given in [x.name for x in outputs]:
                wanted = wanted or self.new_name("result")
                self._add("Identity", [given], [wanted], {})
                given = wanted
            outputs.append(_described(given, value.shape, value.dtype))
        nodes, used = _needed(self.nodes, {x.name for x in outputs})
        held = [x for x in self.constants.values() if x.name in used]
        return helper.make_graph(nodes, name, self.inputs, outputs, held)


def _described(name: str, shape: Sequence[int], dtype: Any) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, [int(x) for x in shape])


def _needed(
    nodes: Sequence[onnx.NodeProto], used: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that lead to any of the used tensors, and all tensors on the way."""
    kept = []
    for node in reversed(nodes):
        if used.intersection(node.output):
            kept.append(node)
            used = used | read_by(node)
    return kept[::-1], used


def read_by(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node reads, in its inner graphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for part in attribute.g.node:
            names |= read_by(part)
    return names
