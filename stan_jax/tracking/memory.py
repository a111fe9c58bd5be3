"""The memory queue: empty, score, match and write (paper Sec. 3.2, MaskTrack R-CNN)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stan_jax.errors import InputError
from stan_jax.ops import boxes
from stan_jax.types import Detections, MemoryQueue


class MatchWeights(NamedTuple):
    """Coefficients of the matching score, `match_coeff` of masktrack_rcnn."""

    score: float
    iou: float
    label: float


class Association(NamedTuple):
    """Association of detections to tracks, and what the memory takes from them.

    Args:
      weights: of the matching score.
      update_labels: a track takes the label of its newest detection.
      expire_after: frames after which an unseen track leaves; None: never.
      share_ids: several detections of a frame may claim one track, see `match`.
    """

    weights: MatchWeights
    update_labels: bool
    expire_after: int | None
    share_ids: bool


class Match(NamedTuple):
    """Match of each detection: to a known track, to a new one, or to none."""

    slot: Int[Array, " n"]  # of meaning where `known`
    known: Bool[Array, " n"]
    new: Bool[Array, " n"]


def empty(
    features: Sequence[jax.ShapeDtypeStruct], *, slots: int, embed_channels: int
) -> MemoryQueue:
    """Return the memory of a video that has not begun.

    features: shapes [q h w c] of the maps that it will keep.
    """
    return MemoryQueue(
        features=tuple(jnp.zeros(x.shape, x.dtype) for x in features),
        embeds=jnp.zeros((slots, embed_channels)),
        boxes=jnp.zeros((slots, 4)),
        labels=jnp.zeros(slots, jnp.int32),
        live=jnp.zeros(slots, bool),
        last_seen=jnp.zeros(slots, jnp.int32),
        ids=jnp.zeros(slots, jnp.int32),
        next_id=jnp.int32(0),
        frame=jnp.int32(0),
        evicted=jnp.int32(0),
    )


def score(
    memory: MemoryQueue, detections: Detections, weights: MatchWeights
) -> Float[Array, "n columns"]:
    """Return how well each detection fits a new track (column 0) and each slot.

    log p + a log(detection score) + b IoU + c [same class], where p is the softmax of
    the products of the embeddings and of a 0 for "new"; "new" counts as of the same
    class and has no IoU. Empty slots score -inf.
    Source: masktrack_rcnn track_head.py compute_comp_scores.
    """
    product = detections.embeds @ memory.embeds.T
    product = jnp.where(memory.live[None], product, -jnp.inf)
    log_p = jax.nn.log_softmax(_with_new(product, 0.0), axis=1)
    same_class = detections.labels[:, None] == memory.labels[None]
    return (
        log_p
        + weights.score * jnp.log(jnp.maximum(detections.scores, 1e-12))[:, None]
        + weights.iou * _with_new(boxes.iou(detections.boxes, memory.boxes), 0.0)
        + weights.label * _with_new(same_class.astype(log_p.dtype), 1.0)
    )


def match(
    scores: Float[Array, "n columns"], valid: Bool[Array, " n"], *, shared: bool = False
) -> Match:
    """Return the choice of each detection: its best column; a slot has one winner.

    The highest score wins a contested slot, the first row on ties, and losers are
    dropped: neither `known` nor `new`. Source: masktrack_rcnn two_stage.py.
    shared: a row loses only to rows before it, so that several may be `known` for one
    slot, the last of them the best. Source: mmdet masktrack_rcnn_tracker.py.
    """
    column = jnp.argmax(scores, axis=1)
    best = jnp.where(valid, jnp.max(scores, axis=1), -jnp.inf)
    rival = column[:, None] == column[None]
    order = jnp.arange(len(best))
    ahead = (best[None] > best[:, None]) | (
        (best[None] == best[:, None]) & (order[None] < order[:, None])
    )
    if shared:
        ahead &= order[None] < order[:, None]
    wins = valid & ~jnp.any(rival & ahead, axis=1)
    return Match(jnp.maximum(column - 1, 0), wins & (column > 0), valid & (column == 0))


def write(
    memory: MemoryQueue,
    detections: Detections,
    choice: Match,
    *,
    update_labels: bool,
    expire_after: int | None,
    now: Int[Array, ""] | None = None,
) -> tuple[MemoryQueue, Int[Array, " n"], Bool[Array, " n"]]:
    """Return the memory after this frame, the ids of the detections, and which stay.

    A known track takes the new embedding and box, and the label if `update_labels`.
    A new track takes a free slot, else that of the longest-unseen track, counted in
    `evicted`. A track unseen for `expire_after` frames leaves. Of several
    rows known for one slot the last is written.
    now: time of the frame in the unit of `expire_after`; default: its number.
    Raises: InputError if a frame may bring more tracks than there are slots.
    """
    n, s = len(detections.scores), len(memory.live)
    now = memory.frame if now is None else now
    if n > s:
        raise InputError("slots", "", f"must hold {n} detections of a frame, is {s}")
    matched = (
        jnp.zeros(s, bool)
        .at[_rows(choice.slot, choice.known, s)]
        .set(True, mode="drop")
    )
    # Free slots first, then by age; what this frame has matched is never given away.
    # By differences, since a camera's clock begins anew after some days.
    limits = np.iinfo(np.int32)
    age = jnp.where(memory.live, memory.last_seen - now, limits.min)
    queue = jnp.argsort(jnp.where(matched, limits.max, age), stable=True)
    queue = queue.astype(jnp.int32)
    rank = jnp.cumsum(choice.new) - choice.new  # 0, 1, ... among the new ones
    slot = jnp.where(choice.new, queue[jnp.minimum(rank, s - 1)], choice.slot)
    stays = choice.known | choice.new
    ids = jnp.where(choice.new, memory.next_id + rank, memory.ids[slot])
    evicted = jnp.sum(choice.new & memory.live[slot])

    # Of rows with the same slot only the last is written: others have no set order.
    order = jnp.arange(n)
    later = (slot[:, None] == slot[None]) & stays[None] & (order[None] > order[:, None])
    row = _rows(slot, stays & ~jnp.any(later, axis=1), s)

    def put(old, new):
        return old.at[row].set(new.astype(old.dtype), mode="drop")

    label = detections.labels
    if not update_labels:
        label = jnp.where(choice.known, memory.labels[slot], label)
    last_seen = put(memory.last_seen, jnp.full(n, now))
    live = put(memory.live, jnp.ones(n, bool))
    if expire_after is not None:
        live &= now - last_seen < expire_after
    memory = MemoryQueue(
        features=memory.features,
        embeds=put(memory.embeds, detections.embeds),
        boxes=put(memory.boxes, detections.boxes),
        labels=put(memory.labels, label),
        live=live,
        last_seen=last_seen,
        ids=put(memory.ids, ids),
        next_id=memory.next_id + jnp.sum(choice.new),
        frame=memory.frame + 1,
        evicted=memory.evicted + evicted,
    )
    return memory, jnp.where(stays, ids, -1), stays


def _with_new(x: Float[Array, "n s"], new: float) -> Float[Array, "n s+1"]:
    return jnp.pad(x, ((0, 0), (1, 0)), constant_values=new)


def _rows(slot: Array, used: Array, slots: int) -> Array:
    """Slots to write to; unused rows point past the end, where `drop` ignores them."""
    return jnp.where(used, slot, slots)
