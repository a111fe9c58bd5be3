"""Greedy non-maximum suppression of overlapping boxes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stan_jax.ops import boxes as box_ops

_BLOCK = 256  # rows whose overlaps exist at one time; the fastest of 64..512 on a CPU


@jax.jit
def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    valid: Bool[Array, " n"],
    *,
    threshold: float | Float[Array, ""],
    groups: Int[Array, " n"] | None = None,
) -> Bool[Array, " n"]:
    """Return whether each box survives greedy suppression, in the order of the input.

    threshold: an IoU in [0, 1].
    From the best score down, a box is kept unless a kept box of its group overlaps
    it by IoU > threshold. Equal scores: the lower index goes first. Rows that are not
    valid neither survive nor suppress.
    Time grows as n^2 / 2, memory as n. Exact, not the approximate "fast" or "matrix"
    kind.
    The comparison is strict and in float32, as mmcv's: at threshold 0.3 a pair of IoU
    float32(0.3) survives. Torchvision compares with the float64 0.3 and drops it.
    """
    num = scores.shape[0]
    if num == 0:
        return valid
    size = min(num, _BLOCK)
    num_blocks = -(-num // size)
    order = jnp.argsort(-scores, stable=True)

    def in_blocks(rows):
        empty = ((0, num_blocks * size - num),) + ((0, 0),) * (rows.ndim - 1)
        return jnp.pad(rows[order], empty).reshape(num_blocks, size, *rows.shape[1:])

    boxes, candidates = in_blocks(boxes), in_blocks(valid)
    groups = None if groups is None else in_blocks(groups)

    def overlaps(i, j):
        """Return which rows of block i would suppress which of block j, if kept."""
        bar = jnp.float32(threshold)
        if groups is not None:
            # No IoU exceeds 1. A test for equality says the same at half the speed.
            bar += jnp.abs(groups[i][:, None] - groups[j][None])
        return box_ops.iou(boxes[i], boxes[j]) > bar

    def decide(j, keep):
        """Settle block j, all better blocks being settled."""

        def suppress(i, left):
            return left & ~(overlaps(i, j) & keep[i][:, None]).any(axis=0)

        left = candidates[j]
        if num_blocks > 1:
            left = jax.lax.fori_loop(0, j, suppress, left)
        return keep.at[j].set(_greedy(left, jnp.triu(overlaps(j, j), k=1)))

    keep = jax.lax.fori_loop(0, num_blocks, decide, jnp.zeros_like(candidates))
    return jnp.zeros_like(valid).at[order].set(keep.reshape(-1)[:num])


def _greedy(candidates, over):
    """The greedy choice: the one fixed point of "kept unless a kept one is over me".

    Row k is right after k sweeps at the latest, so the sweeps end. On common input
    3 to 6 do: the length of the longest chain where each fate hangs on the last.
    """

    def sweep(state):
        keep, _ = state
        new = candidates & ~(over & keep[:, None]).any(axis=0)
        return new, (new != keep).any()

    return jax.lax.while_loop(lambda s: s[1], sweep, (candidates, candidates.any()))[0]
