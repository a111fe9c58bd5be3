"""The canvas: the padded frame size of a batch, landscape or its transpose.

Frames are put into its upper left corner, as uint8: the device normalises and masks the
padding. Source: masktrack_rcnn, keep_ratio and size_divisor.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stan_jax.errors import InputError


def canvas_of(
    height: int, width: int, landscape_hw: tuple[int, int]
) -> tuple[int, int]:
    """Return the landscape canvas, or its transpose for a portrait video."""
    fh, fw = landscape_hw
    return (fw, fh) if height > width else (fh, fw)


def check(canvas: tuple[int, int], scales_hw: Sequence[tuple[int, int]]) -> None:
    """Raise InputError if the canvas is portrait or a scale leaves it."""
    fh, fw = canvas
    for scale_hw in scales_hw:
        if fh > fw or min(scale_hw) > fh or max(scale_hw) > fw:
            held = f"{min(scale_hw)} x {max(scale_hw)}"
            rule = f"must be landscape and hold {held}, is {fh} x {fw}"
            raise InputError("canvas", "", rule)


def fit(
    height: int, width: int, canvas_hw: tuple[int, int], scale_hw: tuple[int, int]
) -> tuple[float, int, int]:
    """Return factor, new height and new width that keep the ratio and fit the scale.

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


def resize_frame(
    frame: UInt8[np.ndarray, "_ _ 3"], new_hw: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Resize bilinearly; when shrinking, every input pixel counts (no aliasing)."""
    if frame.shape[:2] == new_hw:
        return frame
    size = (new_hw[1], new_hw[0])
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
