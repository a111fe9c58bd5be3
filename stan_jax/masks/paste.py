"""Masks from the small grid of their box to the frame."""

import math

import numpy as np
from jaxtyping import Float32


def paste(
    probs: Float32[np.ndarray, "p p"],
    box: Float32[np.ndarray, "4"],
    frame_hw: tuple[int, int],
    *,
    legacy: bool = False,
) -> tuple[int, int, Float32[np.ndarray, "h w"]]:
    """Return top, left and probabilities of the pixels that the stretched grid reaches.

    All others of the frame are 0. On the host, since a frame may have any size.
    box: pixels of the frame. Bilinear between the centres of the grid's cells; from
    the outermost centres it falls to 0 within one cell, half of it beyond the box.
    A box without area reaches nothing.
    legacy: the original's way, over the whole pixels that the box begins and ends in;
    no fading, 0 outside of them.
    Source: mmdet fcn_mask_head.py _do_paste_mask (align_corners=False, zeros);
    original fcn_mask_head.py get_seg_masks.
    """
    stretch = _stretch_whole if legacy else _stretch
    left, wx = stretch(box[0], box[2], frame_hw[1], len(probs))
    top, wy = stretch(box[1], box[3], frame_hw[0], len(probs))
    return top, left, wy @ probs @ wx.T


def _stretch(
    low: np.float32, high: np.float32, pixels: int, side: int
) -> tuple[int, Float32[np.ndarray, "n {side}"]]:
    """First pixel along an axis, and weights of the cells for it and those behind."""
    size = high - low
    if not size > 0:
        return 0, np.zeros((0, side), np.float32)
    reach = size / side / 2
    first = min(max(math.floor(low - reach), 0), pixels)
    last = max(min(math.ceil(high + reach), pixels), first)
    centre = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    return first, _hats((centre - low) / size * side - np.float32(0.5), side)


def _stretch_whole(
    low: np.float32, high: np.float32, pixels: int, side: int
) -> tuple[int, Float32[np.ndarray, "n {side}"]]:
    """Stretch from the pixel where the box begins to the one of its last pixel."""
    begin, end = int(low), int(high - 1)  # inclusive, as the original counts
    size = max(end - begin + 1, 1)
    first = min(max(begin, 0), pixels)
    last = max(min(begin + size, pixels), first)
    pixel = np.arange(first - begin, last - begin, dtype=np.float32)
    at = (pixel + np.float32(0.5)) / size * side - np.float32(0.5)
    return first, _hats(np.clip(at, 0, side - 1), side)


def _hats(at: Float32[np.ndarray, " n"], side: int) -> Float32[np.ndarray, "n {side}"]:
    """Linear weights of the cells 0, 1, ... for points among them."""
    distance = np.abs(at[:, None] - np.arange(side, dtype=np.float32)[None])
    return np.maximum(np.float32(0), 1 - distance)
