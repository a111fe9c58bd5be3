"""What a compiled program costs a device: memory, operations, collectives."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jaxtyping import PyTree

_KINDS = (
    "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|"
    "collective-permute|collective-broadcast"
)
_COLLECTIVE = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Memory(NamedTuple):
    """Bytes of a device that a program is to take.

    Args:
      arguments: what it is given.
      temporaries: what it needs beside, and results that take over no argument.
      code: the program itself, where the device holds it.
      beside: what lies on the device meanwhile and is not given to it.
    """

    arguments: int
    temporaries: int
    code: int
    beside: int = 0

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self)


class Collective(NamedTuple):
    """How often devices exchange arrays in one way, and the bytes that come of it."""

    times: int
    size: int


def memory(compiled: Any, beside: int = 0) -> Memory:
    """Return the compiler's own figures of a compiled program."""
    m = compiled.memory_analysis()
    results = m.output_size_in_bytes - m.alias_size_in_bytes
    temporaries = m.temp_size_in_bytes + results
    code = m.generated_code_size_in_bytes
    return Memory(m.argument_size_in_bytes, temporaries, code, beside)


def bytes_on_device(tree: PyTree) -> int:
    """Return the bytes of arrays, or of their shapes, on each of their devices."""

    def size(x: Any) -> int:
        shape = x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(size(x) for x in jax.tree.leaves(tree))


def flops(jaxpr: Any) -> int:
    """Return the operations of all products and convolutions, two a multiplication.

    Of one device where `shard_map` cuts the work. A loop counts as often as it is run,
    one of unknown length once; of branches the costliest does.
    """
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (taken, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        number = math.prod(shape[axis] for axis in taken)
        return 2 * number * equation.outvars[0].aval.size
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        _, channels, *cells = params["dimension_numbers"].rhs_spec
        taps = math.prod(kernel[axis] for axis in (channels, *cells))
        # Between the cells of a map that is spread out lie zeros.
        taps = taps / math.prod(params["lhs_dilation"])
        return round(2 * taps * equation.outvars[0].aval.size)
    inner = [flops(jaxpr) for jaxpr in _inside(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr | core.Jaxpr):
                yield getattr(part, "jaxpr", part)


def collectives(program: str) -> dict[str, Collective]:
    """Return the collectives of a compiled program by kind, each counted once.

    program: text of its HLO. Bytes are those that each device has afterwards.
    """
    found: dict[str, Collective] = {}
    for line in program.splitlines():
        if match := _COLLECTIVE.search(line):
            kind, before = match[2], found.get(match[2], Collective(0, 0))
            sizes = [_bytes(array) for array in _ARRAY.finditer(match[1])]
            if match[3] and kind != "all-reduce":  # operands come before results
                sizes = sizes[len(sizes) // 2 :]
            found[kind] = Collective(before.times + 1, before.size + sum(sizes))
    return found


def joined(parts: list[dict[str, Collective]]) -> dict[str, Collective]:
    """Return the collectives of several programs in one table."""
    kinds = sorted({kind for part in parts for kind in part})
    rows = {kind: [part[kind] for part in parts if kind in part] for kind in kinds}
    return {
        kind: Collective(*(sum(column) for column in zip(*row, strict=True)))
        for kind, row in rows.items()
    }


def _bytes(array: re.Match) -> int:
    bits = int(array[2]) if array[2] else 8
    sides = [int(n) for n in array[3].split(",") if n]
    return math.prod(sides) * bits // 8
