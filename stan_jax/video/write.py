"""Mp4 files that every browser plays, from pictures."""

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from stan_jax.errors import InputError
from stan_jax.files import replacing


def available() -> bool:
    """Return whether PyAV is installed (extra `video`)."""
    return importlib.util.find_spec("av") is not None


class Mp4:
    """A video file that grows picture by picture and appears when it is complete.

    A context manager. The first picture sets the size; an odd side is made even by
    repeating its last row or column, as H.264 in yuv420p needs.
    Raises: ModuleNotFoundError without PyAV; InputError if the file cannot be
    written, and then (as after any error) nothing of it is left.
    """

    def __init__(self, path: str | Path, *, frames_per_s: int = 6):
        if not available():
            raise ModuleNotFoundError("mp4 needs PyAV: pip install 'stan_jax[video]'")
        self.path, self._rate = Path(path), frames_per_s
        self._stack = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> "Mp4":
        return self

    def add(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Append a picture to the video.

        Raises: ValueError for a picture of another size than the first.
        """
        from av import VideoFrame

        height, width = image.shape[:2]
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        with self._named(f"{height} x {width} pixels"):
            if self._container is None:
                self._open(*image.shape[:2])
            size = (self._stream.height, self._stream.width)
            if image.shape[:2] != size:
                raise ValueError(
                    f"pictures of {size} and of {image.shape[:2]} in one video"
                )
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def _open(self, height: int, width: int) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._stack.enter_context(replacing(self.path))
        self._container = self._stack.enter_context(av.open(str(partial), "w"))
        self._stream = self._container.add_stream("h264", rate=self._rate)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20"}

    def __exit__(self, *error: Any) -> None:
        if error and error[0] is not None:
            # A second error, from closing what a full disk refused, says no more.
            with contextlib.suppress(OSError, ValueError):
                self._stack.__exit__(*error)
            return
        with self._named("end"), self._stack:
            if self._container is not None:
                self._container.mux(self._stream.encode(None))

    @contextlib.contextmanager
    def _named(self, record: str):
        try:
            yield
        except OSError as error:
            rule = f"cannot be written: {error.strerror or error}"
            raise InputError(self.path, record, rule) from error
