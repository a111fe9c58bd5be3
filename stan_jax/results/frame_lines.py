"""tracks.jsonl: what is seen in each frame of a video, a line a frame.

    {"frame": 0, "seconds": 0.0, "size": [height, width], "tracks": [
      {"id": 3, "class_id": 1, "class": "dog", "score": 0.93, "box": [x1, y1, x2, y2],
       "segmentation": {"size": [height, width], "counts": "compressed run lengths"}}]}

Written as the video is tracked, so that what was done is there however it ends. Boxes
are half-open pixels, masks of the size of the source; `class_id` is 1 for the first
class, as `category_id` of the official results.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from jaxtyping import Float, Int

from stan_jax.errors import InputError
from stan_jax.masks.codec import RLE


class LinesWriter:
    """A file that grows line by line; a context manager.

    Each line goes to the disk whole: after a full disk or a killed process the file
    ends with the last frame that fitted.
    Raises: InputError if it cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path, self.frames = Path(path), 0
        self._whole = 0  # bytes of whole lines

    def __enter__(self) -> "LinesWriter":
        try:
            self._file = open(self.path, "wb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def add(
        self,
        seconds: float,
        size_hw: tuple[int, int],
        *,
        ids: Int[np.ndarray, " n"],
        labels: Int[np.ndarray, " n"],
        names: Sequence[str],
        scores: Float[np.ndarray, " n"],
        boxes: Float[np.ndarray, "n 4"],
        segmentations: Sequence[RLE],
    ) -> None:
        """Write the line of one more frame.

        names: of the class of each track.
        """
        columns = (ids, labels, scores, boxes)
        rows = zip(*(x.tolist() for x in columns), names, segmentations, strict=True)
        tracks = [
            {
                "id": track,
                "class_id": label + 1,
                "class": name,
                "score": round(score, 4),
                "box": [round(x, 2) for x in box],
                "segmentation": rle,
            }
            for track, label, score, box, name, rle in rows
        ]
        line = {
            "frame": self.frames,
            "seconds": round(float(seconds), 6),
            "size": list(size_hw),
            "tracks": tracks,
        }
        text = orjson.dumps(line) + b"\n"
        try:
            while text:
                text = text[self._file.write(text) :]
        except OSError as error:
            os.ftruncate(self._file.fileno(), self._whole)
            raise self._failed(error) from error
        self._whole, self.frames = self._file.tell(), self.frames + 1

    def _failed(self, error: OSError) -> InputError:
        rule = f"cannot be written: {error.strerror or error}"
        return InputError(self.path, f"frame {self.frames}", rule)


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield each line of such a file, one in memory at a time.

    Raises: InputError where the file is absent or a line is none of this kind.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise InputError(path, "", error.strerror or str(error)) from None
    with file:
        for number, text in enumerate(file, start=1):
            try:
                line = orjson.loads(text)
                whole = {"frame", "seconds", "size", "tracks"} <= line.keys()
            except (ValueError, AttributeError):
                whole = False
            if not whole:
                rule = "must be a line of tracks.jsonl, as `stan track` writes it"
                raise InputError(path, f"line {number}", rule)
            yield line
