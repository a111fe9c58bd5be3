"""Overlays of an evaluation: a folder per video and one sheet of frames."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.media.source import Frame, Source
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.video import draw
from stan_jax.video.recording import Recording, clear, picture_of

SHEET_WIDTH = 320  # pixels of one picture on the sheet
GAP = 6
SHEET, WRITTEN = "contact_sheet.png", ".written.json"


class Overlays:
    """Draws the tracks of some videos into `folder`; a context manager.

    Leaves a folder for each video with the files of a `Recording`: overlay.mp4,
    tracks.jsonl and the page index.html; and `contact_sheet.png`, one row a video with
    `columns` frames evenly spaced in time. Those of an earlier run in the same folder
    go; after Ctrl-C those of finished videos stay.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        columns: int = 6,
        frames_per_s: int = 6,
    ):
        self.folder, self._columns = Path(folder), columns
        self._frames_per_s = frames_per_s
        self._rows: dict[tuple[str, str], list[np.ndarray]] = {}
        self._open = contextlib.ExitStack()  # the video that is being written
        self._recording: Recording | None = None
        self._written: list[str] = []

    def __enter__(self) -> "Overlays":
        return self

    def add(
        self,
        video: str,
        frame: tuple[int, int],
        image: UInt8[np.ndarray, "h w 3"],
        tracks: FrameTracks,
        pictures: Mapping[str, UInt8[np.ndarray, "_h _w 3"]] | None = None,
    ) -> None:
        """Add a frame. Frames of a video come in order.

        Args:
          frame: its number and how many the video has.
          tracks: in the frame, for lines and page.
          pictures: drawn already, by what they show: side by side in the mp4, a row
            each on the sheet; default: the image with its tracks.
        """
        index, length = frame
        if index == 0:
            self._begin(video, tracks.categories)
        assert self._recording is not None
        if pictures is None:
            pictures = {"": picture_of(image, tracks)}
        parts = [
            draw.caption(part, name) if name else part
            for name, part in pictures.items()
        ]
        picture = np.concatenate(parts, axis=1)
        seconds = index / self._frames_per_s
        duration = 1 / self._frames_per_s
        self._recording.add(Frame(image, seconds, duration), tracks, picture)
        if index in columns(length, self._columns):
            for name, part in pictures.items():
                text = "  ".join(x for x in (video, f"frame {index}", name) if x)
                row = self._rows.setdefault((video, name), [])
                # After the resizing, so that the text stays sharp.
                row.append(draw.caption(np.asarray(thumbnail(part)), text))

    def _begin(self, video: str, categories: Sequence[str]) -> None:
        self._open.close()
        self._forget_older()
        source = Source(video)
        source.rate = Fraction(self._frames_per_s)
        recording = Recording(self.folder / video, source, categories)
        self._recording = self._open.enter_context(recording)
        self._written.append(video)
        (self.folder / WRITTEN).write_text(json.dumps(self._written))

    def _forget_older(self) -> None:
        """Remove what an earlier run left here, before the first file of this one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._written or not (self.folder / WRITTEN).is_file():
            return
        for name in json.loads((self.folder / WRITTEN).read_text()):
            folder = self.folder / Path(name).name
            clear(folder)
            with contextlib.suppress(OSError):  # it holds something else, or is gone
                folder.rmdir()
        (self.folder / SHEET).unlink(missing_ok=True)

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
        stopped = error[0] is not None and issubclass(error[0], KeyboardInterrupt)
        if self._rows and (error[0] is None or stopped):
            save_sheet(self.folder / SHEET, list(self._rows.values()))


def columns(length: int, number: int) -> list[int]:
    """Return at most `number` frames, evenly spaced, first and last among them."""
    chosen = np.linspace(0, length - 1, min(number, length)).round()
    return chosen.astype(int).tolist()


def save_sheet(
    path: str | Path, rows: Sequence[Sequence[UInt8[np.ndarray, "_h _w 3"]]]
) -> None:
    """Write the pictures into one PNG, row by row.

    Raises: InputError if the file cannot be written; then nothing of it is left.
    """
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    width = max(sum(picture.shape[1] + GAP for picture in row) for row in rows) + GAP
    sheet = np.full((sum(heights) + GAP * (len(rows) + 1), width, 3), 250, np.uint8)
    y = GAP
    for row, height in zip(rows, heights, strict=True):
        x = GAP
        for picture in row:
            h, w = picture.shape[:2]
            sheet[y : y + h, x : x + w] = picture
            x += w + GAP
        y += height + GAP
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            Image.fromarray(sheet).save(partial, format="PNG")
    except OSError as error:
        rule = f"cannot be written: {error.strerror or error}"
        raise InputError(path, "contact sheet", rule) from error


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    """Return the picture at the width of those on a sheet."""
    height = round(image.shape[0] * SHEET_WIDTH / image.shape[1])
    size = (SHEET_WIDTH, height)
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
