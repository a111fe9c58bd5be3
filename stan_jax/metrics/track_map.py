"""Average precision of tracks as TrackEval counts it, every category taken for one.

Not the YouTube-VIS AP: there is no limit of detections, a crowd is matched once, lists
of different length are compared in full, and the first row of the results file leaves
the object it matched free. Same numbers as TrackEval, to the last digit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stan_jax.masks.run_lengths import Masks
from stan_jax.metrics.overlap import iou
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack
from stan_jax.metrics.video_ap import RECALLS

# Not `linspace`: the last digits differ.
THRESHOLDS = np.arange(0.5, 0.96, 0.05)
SLACK = np.finfo(float).eps


class TrackMap(NamedTuple):
    """Share of one video; axes: threshold, predicted track by falling score."""

    scores: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, "10 n"]
    ignored: Bool[np.ndarray, "10 n"]
    counted: int  # true tracks that are no crowd


def match(
    true: Sequence[TrueTrack],
    predicted: Sequence[PredictedTrack],
    overlap: Float[np.ndarray, "n m"],
) -> TrackMap:
    """Each predicted track, best first, takes the best true track that is free.

    overlap: of each predicted track with each true one, see `overlap.iou`.
    """
    # Crowds last, else in the order of the file.
    crowd = np.array([track.crowd for track in true], bool)
    last = np.argsort(crowd, kind="stable")
    scores = np.array([track.score for track in predicted], np.float64)
    order = np.argsort(-scores, kind="stable")
    overlap = _in_full(true, predicted, overlap)[np.ix_(order, last)]
    crowd = crowd[last]
    rows = [predicted[n].row for n in order]
    right, ignored = np.zeros((2, len(THRESHOLDS), len(rows)), bool)
    best = overlap.max(axis=1, initial=0)
    for k, threshold in enumerate(THRESHOLDS):
        least = min(threshold, 1 - 1e-10)
        taken = np.zeros(len(crowd), bool)
        for n in np.flatnonzero(best >= least - SLACK).tolist():
            m = _best(overlap[n], taken, crowd, least)
            if m >= 0:
                right[k, n], ignored[k, n] = True, crowd[m]
                taken[m] = rows[n] > 0  # a quirk: id 0 reads as "still free"
    return TrackMap(scores[order], right, ignored, int(np.sum(~crowd)))


def _best(overlap, taken, crowd, minimum: float) -> int:
    best = -1
    for m in np.flatnonzero(~taken).tolist():
        if best >= 0 and not crowd[best] and crowd[m]:
            break
        if overlap[m] >= minimum - SLACK:
            best, minimum = m, overlap[m]
    return best


def _in_full(true, predicted, overlap: np.ndarray) -> np.ndarray:
    """The overlaps, anew where the lists differ in length: all frames count."""
    lengths = {len(track.masks.texts) for track in [*true, *predicted]}
    if len(lengths) < 2 or not overlap.size:
        return overlap
    found, objects = (
        [_to_length(track.masks, max(lengths)) for track in tracks]
        for tracks in (predicted, true)
    )
    return iou(found, objects, THRESHOLDS[0])


def _to_length(masks: Masks, length: int) -> Masks:
    if (rest := length - len(masks.texts)) == 0:
        return masks
    sizes, areas = (
        np.pad(masks.sizes, ((0, rest), (0, 0))),
        np.pad(masks.areas, (0, rest)),
    )
    return Masks([*masks.texts, *[None] * rest], sizes, areas)


def ap(videos: Sequence[TrackMap]) -> float:
    """Mean over the thresholds; -1 where there is nothing to find."""
    counted = sum(video.counted for video in videos)
    if not counted:
        return -1.0
    scores = np.concatenate([video.scores for video in videos])
    order = np.argsort(-scores, kind="stable")
    right, ignored = (
        np.concatenate([video[field] for video in videos], axis=1)[:, order]
        for field in (1, 2)
    )
    tp = np.cumsum(right & ~ignored, axis=1).astype(np.float64)
    fp = np.cumsum(~right & ~ignored, axis=1).astype(np.float64)
    precision = tp / (fp + tp + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))
    means = [
        np.mean(p[np.searchsorted(t / counted, RECALLS)])
        for p, t in zip(precision, tp, strict=True)
    ]
    return float(np.mean(means))
