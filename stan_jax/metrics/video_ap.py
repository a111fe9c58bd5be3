"""Average precision and recall of tracks as YouTube-VIS has them, from masks.

Source: youtubevos/cocoapi ytvoseval.py; same numbers to the last digit.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from stan_jax.metrics.overlap import iou, padded
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
LIMITS = (1, 10, 100)  # detections per video and category
SIDES = 128, 256  # of squares that part small from medium from large tracks


def areas(sides: tuple[int, int] = SIDES) -> Float[np.ndarray, "4 2"]:
    """Mean pixels of a track: all, small, medium, large. Ends belong to both ranges."""
    small, large = (side**2 for side in sides)
    return np.array([[0, 1e10], [0, small], [small, large], [large, 1e10]])


AREAS = areas()


class Matched(NamedTuple):
    """Share of one video in one category; axes: area range, threshold, detection."""

    scores: Float[np.ndarray, " n"]  # falling
    right: Bool[np.ndarray, "4 10 n"]
    ignored: Bool[np.ndarray, "4 10 n"]
    counted: Int[np.ndarray, " 4"]  # true tracks to be found


class VideoAp:
    """AP over videos that are added one by one, in any order; `finish` gives it.

    Keeps 88 bytes a detection, no masks.
    class_agnostic: all categories are one. sides: see `areas`.
    """

    def __init__(
        self,
        category_ids: Sequence,
        class_agnostic: bool = False,
        sides: tuple[int, int] = SIDES,
    ):
        self.areas = areas(sides)
        each = [[c] for c in sorted(set(category_ids))]
        self.groups = [sorted(category_ids)] if class_agnostic else each
        self._videos: dict = {}

    def add_video(
        self, video_id, truth: Sequence[TrueTrack], predicted: Sequence[PredictedTrack]
    ) -> None:
        """Compare the tracks of one video; categories not listed are passed over.

        Raises: ValueError for a video that was already added.
        """
        self.add_matched(video_id, match(self.groups, truth, predicted, self.areas))

    def add_matched(self, video_id, matched: dict[int, "Matched"]) -> None:
        """Add what `match` made of one video, perhaps in another process."""
        if video_id in self._videos:
            raise ValueError(f"video {video_id} was already added")
        self._videos[video_id] = matched

    def finish(self) -> dict:
        """The twelve official statistics by name, -1 where there is nothing to find.

        Also the curves: `precision` and `scores` [threshold, recall, category, area
        range, limit], `recall` [threshold, category, area range, limit].
        """
        shape = len(THRESHOLDS), len(RECALLS), len(self.groups), len(AREAS), len(LIMITS)
        precision, scores = np.full((2, *shape), -1.0)
        recall = np.full((shape[0], *shape[2:]), -1.0)
        for k in range(len(self.groups)):
            videos = [self._videos[v] for v in sorted(self._videos)]
            parts = [video[k] for video in videos if k in video]
            for m, limit in enumerate(LIMITS if parts else ()):
                for a, (p, r, s) in _curves(parts, limit).items():
                    precision[:, :, k, a, m] = p
                    recall[:, k, a, m] = r
                    scores[:, :, k, a, m] = s
        curves = {"precision": precision, "recall": recall, "scores": scores}
        return _statistics(precision, recall) | curves


def match(
    groups: Sequence[Sequence],
    truth: Sequence[TrueTrack],
    predicted: Sequence[PredictedTrack],
    areas: Float[np.ndarray, "4 2"] = AREAS,
    overlap: Float[np.ndarray, "n m"] | None = None,
) -> dict[int, Matched]:
    """Return the share of one video in each group of category ids that is in it.

    overlap: of each predicted track with each true one, see `iou`; only what is needed
    of it is computed where it is not given.
    """
    sides = defaultdict(list), defaultdict(list)
    for places, tracks in zip(sides, (truth, predicted), strict=True):
        for place, track in enumerate(tracks):
            places[track.category_id].append(place)
    means = np.array(_mean_areas(predicted))
    scores = np.array([track.score for track in predicted], np.float64)
    parts = {}  # of each group that is there: places, the best predicted first
    for k, group in enumerate(groups):
        m, n = ([place for c in group for place in places[c]] for places in sides)
        if m or n:
            n = np.array(n, int)
            best = np.argsort(-scores[n], kind="stable")[: max(LIMITS)]
            parts[k] = m, n[best].tolist()
    if overlap is None:
        overlap = _overlaps(truth, predicted, parts)
    return {
        k: _match(
            [truth[place] for place in m],
            scores[n],
            means[n],
            overlap[np.ix_(n, m)],
            areas,
        )
        for k, (m, n) in parts.items()
    }


def _overlaps(
    truth: Sequence[TrueTrack],
    predicted: Sequence[PredictedTrack],
    parts: dict[int, tuple[list[int], list[int]]],
) -> Float[np.ndarray, "n m"]:
    """The overlaps that matter: within a group, from the least threshold up."""
    of_true: dict[int, int] = {}  # the group of those that may meet
    of_predicted: dict[int, int] = {}
    for k, (m, n) in parts.items():
        if m and n:
            of_true |= dict.fromkeys(m, k)
            of_predicted |= dict.fromkeys(n, k)
    overlap = np.zeros((len(predicted), len(truth)))
    overlap[np.ix_([*of_predicted], [*of_true])] = iou(
        [predicted[place].masks for place in of_predicted],
        [truth[place].masks for place in of_true],
        THRESHOLDS[0],
        ([*of_predicted.values()], [*of_true.values()]),
    )
    return overlap


def _match(
    truth: list[TrueTrack],
    scores: Float[np.ndarray, " n"],
    means: Float[np.ndarray, " n"],
    overlap: Float[np.ndarray, "n m"],
    areas: Float[np.ndarray, "4 2"],
) -> Matched:
    """One video and category: each detection, best first, takes the best free track.

    scores, means, overlap: of the detections, best first; means: of their areas.
    """
    size = np.array([g.area for g in truth])
    crowd = np.array([g.crowd for g in truth], bool)
    # An official quirk: the match is stored by id, and id 0 reads as "no match".
    named = np.array([g.id != 0 for g in truth], bool)
    ignore = crowd | (size < areas[:, :1]) | (size > areas[:, 1:])  # [4 m]

    right, ignored = np.zeros((2, len(areas), len(THRESHOLDS), len(scores)), bool)
    if overlap.size:
        taken = np.zeros((len(areas), len(THRESHOLDS), len(truth)), bool)
        a, k = np.ogrid[: len(areas), : len(THRESHOLDS)]
        for n in np.flatnonzero(overlap.max(axis=1) >= THRESHOLDS[0]):
            # Counted tracks before ignored ones, then IoU, then the later track.
            rank = np.empty(len(truth), int)
            rank[np.argsort(overlap[n], kind="stable")] = np.arange(len(truth))
            rank = rank + len(truth) * ~ignore
            free = (overlap[n] >= THRESHOLDS[:, None]) & (~taken | crowd)
            m = np.where(free, rank[:, None], -1).argmax(axis=-1)  # [4 10]
            hit = free[a, k, m]
            taken[a, k, m] |= hit
            right[..., n] = hit & named[m]
            ignored[..., n] = hit & ignore[a, m]
    outside = (means < areas[:, :1]) | (means > areas[:, 1:])  # [4 n]
    ignored |= ~right & outside[:, None]
    return Matched(scores, right, ignored, np.sum(~ignore, axis=1))


def _mean_areas(predicted: Sequence[PredictedTrack]) -> list[float]:
    """Return the mean area of each track; sums of whole numbers are exact."""
    length = max((len(d.masks.areas) for d in predicted), default=0)
    areas = padded([d.masks.areas for d in predicted], length)
    return (areas.sum(axis=1) / np.maximum((areas > 0).sum(axis=1), 1)).tolist()


def _curves(parts: list[Matched], limit: int) -> dict[int, tuple]:
    """Per area range with something to find: precision, recall and score curves."""
    scores = np.concatenate([p.scores[:limit] for p in parts])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    right, ignored = (
        np.concatenate([field(p)[..., :limit] for p in parts], axis=-1)[..., order]
        for field in (lambda p: p.right, lambda p: p.ignored)
    )
    counted = np.sum([p.counted for p in parts], axis=0)
    there = np.flatnonzero(counted)
    right, ignored = right[there], ignored[there]
    tp = np.cumsum(right & ~ignored, axis=-1, dtype=np.float64)
    fp = np.cumsum(~right & ~ignored, axis=-1, dtype=np.float64)
    recall = tp / counted[there, None, None]
    precision = tp / (fp + tp + np.spacing(1))
    # Best precision at this recall or a higher one; 0 beyond the last detection.
    precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    precision = np.pad(precision, ((0, 0), (0, 0), (0, 1)))
    scores = np.append(scores, 0.0)
    curves = {}
    for a, p, r in zip(there.tolist(), precision, recall, strict=True):
        at = np.stack([np.searchsorted(row, RECALLS) for row in r])
        reached = r[:, -1] if r.size else 0.0
        curves[a] = np.take_along_axis(p, at, axis=-1), reached, scores[at]
    return curves


def _statistics(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    names = "", "_small", "_medium", "_large"
    stats = {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[0, ..., 0, -1]),
        "AP75": _mean(precision[5, ..., 0, -1]),
    }
    stats |= {f"AP{names[a]}": _mean(precision[..., a, -1]) for a in (1, 2, 3)}
    stats |= {f"AR{m}": _mean(recall[..., 0, i]) for i, m in enumerate(LIMITS)}
    return stats | {f"AR{names[a]}": _mean(recall[..., a, -1]) for a in (1, 2, 3)}


def _mean(values: np.ndarray) -> float:
    # In this order and in float64: the last digit depends on it.
    known = values[values > -1]
    return float(np.mean(known)) if known.size else -1.0
