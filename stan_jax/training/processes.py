"""Several processes that train as one, on JAX's own runtime: who is who, how they end.

One process alone needs none of it, and everything here then does nothing.
"""

import contextlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from stan_jax.errors import InputError
from stan_jax.signals import ASKING, Signals

FOUND = "auto"  # coordinator, number and index are what the cluster says
TEXT = 1000  # bytes that a process can tell the others at once
UNKNOWN = "unknown"
# In the runtime's errors, where others are gone.
GONE = "(?i)gloo|nccl|peer|heartbeat|unavailable|coordination"
WEEK_S = 7 * 24 * 3600  # what the others wait for an evaluation, at most


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
        return
    if number is None or index is None or not 0 <= index < number:
        rule = f"must be below --processes = {number}, is {index}"
        raise InputError("--process", "", rule)
    # Beforehand: a process that never comes ends the others from inside the runtime.
    print(f"process {index} of {number}: waiting for the others at {coordinator}")
    sys.stdout.flush()
    jax.distributed.initialize(coordinator, number, index)


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
def in_all() -> Generator[None]:
    """Let an InputError of one process be one of all, which names it.

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
    for index, text in enumerate(_told(told)):
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
            print(f"process {jax.process_index()}: {code}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _line(error: BaseException) -> str:
    """What became of the others, where that is what went wrong."""
    text = str(error)
    if isinstance(error, jax.errors.JaxRuntimeError) and re.search(GONE, text):
        cure = "start all of them again: they go on from the last checkpoint"
        return f"error: another process has ended; {cure} ({text[-100:]})"
    return UNKNOWN


def of_first(value: Any, what: str) -> Any:
    """Return what the first process gives, however long that takes it.

    value: of the first, as json takes it, in at most 1000 bytes. what: it is doing.
    """
    if alone():
        return value
    multihost.sync_global_processes(what, timeout=WEEK_S)
    return json.loads(_told(json.dumps(value))[0])


def _told(text: str) -> list[str]:
    """The text of each process, in their order."""
    mine = np.zeros(TEXT, np.uint8)
    data = text.encode()[:TEXT]
    mine[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(mine)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in rows]


class AgreedSignals(Signals):
    """Signals to any of the processes, which all heed after the same step.

    Alone it is `Signals`. SIGTERM is left to the runtime, which tells the others; each
    other signal that asks is passed on as that.
    """

    def __init__(self) -> None:
        super().__init__(ASKING if alone() else ("SIGINT", "SIGHUP"))

    def after(self, step: int) -> str:
        """Return what stops the run after this step, if anything; ask at each."""
        if alone():
            return self.received
        agreed = multihost_utils.reached_preemption_sync_point(step)
        return "a signal to one of the processes" if agreed else ""

    def _note(self, number: int, frame: object) -> None:
        super()._note(number, frame)
        if not alone():
            self.received = ""  # all are to stop, not this one
            os.kill(os.getpid(), signal.SIGTERM)
