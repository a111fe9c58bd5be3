"""Progress of a long command: a bar, and a line now and then."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """A progress bar with figures and the time left; only lines if not a terminal.

    Use as a context manager; `start` is what an earlier process has done, and without
    a total the bar only shows that something moves.
    """

    def __init__(self, title: str, total: int | None, *, start: int = 0):
        # Notebooks and build servers ask for colours; a bar needs a cursor as well.
        self._moves = sys.stdout.isatty()
        self._console = Console(
            highlight=False,
            soft_wrap=True,
            force_terminal=None if self._moves else False,
        )
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._moves,
            transient=True,
        )
        self._first, self._total, self._since = start, total, time.monotonic()
        self._task = self._bar.add_task(title, total=total, completed=start, figures="")

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, figures: Mapping[str, Any] | None = None) -> None:
        """Move one step further; figures: shown beside the bar until the next."""
        if figures is not None:
            self._bar.update(self._task, figures=show(figures))
        self._bar.advance(self._task)

    def lap(self, name: str) -> None:
        """Print a line of how far it is, where there is no bar."""
        if not self._moves and self._total is not None:
            task = self._bar.tasks[self._task]
            pace = (task.completed - self._first) / (time.monotonic() - self._since)
            left = clock((self._total - task.completed) / max(pace, 1e-9))
            self.line(
                f"{task.description} {task.completed:.0f}/{self._total}  {name}"
                f"  frames_per_s {pace:.3g}  left {left}"
            )

    def line(self, text: str) -> None:
        """Print the text above the bar, or in the log."""
        self._console.print(text, markup=False)


def show(figures: Mapping[str, Any]) -> str:
    """Return "name 1.234  name 5" of some figures."""
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )


def clock(seconds: float) -> str:
    """Return "1:02:03" or "2:03" of a duration."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
