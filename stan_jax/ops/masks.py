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
) -> Float[Array, "n {out} {out}"]:
    """Object `index[n]` inside box n on an `out` x `out` grid, 1.0 or 0.0.

    boxes: pixels of the masks. A bin is 1 where RoIAlign (aligned, 2 x 2 samples) of
    the bitmap is >= 0.5; outside the frame it is 0.
    Source: mmdet BitmapMasks.crop_and_resize. Differs: fixed sampling, 2 x 2.
    """
    if not masks.shape[0]:
        return jnp.zeros((*index.shape, out, out))
    (height, width), sampling = masks.shape[1:], 2

    def share(box, index):
        start, size = box[:2] - 0.5, box[2:] - box[:2]
        y, wy = roi_align.axis_taps(start[1], size[1], height, out, sampling)
        x, wx = roi_align.axis_taps(start[0], size[0], width, out, sampling)
        taps = masks[index, y[:, :, None, None], x]  # [out taps out taps]
        return jnp.einsum("yixj,yi,xj->yx", taps.astype(wy.dtype), wy, wx)

    # Weights are not exact binary fractions: half must stay half.
    return (jax.vmap(share)(boxes, index) >= 0.5 - 1e-6).astype(jnp.float32)


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
    return jnp.einsum("nyp,npq,nxq->nyx", wy, probs, wx)


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
