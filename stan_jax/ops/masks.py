"""Masks between the frame and the small grid of their box."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from stan_jax.ops import roi_align


def crop(
    masks: Bool[Array, "m fh fw"],
    boxes: Float[Array, "n 4"],
    index: Int[Array, " n"],
    out: int = 28,
    sampling: int = 2,
    legacy: bool = False,
) -> Float[Array, "n {out} {out}"]:
    """Object `index[n]` as seen in box n on a grid of `out` x `out` cells, 1 or 0.

    A cell is 1 where RoIAlign (aligned) of the bitmap is at least 0.5; from one pixel
    outside the frame on it is 0.

    Args:
      boxes: pixels of the masks.
      sampling: samples per cell and side; 0 is mmdet's choice, one per pixel, rounded
        up: about 100 times slower, for boxes within the frame.
      legacy: the original's cells instead, whole pixels resized; boxes in the frame.
    Source: mmdet BitmapMasks.crop_and_resize; original mask_target.py.
    """
    if not masks.shape[0]:
        return jnp.zeros((*index.shape, out, out))
    if legacy:
        return jax.vmap(lambda b, i: _resized(masks, b, i, out))(boxes, index)
    height, width = masks.shape[1:]

    def share(box, index):
        start, size = box[:2] - 0.5, box[2:] - box[:2]
        y, wy = roi_align.axis_taps(start[1], size[1], height, out, sampling, height)
        x, wx = roi_align.axis_taps(start[0], size[0], width, out, sampling, width)
        taps = masks[index, y[:, :, None, None], x]  # [out taps out taps]
        return jnp.einsum(
            "yixj,yi,xj->yx", taps.astype(wy.dtype), wy, wx, precision="highest"
        )

    # One box at a time where its taps are many.
    if sampling:
        shares = jax.vmap(share)(boxes, index)
    else:
        shares = jax.lax.map(lambda x: share(*x), (boxes, index))
    # Weights are rounded: an exact half must not become less.
    return (shares >= 0.5 - 1e-6).astype(jnp.float32)


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


def _resized(
    masks: Bool[Array, "m fh fw"], box: Float[Array, "4"], index: Array, out: int
) -> Float[Array, "{out} {out}"]:
    """The object's pixels in the box, resized as OpenCV does with 8-bit images.

    Its fixed-point steps decide which cells of a bitmap become 1, so they are here:
    coefficients of 11 bits, sums along x cut to 8 bits, along y to 2.
    """
    height, width = masks.shape[1:]
    y, wy = _fixed_taps(box[1], box[3], height, out)
    x, wx = _fixed_taps(box[0], box[2], width, out)
    pixel = masks[index, y[:, None, :, None], x[None, :, None, :]].astype(jnp.int32)
    rows = (pixel * wx[None, :, None]).sum(-1) >> 4  # [out out taps]
    total = ((rows * wy[:, None]) >> 16).sum(-1)
    return ((total + 2) >> 2).astype(jnp.float32)


def _fixed_taps(
    low: Float[Array, ""], high: Float[Array, ""], pixels: int, out: int
) -> tuple[Int[Array, "{out} 2"], Int[Array, "{out} 2"]]:
    """The two pixels that each cell mixes along one axis, and their weights of 2048."""
    first, size = _whole(low, high)
    size = jnp.minimum(size, pixels - first)
    at = (jnp.arange(out) + 0.5) * (size / out) - 0.5
    before = jnp.floor(at)
    part = jnp.round((at - before) * 2048).astype(jnp.int32)
    index = before.astype(jnp.int32)[:, None] + jnp.arange(2)[None]
    index = first + jnp.clip(index, 0, size - 1)
    return jnp.clip(index, 0, pixels - 1), jnp.stack([2048 - part, part], -1)


def _whole(low: Array, high: Array) -> tuple[Array, Array]:
    """First pixel and number of pixels of boxes whose ends are cut to whole pixels."""
    first = jnp.trunc(low).astype(jnp.int32)
    last = jnp.trunc(high - 1).astype(jnp.int32)  # inclusive, as the original counts
    return first, jnp.maximum(last - first + 1, 1)
