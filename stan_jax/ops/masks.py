"""Masks of the frame in the small grid of their box; back: `masks/paste.py`."""

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
