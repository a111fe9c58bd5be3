"""Signals that ask a long command to save what it has and leave."""

import signal
import threading
from collections.abc import Callable
from typing import Any

ASKING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # where the system has them


class Signals:
    """Memory of a signal, so that a loop can save and leave; a context manager.

    The second signal of a kind does what it does elsewhere: it ends the process.
    `then`, which may be set at any time, is called when the first one comes.
    """

    def __init__(self, names: tuple[str, ...] = ASKING):
        self.received = ""  # name of the signal
        self.then: Callable[[], None] | None = None
        self._names = names

    @property
    def exit_status(self) -> int:
        """What a shell expects of a process that ended so; 0 without a signal."""
        return 128 + signal.Signals[self.received] if self.received else 0

    def __enter__(self) -> Any:  # itself, of whatever kind
        # Python lets no other thread set handlers: who runs us in one has their own.
        if threading.current_thread() is not threading.main_thread():
            self._old = {}
            return self
        numbers = [getattr(signal, n) for n in self._names if hasattr(signal, n)]
        self._old = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = signal.Signals(number).name
        signal.signal(number, self._old[signal.Signals(number)])
        if self.then is not None:
            self.then()
