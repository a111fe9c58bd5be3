"""How frames and masks of one video become fixed-shape arrays (pure numpy).

Canvas: the padded frame size of a batch, landscape or its transpose. Frames are put
into its upper left corner, as uint8: the device normalises and masks the padding.
Source: masktrack_spec section 8.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.types import Pair

Masks = Sequence[Bool[np.ndarray, "h w"] | None]  # one for each object; None: not there


def canvas_of(
    height: int, width: int, landscape_hw: tuple[int, int]
) -> tuple[int, int]:
    """Canvas for a video: the landscape one, or its transpose for portrait videos."""
    fh, fw = landscape_hw
    return (fw, fh) if height > width else (fh, fw)


def check_canvas(canvas: tuple[int, int], scales_hw: Sequence[tuple[int, int]]) -> None:
    """Nothing. Raises: InputError if the canvas is portrait or a scale leaves it."""
    fh, fw = canvas
    for scale_hw in scales_hw:
        if fh > fw or min(scale_hw) > fh or max(scale_hw) > fw:
            held = f"{min(scale_hw)} x {max(scale_hw)}"
            rule = f"must be landscape and hold {held}, is {fh} x {fw}"
            raise InputError("canvas", "", rule)


def fit(
    height: int, width: int, canvas_hw: tuple[int, int], scale_hw: tuple[int, int]
) -> tuple[float, int, int]:
    """Factor, new height and new width that keep the ratio and fit the scale.

    scale_hw: bounds for the short and the long side, in either order.
    Raises: ValueError if the result leaves the canvas, that is if a scale is larger
    than the canvas or the canvas has the other orientation.
    """
    factor = min(max(scale_hw) / max(height, width), min(scale_hw) / min(height, width))
    new_h, new_w = (max(int(x * factor + 0.5), 1) for x in (height, width))
    if new_h > canvas_hw[0] or new_w > canvas_hw[1]:
        raise ValueError(
            f"a {height} x {width} frame at scale {scale_hw} is {new_h} x {new_w} and"
            f" must fit the canvas of {canvas_hw[0]} x {canvas_hw[1]}"
        )
    return factor, new_h, new_w


def references(
    present_frames: Int[np.ndarray, " n"], t: int, rule: str | int
) -> Int[np.ndarray, " r"]:
    """Frames that may serve as previous frame x0 of frame t (choice A16).

    present_frames: rising numbers of the frames that show an object; t is one of them.
    rule: "any" other frame of them (the original); an int k: others at most k listed
    frames away, before or after; "previous": the nearest before. Where nothing
    qualifies the frame is its own reference, as at the start of a video (A12).
    """
    others = present_frames[present_frames != t]
    if rule == "previous":
        found = others[others < t][-1:]
    elif rule == "any":
        found = others
    else:
        found = others[np.abs(others - t) <= int(rule)]
    return found if found.size else np.array([t])


def reference_frame(
    rng: np.random.Generator,
    present_frames: Int[np.ndarray, " n"],
    t: int,
    rule: str | int,
) -> int:
    """Draw the previous frame x0 of frame t, uniform over `references`."""
    return int(rng.choice(references(present_frames, t, rule)))


def blank_pair(canvas_hw: tuple[int, int], max_objects: int, *batch: int) -> Pair:
    """Pair of zeros, in numpy; a batch of them if its size is given."""
    fields: list[Any] = [
        np.zeros((*batch, 2, *canvas_hw, 3), np.uint8),
        np.zeros((*batch, 2), np.int32),
        np.zeros((*batch, 2, max_objects, 4), np.float32),
        np.zeros((*batch, 2, max_objects), bool),
        np.zeros((*batch, max_objects), np.int32),
        np.zeros((*batch, max_objects, *canvas_hw), bool),
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

    frames: reference, then current; each may come smaller than size_hw (draft decode).
    masks: for each frame one mask of size_hw, or None, for each of the labels.
    size_hw: height and width of the video.
    flip: mirror both frames left to right.
    into: a blank pair to fill, such as a row of a batch; None: a new one.
    An object that loses its last pixel in resizing is not present in that frame.
    """
    factor, new_h, new_w = fit(*size_hw, canvas_hw, scale_hw)
    assert len(labels) <= max_objects
    pair = into or blank_pair(canvas_hw, max_objects)
    pair.size_hw[:] = new_h, new_w
    pair.labels[: len(labels)] = labels
    for f in (0, 1):
        pair.frames[f, :new_h, :new_w] = _mirror(
            resize_frame(frames[f], (new_h, new_w)), flip
        )
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


def resize_frame(
    frame: UInt8[np.ndarray, "_ _ 3"], new_hw: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Bilinear resize; when shrinking, every input pixel counts (no aliasing)."""
    if frame.shape[:2] == new_hw:
        return frame
    size = (new_hw[1], new_hw[0])
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


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
