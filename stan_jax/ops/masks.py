"""Masks between the frame and the small grid of their box."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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
    probs: Float[Array, "n p p"],
    boxes: Float[Array, "n 4"],
    out_hw: tuple[int, int],
    *,
    legacy: bool = False,
) -> Float[Array, "n {out_hw[0]} {out_hw[1]}"]:
    """Probability of each pixel of the output frame: the grid stretched over its box.

    boxes: pixels of the output. Bilinear between the centres of the grid's cells; from
    the outermost centres it falls to 0 within one cell, half of it beyond the box.
    Boxes without area give 0 everywhere.
    legacy: the original's way, over the whole pixels that the box begins and ends in;
    no fading, 0 outside of them.
    Source: mmdet fcn_mask_head.py _do_paste_mask (align_corners=False, zeros);
    original fcn_mask_head.py get_seg_masks.
    """
    side = probs.shape[-1]
    stretch = _stretch_whole if legacy else _stretch
    wy = stretch(boxes[:, 1], boxes[:, 3], out_hw[0], side)
    wx = stretch(boxes[:, 0], boxes[:, 2], out_hw[1], side)
    return jnp.einsum("nyp,npq,nxq->nyx", wy, probs, wx, precision="highest")


def _stretch(
    low: Float[Array, " n"], high: Float[Array, " n"], pixels: int, side: int
) -> Float[Array, "n {pixels} {side}"]:
    """Weight of each cell of the grid for each pixel along one axis (hat functions)."""
    size = (high - low)[:, None]
    inside = size > 0
    centre = jnp.arange(pixels, dtype=low.dtype) + 0.5
    at = (centre[None] - low[:, None]) / jnp.where(inside, size, 1.0) * side - 0.5
    hat = jnp.maximum(0.0, 1 - jnp.abs(at[..., None] - jnp.arange(side)[None, None]))
    return jnp.where(inside[..., None], hat, 0.0)


def _stretch_whole(
    low: Float[Array, " n"], high: Float[Array, " n"], pixels: int, side: int
) -> Float[Array, "n {pixels} {side}"]:
    """Stretch from the pixel where the box begins to the one of its last pixel."""
    first, size = (x[:, None] for x in _whole(low, high))
    pixel = jnp.arange(pixels)[None] - first
    at = jnp.clip((pixel + 0.5) / size * side - 0.5, 0, side - 1)
    hat = jnp.maximum(0.0, 1 - jnp.abs(at[..., None] - jnp.arange(side)[None, None]))
    return jnp.where(((pixel >= 0) & (pixel < size))[..., None], hat, 0.0)


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
