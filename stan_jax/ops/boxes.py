"""Boxes: area, overlap, deltas, clipping.

Boxes are half-open xyxy pixels, so a width is x2 - x1. The inclusive "+1 pixel" boxes
of 2019 are [x1, y1, x2 + 1, y2 + 1] here; all of the below then holds for them too.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

_MAX_LOG_SCALE = math.log(1000 / 16)  # a 16 px anchor reaches 1000 px, no further
_MIN_SIDE = 1e-6  # px; keeps the deltas of padding rows finite
_UNIT = (1.0, 1.0, 1.0, 1.0)


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Square pixels of each box; 0 for inverted boxes."""
    x1, y1, x2, y2 = _split(boxes)
    return jnp.maximum(x2 - x1, 0) * jnp.maximum(y2 - y1, 0)


def iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of each pair, in [0, 1]; 0 where the union is empty."""
    ax1, ay1, ax2, ay2 = _split(a[:, None])
    bx1, by1, bx2, by2 = _split(b[None])
    width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), 0)
    height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1), 0)
    inter = width * height
    union = area(a)[:, None] + area(b)[None] - inter
    # The inner `where` keeps 0 / 0, and its gradient, from ever being computed.
    return jnp.where(union > 0, inter / jnp.where(union > 0, union, 1), 0)


def encode(
    boxes: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    stds: tuple[float, float, float, float] = _UNIT,
) -> Float[Array, "*n 4"]:
    """Deltas dx dy dw dh that `decode` needs to turn each anchor into its box.

    stds: the result is divided by them; targets of a head are thus of unit size.
    Sides below 1e-6 px count as 1e-6 px: padding rows give large but finite deltas.
    Source: R-CNN, Appendix C.
    """
    x, y, w, h = _centre_and_size(boxes)
    ax, ay, aw, ah = _centre_and_size(anchors)
    w, h, aw, ah = (jnp.maximum(side, _MIN_SIDE) for side in (w, h, aw, ah))
    deltas = ((x - ax) / aw, (y - ay) / ah, jnp.log(w / aw), jnp.log(h / ah))
    return jnp.stack([d / std for d, std in zip(deltas, stds, strict=True)], axis=-1)


def decode(
    deltas: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    stds: tuple[float, float, float, float] = _UNIT,
) -> Float[Array, "*n 4"]:
    """Each anchor moved and scaled by its delta; inverse of `encode` inside the clamp.

    deltas: dx dy in anchor sides, dw dh as log of the scale, all divided by `stds`.
    dw, dh are clamped to +-log(1000 / 16).
    Source: R-CNN, Appendix C; clamp of both signs as mmdet's DeltaXYWHBBoxCoder.
    Differs from torchvision, which clamps from above only.
    """
    dx, dy, dw, dh = (d * s for d, s in zip(_split(deltas), stds, strict=True))
    ax, ay, aw, ah = _centre_and_size(anchors)
    x, y = ax + dx * aw, ay + dy * ah
    half_w = 0.5 * aw * jnp.exp(jnp.clip(dw, -_MAX_LOG_SCALE, _MAX_LOG_SCALE))
    half_h = 0.5 * ah * jnp.exp(jnp.clip(dh, -_MAX_LOG_SCALE, _MAX_LOG_SCALE))
    return jnp.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=-1)


def clip(
    boxes: Float[Array, "*n 4"], size_hw: Num[Array, "2"], *, minimum: float = 0.0
) -> Float[Array, "*n 4"]:
    """The part of each box inside the frame [0, w] x [0, h]; empty if there is none.

    minimum: pixels of a box outside that stay, at the border; the original code, whose
    boxes are inclusive, keeps 1.
    """
    height, width = size_hw.astype(boxes.dtype)
    x1, y1, x2, y2 = _split(boxes)
    corner = jnp.clip(x1, 0, width - minimum), jnp.clip(y1, 0, height - minimum)
    opposite = jnp.clip(x2, minimum, width), jnp.clip(y2, minimum, height)
    return jnp.stack([*corner, *opposite], axis=-1)


def _split(boxes):
    return tuple(boxes[..., k] for k in range(4))


def _centre_and_size(boxes):
    x1, y1, x2, y2 = _split(boxes)
    return (x1 + x2) * 0.5, (y1 + y2) * 0.5, x2 - x1, y2 - y1
