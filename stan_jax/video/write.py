"""How pictures become an mp4 that every browser plays."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8


def available() -> bool:
    """Return whether PyAV is installed (extra `video`)."""
    return importlib.util.find_spec("av") is not None


class Mp4:
    """A video file that grows picture by picture and appears when it is complete.

    A context manager. The first picture sets the size; an odd last row or column is
    cut off, since H.264 in yuv420p has even sides.
    """

    def __init__(self, path: str | Path, *, frames_per_s: int = 6):
        if not available():
            raise ModuleNotFoundError("mp4 needs PyAV: pip install 'stan_jax[video]'")
        self.path, self._rate = Path(path), frames_per_s
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> "Mp4":
        return self

    def add(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Nothing; the picture is the next of the video.

        Raises: ValueError for a picture of another size than the first.
        """
        import av

        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        if self._container is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._partial), "w", format="mp4")
            self._stream = self._container.add_stream("h264", rate=self._rate)
            self._stream.height, self._stream.width = image.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "20"}
        size = (self._stream.height, self._stream.width)
        if image.shape[:2] != size:
            raise ValueError(
                f"pictures of {size} and of {image.shape[:2]} in one video"
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, kind: object, *_: object) -> None:
        if self._container is None:
            return
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if kind is None:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink(missing_ok=True)
