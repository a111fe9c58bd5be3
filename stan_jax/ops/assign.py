"""Assignment of candidate boxes to objects, and the few that are drawn to learn."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Assignment(NamedTuple):
    """Role of each box; neither positive nor negative means ignored."""

    index: Int[Array, " n"]  # the object it stands for; of meaning where positive
    positive: Bool[Array, " n"]
    negative: Bool[Array, " n"]


class Sample(NamedTuple):
    """Rows drawn from an assignment: positives first, then negatives, then padding."""

    index: Int[Array, " num"]  # row of the assignment; 0 in padding
    positive: Bool[Array, " num"]
    valid: Bool[Array, " num"]


def assign(
    iou: Float[Array, "n m"],
    present: Bool[Array, " m"],
    *,
    positive: float,
    negative: float,
    min_positive: float,
    low_quality: bool = True,
    candidates: Bool[Array, " n"] | None = None,
) -> Assignment:
    """Object and role of each box, from its IoU with each object.

    With its best IoU a box is positive (>= positive) or negative (< negative).
    low_quality: besides, each object claims all boxes tied at its own best IoU, if
    that is >= min_positive; a later object overrides an earlier one.
    candidates: boxes that take part; the others are ignored and cannot be claimed.
    Without any object all candidates are negative.
    Source: max_iou_assigner.py of the original. Differs: an object that overlaps
    no candidate claims nothing, even at min_positive = 0.
    """
    num, objects = iou.shape
    if candidates is None:
        candidates = jnp.ones(num, bool)
    if objects == 0:
        return Assignment(jnp.zeros(num, int), jnp.zeros(num, bool), candidates)
    # Ties are found by equality, so the IoU must not be computed a second time by
    # a fusion that rounds differently.
    iou = jax.lax.optimization_barrier(iou)
    iou = jnp.where(candidates[:, None] & present[None], iou, -1)
    index, best = iou.argmax(axis=1), iou.max(axis=1)
    is_positive = best >= positive
    if low_quality:
        peak = iou.max(axis=0, initial=-1)
        claims = (peak > 0) & (peak >= min_positive)
        claimed = (iou == peak[None]) & claims[None]
        last = jnp.where(claimed, jnp.arange(objects)[None], -1).max(axis=1)
        index = jnp.where(last >= 0, last, index)
        is_positive |= last >= 0
    is_negative = candidates & (best < negative) & ~is_positive
    return Assignment(index, is_positive, is_negative)


def sample(
    key: Key[Array, ""],
    positive: Bool[Array, " n"],
    negative: Bool[Array, " n"],
    *,
    num: int,
    max_positive: int,
) -> Sample:
    """`num` rows, uniform without replacement: up to max_positive positives, the
    rest negatives; padding where both run out.
    """
    short = max(num - positive.shape[0], 0)
    draw = jax.random.uniform(key, positive.shape)
    pos_rank, pos_index = _draw(draw, positive, min(max_positive, num), short)
    neg_rank, neg_index = _draw(draw, negative, num, short)
    num_pos, num_neg = (pos_rank >= 0).sum(), (neg_rank >= 0).sum()

    row = jnp.arange(num)
    is_positive = row < num_pos
    valid = row < num_pos + num_neg
    pos_index = jnp.pad(pos_index, (0, num - pos_index.shape[0]))
    index = jnp.where(is_positive, pos_index, jnp.roll(neg_index, num_pos))
    return Sample(jnp.where(valid, index, 0), is_positive, valid)


def _draw(draw, among, num, short):
    """The `num` largest draws and their rows, -1 where fewer are `among` them."""
    return jax.lax.top_k(
        jnp.pad(jnp.where(among, draw, -1), (0, short), constant_values=-1), num
    )
