"""Which of many overlapping boxes to keep: greedy non-maximum suppression."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stan_jax.ops import boxes as box_ops


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    valid: Bool[Array, " n"],
    *,
    threshold: float,
    groups: Int[Array, " n"] | None = None,
) -> Bool[Array, " n"]:
    """Whether each box survives greedy suppression, in the order of the input.

    From the best score down, a box is kept unless a kept one overlaps it by IoU
    > threshold. Equal scores: the lower index goes first. Boxes of different
    `groups` never suppress each other.
    """
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    boxes, candidate = boxes[order], valid[order]
    overlap = jnp.triu(box_ops.iou(boxes, boxes) > threshold, k=1)
    if groups is not None:
        overlap &= groups[order][:, None] == groups[order][None]

    def sweep(state):
        keep, _ = state
        new = candidate & ~(overlap & keep[:, None]).any(axis=0)
        return new, (new != keep).any()

    keep, _ = jax.lax.while_loop(lambda s: s[1], sweep, (candidate, candidate.any()))
    return jnp.zeros_like(keep).at[order].set(keep)
