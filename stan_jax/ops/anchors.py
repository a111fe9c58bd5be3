"""Anchors of a level, and which of them may learn."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num


def grid(
    level_hw: tuple[int, int],
    stride: int,
    *,
    scales: tuple[float, ...] = (8.0,),
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    kind: Literal["plain", "rounded", "legacy"] = "plain",
) -> Float[Array, "a 4"]:
    """Anchors of one level, half-open xyxy pixels, in order (y, x, ratio, scale).

    An anchor has the area (scale * stride)**2 and the aspect height / width = ratio.
    kind: "plain" ones sit on the first corner of their cell, "rounded" ones as well, to
    whole pixels; "legacy" ones in the middle of the cell, rounded as inclusive boxes.
    Source: mmdet's AnchorGenerator; torchvision's anchor_utils.py; the original's
    mmdet/core/anchor/anchor_generator.py.
    """
    base = _base(stride, scales, ratios, kind)
    y = jnp.arange(level_hw[0], dtype=jnp.float32) * stride
    x = jnp.arange(level_hw[1], dtype=jnp.float32) * stride
    x, y = jnp.meshgrid(x, y)  # [h w]
    corner = jnp.stack([x, y, x, y], axis=-1)
    return (corner[:, :, None] + base[None, None]).reshape(-1, 4)


def inside(
    anchors: Float[Array, "a 4"], size_hw: Num[Array, "2"], border: int = -1
) -> Bool[Array, " a"]:
    """Return whether each anchor may take part in training on a frame of size_hw.

    border < 0: its centre must lie inside the frame. For anchors that sit on the
    corner of their cell this means that the cell starts inside: mmdet's valid flags.
    border >= 0: all of it must lie inside the frame widened by `border` pixels.
    """
    x1, y1, x2, y2 = (anchors[:, k] for k in range(4))
    height, width = size_hw.astype(anchors.dtype)
    if border >= 0:
        starts_in = (x1 >= -border) & (y1 >= -border)
        return starts_in & (x2 <= width + border) & (y2 <= height + border)
    x, y = (x1 + x2) * 0.5, (y1 + y2) * 0.5
    # A centre exactly on the border may come out 1e-5 px off, since x1 and x2 were
    # rounded; no two centres are closer than half a pixel.
    slack = 0.25
    return (x > -slack) & (y > -slack) & (x < width - slack) & (y < height - slack)


def _base(stride, scales, ratios, kind) -> np.ndarray:
    """The anchors of the cell at the origin."""
    root = np.sqrt(np.asarray(ratios, np.float64))[:, None]
    side = stride * np.asarray(scales, np.float64)[None]
    width, height = (side / root).ravel(), (side * root).ravel()
    half = np.stack([-width, -height, width, height], axis=-1) / 2
    if kind == "rounded":
        half = np.round(half)
    if kind == "legacy":
        # Rounded where the original rounds: as inclusive pixels, half a pixel lower.
        centre, one = (stride - 1) / 2, np.array([0.5, 0.5, -0.5, -0.5])
        half = np.round(centre + half + one) + np.array([0, 0, 1, 1])
    return half.astype(np.float32)
