"""Overlays of an evaluation: a video per clip and one sheet of frames."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.video import draw, write

SHEET_WIDTH = 320  # pixels of one picture on the sheet
GAP = 6


class Overlays:
    """Draws the tracks of some videos into `folder`; a context manager.

    Leaves <video>.mp4 (where PyAV is installed) and `contact_sheet.png`, one row a
    video with `columns` frames evenly spaced in time.
    names: of the classes, by label.
    """

    def __init__(
        self,
        folder: str | Path,
        names: Sequence[str] = (),
        *,
        columns: int = 6,
        frames_per_s: int = 6,
    ):
        self.folder, self._names, self._columns = Path(folder), names, columns
        self._frames_per_s = frames_per_s
        self._rows: dict[tuple[str, str], list[np.ndarray]] = {}
        self._open = contextlib.ExitStack()  # the video that is being written
        self._video: write.Mp4 | None = None

    def __enter__(self) -> "Overlays":
        return self

    def add(
        self,
        video: str,
        frame: tuple[int, int],
        image: UInt8[np.ndarray, "h w 3"],
        *,
        masks: Bool[np.ndarray, "n h w"],
        boxes: Float[np.ndarray, "n 4"],
        labels: Int[np.ndarray, " n"],
        ids: Int[np.ndarray, " n"],
        scores: Float[np.ndarray, " n"],
    ) -> None:
        """Draw a frame. Frames of a video come in order.

        frame: its number and how many the video has.
        """
        picture = picture_of(
            image,
            self._names,
            masks=masks,
            boxes=boxes,
            labels=labels,
            ids=ids,
            scores=scores,
        )
        self.put(video, frame, {"": picture})

    def put(
        self,
        video: str,
        frame: tuple[int, int],
        pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]],
    ) -> None:
        """Add a frame that is drawn already, perhaps several times.

        pictures: by what they show; side by side in the mp4, a row each on the sheet.
        """
        index, length = frame
        if index == 0:
            self._open.close()
            if write.available():
                mp4 = write.Mp4(
                    self.folder / f"{video}.mp4", frames_per_s=self._frames_per_s
                )
                self._video = self._open.enter_context(mp4)
        if self._video:
            parts = [
                draw.caption(picture, name) if name else picture
                for name, picture in pictures.items()
            ]
            self._video.add(np.concatenate(parts, axis=1))
        if index in columns(length, self._columns):
            for name, picture in pictures.items():
                text = "  ".join(x for x in (video, f"frame {index}", name) if x)
                row = self._rows.setdefault((video, name), [])
                row.append(_thumbnail(picture, text))

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
        if error[0] is None and self._rows:
            save_sheet(self.folder / "contact_sheet.png", list(self._rows.values()))


def picture_of(
    image: UInt8[np.ndarray, "h w 3"],
    names: Sequence[str],
    *,
    masks: Bool[np.ndarray, "n h w"],
    boxes: Float[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    ids: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the frame with its tracks; each says class, identity and score."""
    texts = [
        f"{names[label]} {track}  {score:.2f}"
        for label, track, score in zip(labels, ids, scores, strict=True)
    ]
    return draw.overlay(image, masks, boxes, ids, texts)


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


def _thumbnail(
    image: UInt8[np.ndarray, "h w 3"], text: str
) -> UInt8[np.ndarray, "h2 w2 3"]:
    height = round(image.shape[0] * SHEET_WIDTH / image.shape[1])
    size = (SHEET_WIDTH, height)
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    # The caption comes after the resizing, so that it stays sharp.
    return draw.caption(np.asarray(small), text)
