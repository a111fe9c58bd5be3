"""Walk over the frames of a video, one at a time or a clip at once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from stan_jax.errors import InputError
from stan_jax.model.stan import STAN, Thresholds
from stan_jax.tracking import memory as queue
from stan_jax.tracking.memory import Association
from stan_jax.types import Detections, MemoryQueue, Tracks


def start(model: STAN, canvas_hw: tuple[int, int], *, slots: int) -> MemoryQueue:
    """Return the memory of a video that has not begun, for frames of one canvas."""
    frames = jax.ShapeDtypeStruct((1, *canvas_hw, 3), jnp.uint8)
    size = jax.ShapeDtypeStruct((1, 2), jnp.int32)

    def past(frames, size):
        levels = [x[None] for x in model.features(frames, size)]
        return [x[0] for x in model.empty_past(levels)]

    kept = jax.eval_shape(past, frames, size)
    embed_channels = model.track_head.fc2.out_features
    return queue.empty(kept, slots=slots, embed_channels=embed_channels)


def step(
    model: STAN,
    memory: MemoryQueue,
    frame: UInt8[Array, "fh fw 3"],
    size_hw: Int[Array, "2"],
    **options,
) -> tuple[MemoryQueue, Tracks]:
    """Return the memory after one more frame, and the tracks in it."""
    seen = jnp.ones(1, bool)
    memory, tracks = clip(model, memory, frame[None], size_hw, seen, **options)
    return memory, jax.tree.map(lambda x: x[0], tracks)


def clip(
    model: STAN,
    memory: MemoryQueue,
    frames: UInt8[Array, "t fh fw 3"],
    size_hw: Int[Array, "2"],
    valid: Bool[Array, " t"],
    *,
    thresholds: Thresholds,
    association: Association,
    first_frame: str,
    clock: Int[Array, " t"] | None = None,
) -> tuple[MemoryQueue, Tracks]:
    """Return the memory after t more frames of one video, and the tracks in each.

    Everything but the association runs over all frames as one batch: the queue keeps
    features from before any detection. Only where it keeps attended ones (A13) does the
    attention go frame by frame.

    Args:
      size_hw: true height and width of the frames inside their canvas.
      valid: false for padding frames, which must come last and leave no trace.
      thresholds: what of the detections is kept.
      association: how they are matched to tracks.
      first_frame: "self" lets the first frame attend to itself, "skip" passes its raw
        features on (A12).
      clock: time of each frame in the unit of `association.expire_after`; default: one
        after the other.
    Raises: InputError for another first_frame, or where a frame may bring more tracks
      than the memory has slots.
    """
    if first_frame not in ("self", "skip"):
        raise InputError(
            "first_frame", "", f"must be 'self' or 'skip', is {first_frame!r}"
        )
    sizes = jnp.broadcast_to(size_hw[None], (len(frames), 2))
    x1 = model.features(frames, sizes)
    # One video is a batch of one; whatever comes after the last true frame is dropped.
    one = (memory.features, x1, size_hw, memory.frame)
    levels, kept = model.walk(
        *jax.tree.map(lambda x: x[None], one), skip_first=first_frame == "skip"
    )
    levels = tuple(x[0] for x in levels)
    proposals = model.proposals(levels, sizes, thresholds)
    detections = model.detect(levels, proposals, sizes, thresholds)

    def associate(memory, inputs):
        detections, seen, now = inputs
        detections = detections._replace(valid=detections.valid & seen)
        scores = queue.score(memory, detections, association.weights)
        choice = queue.match(scores, detections.valid, shared=association.share_ids)
        new, ids, stays = queue.write(
            memory,
            detections,
            choice,
            update_labels=association.update_labels,
            expire_after=association.expire_after,
            now=now,
        )
        memory = jax.tree.map(lambda a, b: jnp.where(seen, a, b), new, memory)
        return memory, (ids, stays, memory.evicted)

    if clock is None:
        clock = memory.frame + jnp.arange(len(frames))
    # The features are put in once at the end, the scan need not carry them.
    lean, shown = jax.lax.scan(
        associate, memory._replace(features=()), (detections, valid, clock)
    )
    features = tuple(_last(x[0], len(frames), valid) for x in kept)
    return lean._replace(features=features), _tracks(detections, *shown)


def _last(
    kept: Float[Array, "_ h w c"], t: int, valid: Bool[Array, " t"]
) -> Float[Array, "q h w c"]:
    """What the queue holds after the last true one of t frames, the newest first."""
    return jax.lax.dynamic_slice_in_dim(kept, jnp.sum(valid), len(kept) - t)[::-1]


def _tracks(detections: Detections, ids: Array, stays: Array, evicted: Array) -> Tracks:
    boxes, labels, scores, _, masks, _ = detections
    return Tracks(boxes, labels, scores, stays, masks, ids, evicted)
