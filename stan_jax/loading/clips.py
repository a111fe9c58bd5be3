"""Frames and masks of a training pair as arrays of fixed shape, on one canvas."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8

from stan_jax.ops import canvas
from stan_jax.types import Pair

Masks = Sequence[Bool[np.ndarray, "h w"] | None]  # one for each object; None: not there


def references(
    present_frames: Int[np.ndarray, " n"], t: int, gap: str | int
) -> Int[np.ndarray, " r"]:
    """Return the frames that may serve as previous frame x0 of frame t (choice A16).

    present_frames: rising numbers of the frames that show an object; t is one of them.
    gap: "any" other frame of them (the original); an int k: others at most k listed
    frames away, before or after; "previous": the nearest before. Where nothing
    qualifies the frame is its own reference, as at the start of a video (A12).
    """
    others = present_frames[present_frames != t]
    if gap == "previous":
        found = others[others < t][-1:]
    elif gap == "any":
        found = others
    else:
        found = others[np.abs(others - t) <= int(gap)]
    return found if found.size else np.array([t])


def reference_frame(
    rng: np.random.Generator,
    present_frames: Int[np.ndarray, " n"],
    t: int,
    gap: str | int,
) -> int:
    """Draw the previous frame x0 of frame t, uniform over `references`."""
    return int(rng.choice(references(present_frames, t, gap)))


def older_frames(t: int, reference: int, length: int, number: int) -> list[int]:
    """Return the frames that lead up to the previous frame, the nearest first.

    They lie beyond it as seen from frame t, one by one, up to `number` of them, and
    end with the video of `length` frames. A frame that is its own reference has none.
    """
    step = int(np.sign(reference - t))
    beyond = [reference + step * (i + 1) for i in range(number if step else 0)]
    return [i for i in beyond if 0 <= i < length]


def blank_pair(
    canvas_hw: tuple[int, int], max_objects: int, *batch: int, frames: int = 2
) -> Pair:
    """Pair of zeros, in numpy; a batch of them if its size is given."""
    fields: list[Any] = [
        np.zeros((*batch, frames, *canvas_hw, 3), np.uint8),
        np.zeros((*batch, 2), np.int32),
        np.zeros((*batch, 2, max_objects, 4), np.float32),
        np.zeros((*batch, 2, max_objects), bool),
        np.zeros((*batch, max_objects), np.int32),
        np.zeros((*batch, max_objects, *canvas_hw), bool),
        np.zeros(batch, np.int32),
    ]
    return Pair(*fields)


def make_pair(
    frames: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    masks: Sequence[Masks],
    labels: Sequence[int],
    *,
    size_hw: tuple[int, int],
    canvas_hw: tuple[int, int],
    scale_hw: tuple[int, int],
    flip: bool,
    max_objects: int,
    into: Pair | None = None,
) -> Pair:
    """Training pair on the canvas; object m is row m in both frames.

    An object that loses its last pixel in resizing is not present in that frame.

    Args:
      frames: the oldest first, then reference and current; each may come smaller than
        size_hw (draft).
      masks: for each of the last two one mask of size_hw, or None, for each label.
      size_hw: height and width of the video.
      flip: mirror all frames left to right.
      into: a blank pair to fill, such as a row of a batch; None: a new one.
    """
    factor, new_h, new_w = canvas.fit(*size_hw, canvas_hw, scale_hw)
    assert len(labels) <= max_objects
    pair = into or blank_pair(canvas_hw, max_objects, frames=len(frames))
    pair.size_hw[:] = new_h, new_w
    pair.labels[: len(labels)] = labels
    pair.seen[...] = len(frames) - 1
    for place, frame in zip(pair.frames[-len(frames) :], frames, strict=True):
        place[:new_h, :new_w] = _mirror(
            canvas.resize_frame(frame, (new_h, new_w)), flip
        )
    for f in (0, 1):
        for m, full in enumerate(masks[f]):
            if full is None:
                continue
            small = _mirror(resize_mask(full, (new_h, new_w)), flip)
            if not small.any():
                continue
            pair.present[f, m] = True
            pair.boxes[f, m] = _scale_box(tight_box(full), factor, new_h, new_w, flip)
            if f == 1:
                pair.masks[m, :new_h, :new_w] = small
    return pair


def resize_mask(
    mask: Bool[np.ndarray, "_ _"], new_hw: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Nearest resize as OpenCV does it: output x takes input floor(x * old / new)."""
    if mask.shape == new_hw:
        return mask
    ys, xs = (np.arange(n) * o // n for o, n in zip(mask.shape, new_hw, strict=True))
    # Masks from an RLE lie column by column: whole columns first is 10 times faster.
    return mask.T[xs][:, ys].T


def tight_box(mask: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, "4"]:
    """Smallest half-open xyxy box around the pixels of a mask that has some."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], float)


def _scale_box(
    box: Float64[np.ndarray, "4"], factor: float, new_h: int, new_w: int, flip: bool
) -> Float64[np.ndarray, "4"]:
    x1, y1, x2, y2 = np.minimum(box * factor, [new_w, new_h, new_w, new_h])
    return np.array([new_w - x2, y1, new_w - x1, y2] if flip else [x1, y1, x2, y2])


def _mirror(image: np.ndarray, flip: bool) -> np.ndarray:
    return image[:, ::-1] if flip else image
