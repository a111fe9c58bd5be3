"""Sources of frames: each yields upright RGB pictures with their times, in order."""

import queue
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stan_jax.errors import InputError

AHEAD = 4  # frames that are decoded before they are asked for
USUAL_RATE = Fraction(25)  # frames a second of a source that names none
LEAVE_S = 5.0  # that a reader which waits for a silent sender is waited for
PATIENCE_S = 0.1  # between two looks at whether the reader still wants frames
TOLD = 3  # events of one kind that are told one by one, later ones are counted

# A cut, in steps of brightness from 0 to 1 of a small picture: so large a mean change,
# and so much more than the change before it, which a fast pan or a flash is not.
CUT, SMALL_WH = 0.10, (32, 18)


class Frame(NamedTuple):
    """One frame of a source, upright and with square pixels."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    seconds: float | None = None  # since the source begins, where that is known
    duration: float | None = None  # seconds that it is meant to be shown
    fresh: bool = False  # a new scene or size: what came before says nothing of it


class Window(NamedTuple):
    """Window: the frames of a source that are wanted.

    Args:
      start, end: seconds of the source; a frame at `end` itself is outside.
      every: take each n-th frame.
      max_frames: take at most so many.
      new_at_cuts: mark the frame after a scene cut as fresh.
    """

    start: float = 0.0
    end: float = float("inf")
    every: int = 1
    max_frames: int | None = None
    new_at_cuts: bool = False

    def check(self) -> None:
        """Raise InputError for a window without frames."""
        if not 0 <= self.start < self.end:
            rule = f"must lie in order from 0 on, are {self.start:g} and {self.end:g}"
            raise InputError("start and end", "", rule)
        for name in ("every", "max_frames"):
            value = getattr(self, name)
            if value is not None and (int(value) != value or value < 1):
                rule = f"must be a whole number from 1 up, is {value}"
                raise InputError(name, "", rule)


WHOLE = Window()


class Raw(NamedTuple):
    """One frame before its pixels are made; `pixels` raises `Unreadable`."""

    seconds: float
    duration: float
    pixels: Callable[[], np.ndarray]


class Unreadable(Exception):
    """What stands where a frame should be."""


class Source:
    """Frames of one video, decoded in a thread of their own; a context manager.

    Iterate it once. Afterwards, and meanwhile, its attributes say what was met:

      name: for people and for the names of files.
      rate: frames a second as far as the source says, else None.
      seconds: of the whole source as far as it says, else None.
      decoded, bad, skipped: frames taken from the source, those that were broken, and
        files that are no pictures or frames that came too fast.
      notes: what a person should know, one line each.
      facts: what a person may like to know, by name.
    """

    live = False

    def __init__(self, name: str, window: Window = WHOLE):
        window.check()
        self.name, self.window = name, window
        self.rate: Fraction | None = None
        self.seconds: float | None = None
        self.decoded = self.bad = self.skipped = 0
        self.notes: list[str] = []
        self.facts: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._told: dict[str, int] = {}

    @property
    def total(self) -> int | None:
        """Number of frames to come, as far as the source says; an estimate."""
        if self.rate is None or self.seconds is None:
            return self.window.max_frames
        span = min(self.seconds, self.window.end) - self.window.start
        frames = max(0, round(span * self.rate / self.window.every))
        return min(frames, self.window.max_frames or frames)

    def describe(self) -> str:
        """Return what is known of it before it is read, in a line."""
        parts = [" ".join(self.facts.values())]
        if self.rate is not None:
            parts.append(f"{float(self.rate):.4g} frames/s")
        if self.seconds is not None:
            parts.append(f"{self.seconds:.1f} s")
        return f"{self.name}: {', '.join(parts)}"

    def raw(self) -> Iterator[Raw]:
        """Return the frames from about `window.start` on, or from before.

        A bare source has none: it describes frames that come from elsewhere.
        """
        return iter(())

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join(LEAVE_S)

    def stop(self) -> None:
        """End the frames after the one that is at hand; from any thread."""
        self._stop.set()

    def __iter__(self) -> Iterator[Frame]:
        ready: queue.Queue = queue.Queue(AHEAD)
        self._start(lambda item: self._put(ready, item))
        while True:
            item = self._get(ready)
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _start(self, put: Callable[[Any], bool]) -> None:
        if self._thread is not None:
            raise RuntimeError(f"{self.name} was read already: open it anew")

        def work():
            end = None
            try:
                for frame in self._windowed():
                    if not put(frame):
                        break
            except Exception as error:
                end = error
            put(end)

        self._thread = threading.Thread(target=work, daemon=True, name="decode")
        self._thread.start()

    def _put(self, ready: queue.Queue, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                ready.put(item, timeout=PATIENCE_S)
                return True
            except queue.Full:
                continue
        return False

    def _get(self, ready: queue.Queue) -> Any:
        while not self._stop.is_set():
            try:
                return ready.get(timeout=PATIENCE_S)
            except queue.Empty:
                continue
        return None

    def _windowed(self) -> Iterator[Frame]:
        start, end, every, most, new_at_cuts = self.window
        size, count, given = None, 0, 0
        cuts = _Cuts()
        for raw in self.raw():
            if self._stop.is_set() or raw.seconds >= end:
                return
            if raw.seconds < start - 1e-6:
                continue
            count += 1
            if (count - 1) % every:
                continue
            try:
                image = raw.pixels()
            except Unreadable as error:
                self.bad += 1
                self.tell("broken", str(error), "more are broken")
                continue
            self.decoded += 1
            fresh = size is None
            if size not in (None, image.shape[:2]):
                sizes = f"from {_by(size)} to {_by(image.shape[:2])}"
                at = f"the size changes {sizes} at {raw.seconds:.2f} s"
                self.tell("size", f"{at}: memory starts anew", "changes of size follow")
                fresh = True
            size = image.shape[:2]
            fresh |= new_at_cuts and cuts.see(image)
            yield Frame(image, raw.seconds, raw.duration * every, fresh)
            given += 1
            if given == most:
                return

    def tell(self, kind: str, text: str, more: str) -> None:
        """Add a note; after three of a kind only their number is kept."""
        self._told[kind] = count = self._told.get(kind, 0) + 1
        if count <= TOLD:
            self.notes.append(text)
            return
        line = f"and {count - TOLD} {more}"
        if count > TOLD + 1:
            self.notes.remove(f"and {count - TOLD - 1} {more}")
        self.notes.append(line)


class _Cuts:
    """Finds the first frame of each scene, from small grey pictures."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._change = 0.0

    def see(self, image: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Return whether this frame begins a scene."""
        picture = Image.fromarray(image).resize(SMALL_WH, Image.Resampling.BOX)
        grey = np.asarray(picture.convert("L"), np.float32) / 255
        before, self._before = self._before, grey
        if before is None:
            return False
        change = float(np.abs(grey - before).mean())
        jump, self._change = change - self._change, change
        return min(change, jump) > CUT


def _by(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]} x {size_hw[0]}"
