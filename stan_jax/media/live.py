"""Frames of a camera or a stream as they come: the newest, never a queue."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

from stan_jax.media.source import PATIENCE_S, WHOLE, Frame, Window
from stan_jax.media.video_file import VideoFile

# How libav calls cameras: its format and the name of device n.
CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}


class Live(VideoFile):
    """Frames of an address or a camera; those that nobody was ready for are skipped.

    It ends when the sender does, or after `stop`.
    """

    live = True

    @classmethod
    def camera(cls, number: int, window: Window = WHOLE) -> "Live":
        """Open the camera of this number."""
        format, device = CAMERAS.get(sys.platform, CAMERAS["linux"])
        device = device.format(number)
        return cls(device, window, name=f"camera-{number}", format=format)

    def __iter__(self) -> Iterator[Frame]:
        self._newest: Any = None
        self._arrived = threading.Condition()
        self._over = False
        self._start(self._replace)
        while (frame := self._take()) is not None:
            yield frame

    @property
    def total(self) -> int | None:
        """None, or the number that was asked for."""
        return self.window.max_frames

    def _replace(self, item: Any) -> bool:
        with self._arrived:
            if isinstance(item, Frame):
                if self._newest is not None:
                    self.skipped += 1
                    # A scene that began while nobody looked has still begun.
                    item = item._replace(fresh=item.fresh or self._newest.fresh)
                self._newest = item
            else:
                self._over = True
                if item is not None:
                    self.notes.append(f"ended with an error: {item}")
            self._arrived.notify()
        return not self._stop.is_set()

    def _take(self) -> Frame | None:
        with self._arrived:
            while self._newest is None:
                if self._over or self._stop.is_set():
                    return None
                self._arrived.wait(PATIENCE_S)
            frame, self._newest = self._newest, None
            return frame
