"""How a mask moves between the frame and the small grid of its box."""

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
) -> Float[Array, "n {out} {out}"]:
    """Object `index[n]` as seen in box n on a grid of `out` x `out` cells, 1 or 0.

    boxes: pixels of the masks. A cell is 1 where RoIAlign (aligned) of the bitmap is
    at least 0.5; from one pixel outside the frame on it is 0.
    sampling: samples per cell and side; 0 is mmdet's choice, one per pixel, rounded
    up: about 100 times slower, for boxes within the frame.
    Source: mmdet BitmapMasks.crop_and_resize.
    """
    if not masks.shape[0]:
        return jnp.zeros((*index.shape, out, out))
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
    probs: Float[Array, "n p p"], boxes: Float[Array, "n 4"], out_hw: tuple[int, int]
) -> Float[Array, "n {out_hw[0]} {out_hw[1]}"]:
    """Probability of each pixel of the output frame: the grid stretched over its box.

    boxes: pixels of the output. Bilinear between the centres of the grid's cells; from
    the outermost centres it falls to 0 within one cell, half of it beyond the box.
    Boxes without area give 0 everywhere.
    Source: mmdet fcn_mask_head.py _do_paste_mask (align_corners=False, zeros).
    """
    side = probs.shape[-1]
    wy = _stretch(boxes[:, 1], boxes[:, 3], out_hw[0], side)
    wx = _stretch(boxes[:, 0], boxes[:, 2], out_hw[1], side)
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
