"""Records that cross file borders, and the letters of their axes.

    b videos or clips            t frames of a video
    f frames of a training pair  q previous frames in the memory queue
    h w feature cells            fh fw frame pixels (the canvas)
    c channels                   d attention key channels
    i j cells of the previous / the current frame     l pyramid levels
    a anchors                    n proposals or detections (padded, with `valid`)
    m true objects (padded)      s slots of the memory queue
    k classes                    e appearance features        p cells of a RoI side

Boxes are half-open xyxy float32 pixels of the padded frame, everywhere. Classes are
0..k-1. Channels come last. Fields give the shape of one item; a batch, a clip or
`vmap` puts its axes in front. All records are NamedTuples because those alone pass
through `jit`, `vmap`, `scan` and `tree.map` under the shape checks of the tests.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Bool, Float, Int, UInt8

if TYPE_CHECKING:
    from jaxtyping import Array
else:
    Array = Any  # of NumPy where another runtime computes: this file needs no JAX


class Pair(NamedTuple):
    """Two frames of one video to learn from; row m is the same object in both.

    The last of the f frames is the current one x1, the one before it the previous
    (reference) frame x0. Older ones come before, for an attention that looks further.
    A row that is `present` in neither frame is padding.
    """

    frames: UInt8[Array, "f fh fw 3"]  # RGB; whatever lies outside size_hw is ignored
    size_hw: Int[Array, "2"]  # true height and width inside the canvas
    boxes: Float[Array, "2 m 4"]  # of x0 and x1, as the rest
    present: Bool[Array, "2 m"]
    labels: Int[Array, " m"]
    masks: Bool[Array, "m fh fw"]  # of x1
    seen: Int[Array, ""]  # how many frames came before x1; the rest of them is blank


class Proposals(NamedTuple):
    """Boxes where the region proposal network expects objects, best first."""

    boxes: Float[Array, "n 4"]
    scores: Float[Array, " n"]
    valid: Bool[Array, " n"]


class Detections(NamedTuple):
    """Objects of one frame, best first, before any track is known."""

    boxes: Float[Array, "n 4"]
    labels: Int[Array, " n"]
    scores: Float[Array, " n"]
    valid: Bool[Array, " n"]
    masks: Float[Array, "n p p"]  # probability inside the box
    embeds: Float[Array, "n e"]  # appearance


class Tracks(NamedTuple):
    """Objects of one frame, and the track that each belongs to."""

    boxes: Float[Array, "n 4"]
    labels: Int[Array, " n"]
    scores: Float[Array, " n"]
    valid: Bool[Array, " n"]  # false: empty row, or lost a contested track
    masks: Float[Array, "n p p"]
    ids: Int[Array, " n"]  # track identity, counted from 0 within a video
    evicted: Int[Array, ""]  # tracks that a full queue has dropped up to this frame


class MemoryQueue(NamedTuple):
    """Everything one video leaves behind for its next frame (paper Sec. 3.2).

    A slot is in use where `live`. `ids` are identities, never reused, so a slot
    that is given away does not revive an old track.
    """

    features: tuple[Float[Array, "q h w c"], ...]  # of q previous frames, newest first
    embeds: Float[Array, "s e"]
    boxes: Float[Array, "s 4"]
    labels: Int[Array, " s"]
    live: Bool[Array, " s"]
    last_seen: Int[Array, " s"]  # time of the last match, by default a frame number
    ids: Int[Array, " s"]
    next_id: Int[Array, ""]
    frame: Int[Array, ""]  # frames seen so far
    evicted: Int[Array, ""]  # live tracks that had to leave a full queue
