"""Several processes that train as one, on JAX's own runtime: who is who, how they end.

One process alone needs none of it, and everything here then does nothing.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from stan_jax.errors import InputError
from stan_jax.signals import Signals

FOUND = "auto"  # coordinator, number and index are what the cluster says
TEXT = 2000  # bytes that a process can tell the others at once
UNKNOWN = "unknown"
OTHERS = "error: another process has ended"
# In the runtime's errors, where others are gone.
GONE = "(?i)gloo|nccl|peer|heartbeat|unavailable|coordination"
_MEETINGS = itertools.count()
WEEK_S = 7 * 24 * 3600  # what the others wait for an evaluation, at most
ROLL_CALL_S = 3  # who is there answers in less


def join(coordinator: str, number: int | None = None, index: int | None = None) -> None:
    """Join the other processes; must run before anything touches a device.

    Args:
      coordinator: HOST:PORT of the first process, which all of them can reach; "auto"
        where SLURM, Open MPI, Kubernetes or a TPU pod says all three; "": alone.
      number: of processes.
      index: which of them this is, from 0.
    Raises: InputError where the three do not go together.
    """
    if not coordinator:
        if number is not None or index is not None:
            rule = "must be named where --processes or --process is: HOST:PORT, or auto"
            raise InputError("--coordinator", "", rule)
        return
    if coordinator == FOUND:
        try:
            jax.distributed.initialize()
        except ValueError as error:  # nothing that it knows
            rule = f"auto finds no cluster here: {error}"
            raise InputError("--coordinator", "", rule) from None
        _heed_sigterm()
        return
    if number is None or index is None or not 0 <= index < number:
        rule = f"must be below --processes = {number}, is {index}"
        raise InputError("--process", "", rule)
    # Beforehand: a process that never comes ends the others from inside the runtime.
    print(f"process {index} of {number}: waiting for the others at {coordinator}")
    sys.stdout.flush()
    jax.distributed.initialize(coordinator, number, index)
    _heed_sigterm()


def _heed_sigterm() -> None:
    # The runtime has begun to swallow it, for whoever asks it at steps counted from 0.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def alone() -> bool:
    """Return whether there are no others."""
    return not jax.distributed.is_initialized()


def is_first() -> bool:
    """Return whether this is the one process that prints and writes."""
    return alone() or jax.process_index() == 0


@contextlib.contextmanager
def only_first_prints() -> Generator[None]:
    """Keep what the other processes print from the standard output."""
    with contextlib.ExitStack() as stack:
        if not is_first():
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield


@contextlib.contextmanager
def in_all(*, long: bool = False) -> Generator[None]:
    """Let an InputError of one process be one of all, which names it.

    long: it may take one process minutes more than another.
    Raises: InputError.
    """
    told = ""
    try:
        yield
    except InputError as error:
        if alone():
            raise
        told = str(error)
    if alone():
        return
    if long:
        _meet()
    for index, text in enumerate(of_all(told)):
        if text:
            raise InputError(f"process {index}", "", text)


@contextlib.contextmanager
def leave_at_once() -> Generator[None]:
    """End the process as soon as an error leaves the block.

    Python's own way out waits for the other processes, and they for what this one was
    to compute. They end as soon as its connections do.
    """
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else _line(error)
        if alone() or code in (0, None):
            raise
        if code == UNKNOWN:
            traceback.print_exc()
        elif isinstance(code, str):
            _say(code)
        if isinstance(code, str) and code.startswith(OTHERS):
            for name in missing():
                _say(f"process {name} does not answer")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _line(error: BaseException) -> str:
    """What became of the others, where that is what went wrong."""
    text = str(error)
    kinds = jax.errors.JaxRuntimeError, ValueError  # this while they wait
    if isinstance(error, kinds) and re.search(GONE, text):
        cure = "start all of them again: they go on from the last checkpoint"
        return f"{OTHERS}; {cure} ({text[-100:]})"
    return UNKNOWN


def _say(text: str) -> None:
    # At once: without the first process the runtime ends the others when it notices.
    print(f"process {jax.process_index()}: {text}", file=sys.stderr, flush=True)


def missing() -> list[int]:
    """Return which processes do not answer within 3 seconds, as far as it is known.

    All that are left must ask, and can do so once.
    """
    try:
        wait = multihost.get_barrier_sync_fn()
        wait(key="roll call", timeout_ms=ROLL_CALL_S * 1000)
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "UNAVAILABLE" in text:  # the first one keeps the roll
            return [0]
        names = text.partition("task names:")[2]
        return sorted(map(int, re.findall(r"(?m)^(?:/job:.*/task:)?(\d+)$", names)))
    return []


def of_all(value: Any) -> list[Any]:
    """Return what each process gives, in their order.

    value: as json takes it, in at most 2000 bytes; a long text is cut.
    """
    if alone():
        return [value]
    if isinstance(value, str):
        value = value.encode()[: TEXT // 2].decode(errors="ignore")
    mine = np.zeros(TEXT, np.uint8)
    data = json.dumps(value, ensure_ascii=False).encode()
    mine[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(mine)
    return [json.loads(bytes(row).rstrip(b"\0")) for row in rows]


def _meet() -> None:
    """Wait for all processes, however long that takes them.

    A device that waits in a collective computes meanwhile, and on a CPU gives up.
    """
    name = f"meeting {next(_MEETINGS)}"  # each has its own, the same for all
    multihost.get_barrier_sync_fn()(key=name, timeout_ms=WEEK_S * 1000)


class AgreedSignals(Signals):
    """Signals to any of the processes, which all heed after the same step.

    Alone it is `Signals`. Else each step carries whether some process was asked, and
    all read what the step before has carried: no device waits for that.
    """

    def __init__(self, mesh: Mesh):
        super().__init__()
        every, self._cut = (
            NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",))
        )
        self._any = jax.jit(jnp.max, out_shardings=every)
        self._devices = len(mesh.local_devices)
        self._before: Any = False

    def after_step(self) -> str:
        """Return what stops the run here, if anything; all ask after each step."""
        if alone():
            return self.received
        mine = np.full(self._devices, bool(self.received), np.int32)
        asked = self._any(jax.make_array_from_process_local_data(self._cut, mine))
        before, self._before = self._before, asked
        return "a signal to one of the processes" if before else ""
