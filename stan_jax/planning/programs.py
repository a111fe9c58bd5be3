"""The training step and the tracker of a config, compiled from shapes alone."""

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from stan_jax.planning import blueprint, figures
from stan_jax.planning.figures import Collective, Memory
from stan_jax.planning.machines import Machine
from stan_jax.pretrained import record
from stan_jax.tracking.program import Program
from stan_jax.training import train_step
from stan_jax.training.train_step import AccumulatedUpdate, TrainState
from stan_jax.types import Pair

# libtpu goes through some programs recursively, deeper than the 8 MiB that are usual.
_STACK = 2**30
_TOO_LARGE = re.compile(
    r"Used (?P<used>[\d.]+)(?P<unit>[KMG]) of [\d.]+[KMG] hbm"
    r"|\((?P<needed>[\d.]+)(?P<its>[KMG])\) exceeds available HBM"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class Cost(NamedTuple):
    """What a compiled program is to cost each device.

    Args:
      memory: at its peak.
      flops: see `figures.flops`; of all calls that an update is made of.
      collectives: likewise.
      seconds: that tracing and compiling took.
      cpu_seconds: of all threads.
    """

    memory: Memory
    flops: int
    collectives: dict[str, Collective]
    seconds: float
    cpu_seconds: float


class TooLarge(Exception):
    """The compiler finds that a program does not fit.

    needed: bytes of a device, as far as it says.
    """

    def __init__(self, needed: int | None, text: str):
        self.needed = needed
        super().__init__(text)


def update(config: Mapping[str, Any], classes: int, machine: Machine) -> Cost:
    """Return what a training step of a config costs a device.

    config: as nested dicts. Raises: InputError as training; TooLarge.
    """
    given = blueprint.update(config, blueprint.model(config, classes), machine.mesh)

    def costs() -> Cost:
        clock = time.monotonic(), time.process_time()
        flops = figures.flops(jax.make_jaxpr(given[0])(*given[1:]).jaxpr)
        compiled = train_step.compiled(*given, machine.options)
        spent = time.monotonic() - clock[0], time.process_time() - clock[1]
        peak, found = memory(compiled, *given[1:]), _collectives(compiled)
        return Cost(peak, flops, found, *spent)

    return _deeply(costs)


def tracker(config: Mapping[str, Any], classes: int, machine: Machine) -> Cost:
    """Return what a clip of the tracker of a config costs the device it runs on.

    config: as nested dicts. Raises: InputError as the tracker; TooLarge.
    """
    names = [str(n) for n in range(classes)]
    settings = record.from_config(config, names).settings
    its = blueprint.model(config, classes)
    device = SingleDeviceSharding(machine.mesh.devices.flat[0])

    def costs() -> Cost:
        clock = time.monotonic(), time.process_time()
        program = Program(its.structure, its.values, settings)
        shapes = program.shapes(settings.clip_length, settings.canvas)
        traced = program.traced.trace(*blueprint.on((program.like, *shapes), device))
        compiled = traced.lower().compile(machine.options)
        spent = time.monotonic() - clock[0], time.process_time() - clock[1]
        flops = figures.flops(traced.jaxpr)
        found = figures.collectives(compiled.as_text())
        return Cost(figures.memory(compiled), flops, found, *spent)

    return _deeply(costs)


def memory(update: Any, state: TrainState, pairs: Pair) -> Memory:
    """Return what a compiled update takes of a device where it takes most.

    state, pairs: that it is compiled for; arrays, or their shapes and places.
    """
    if not isinstance(update, AccumulatedUpdate):
        return figures.memory(update)
    kept = figures.bytes_on_device((state.opt, state.average))
    sums = figures.bytes_on_device(state.params)
    each = [
        figures.memory(update.begin, kept),
        figures.memory(update.count, kept + sums),
        figures.memory(update.learn, kept),
        figures.memory(update.finish, figures.bytes_on_device(pairs)),
    ]
    code = sum(part.code for part in each)
    return max((m._replace(code=code) for m in each), key=lambda m: m.peak)


def _collectives(update: Any) -> dict[str, Collective]:
    """Those of a step: each part of a batch has its own."""
    if not isinstance(update, AccumulatedUpdate):
        return figures.collectives(update.as_text())
    of_parts = [update.count, update.learn] * update.parts
    calls = [update.begin, *of_parts, update.finish]
    return figures.joined([figures.collectives(x.as_text()) for x in calls])


def _deeply(function: Callable[[], Cost]) -> Cost:
    """Call it with room for deep recursion. Raises: TooLarge, and what it raises."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    before = threading.stack_size(_STACK)
    try:
        thread = threading.Thread(target=call)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    (result,) = found
    if isinstance(result, jax.errors.JaxRuntimeError) and "RESOURCE" in str(result):
        raise TooLarge(_needed(str(result)), str(result)) from result
    if isinstance(result, BaseException):
        raise result
    return result


def _needed(text: str) -> int | None:
    match = _TOO_LARGE.search(text)
    if match is None:
        return None
    number, unit = match["used"] or match["needed"], match["unit"] or match["its"]
    return int(float(number) * _UNITS[unit])
