"""How well do found tracks match true tracks: the YouTube-VIS AP and AR, from masks.

Source: youtubevos/cocoapi ytvoseval.py; same numbers to the last digit.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

from stan_jax.evaluation.run_lengths import Masks

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
LIMITS = (1, 10, 100)  # detections per video and category
# Mean pixels of a track: all, small, medium, large. Both ends belong to the range.
AREAS = np.array([[0, 1e10], [0, 128**2], [128**2, 256**2], [256**2, 1e10]])


class TrueTrack(NamedTuple):
    """An annotated object of one video."""

    id: int  # unique in the whole set
    category_id: int
    crowd: bool  # neither counted when missed nor wrong when found
    area: float  # mean pixels over the frames that show it
    masks: Masks


class FoundTrack(NamedTuple):
    """A predicted object of one video."""

    score: float
    category_id: int
    masks: Masks
    row: int = -1  # which row of the file it is


class Matched(NamedTuple):
    """What one video adds to one category; axes: area range, threshold, detection."""

    scores: Float[np.ndarray, " n"]  # falling
    right: Bool[np.ndarray, "4 10 n"]
    ignored: Bool[np.ndarray, "4 10 n"]
    counted: Int[np.ndarray, " 4"]  # true tracks to be found


class VideoAp:
    """Takes in videos one by one, in any order; `finish` gives the numbers.

    Keeps 88 bytes a detection, no masks.
    class_agnostic: all categories are one.
    """

    def __init__(self, category_ids: Sequence, class_agnostic: bool = False):
        each = [[c] for c in sorted(set(category_ids))]
        self.groups = [sorted(category_ids)] if class_agnostic else each
        self._videos: dict = {}

    def add_video(
        self, video_id, truth: Sequence[TrueTrack], found: Sequence[FoundTrack]
    ) -> None:
        """Compare the tracks of one video; categories not listed are passed over.

        Raises: ValueError for a video that was already added.
        """
        self.add_matched(video_id, match(self.groups, truth, found))

    def add_matched(self, video_id, matched: dict[int, "Matched"]) -> None:
        """Likewise, of what `match` made of the video, perhaps in another process."""
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
    groups: Sequence[Sequence], truth: Sequence[TrueTrack], found: Sequence[FoundTrack]
) -> dict[int, Matched]:
    """What one video adds to each group of category ids that stands in it."""
    true, seen = defaultdict(list), defaultdict(list)
    for g in truth:
        true[g.category_id].append(g)
    for d in found:
        seen[d.category_id].append(d)
    return {
        k: _match([g for c in group for g in true[c]], rows)
        for k, group in enumerate(groups)
        for rows in [[d for c in group for d in seen[c]]]
        if rows or any(true[c] for c in group)
    }


def _match(truth: list[TrueTrack], found: list[FoundTrack]) -> Matched:
    """One video and category: each detection, best first, takes the best free track."""
    scores = np.array([d.score for d in found], np.float64)
    best = np.argsort(-scores, kind="stable")[: max(LIMITS)]
    found, scores = [found[n] for n in best], scores[best]

    size = np.array([g.area for g in truth])
    crowd = np.array([g.crowd for g in truth], bool)
    # An official quirk: the match is stored by id, and id 0 reads as "no match".
    named = np.array([g.id != 0 for g in truth], bool)
    ignore = crowd | (size < AREAS[:, :1]) | (size > AREAS[:, 1:])  # [4 m]

    right, ignored = np.zeros((2, len(AREAS), len(THRESHOLDS), len(found)), bool)
    if truth and found:
        overlap = iou([d.masks for d in found], [g.masks for g in truth], THRESHOLDS[0])
        taken = np.zeros((len(AREAS), len(THRESHOLDS), len(truth)), bool)
        for n in np.flatnonzero(overlap.max(axis=1) >= THRESHOLDS[0]):
            # Counted tracks before ignored ones, then IoU, then the later track.
            rank = np.empty(len(truth), int)
            rank[np.argsort(overlap[n], kind="stable")] = np.arange(len(truth))
            rank = rank + len(truth) * ~ignore
            free = (overlap[n] >= THRESHOLDS[:, None]) & (~taken | crowd)
            choice = np.where(free, rank[:, None], -1).argmax(axis=-1)[..., None]
            hit = np.take_along_axis(free, choice, axis=-1)
            np.put_along_axis(
                taken, choice, hit | np.take_along_axis(taken, choice, -1), axis=-1
            )
            passed = np.take_along_axis(ignore[:, None], choice, axis=-1)
            right[..., n] = (hit & named[choice])[..., 0]
            ignored[..., n] = (hit & passed)[..., 0]
    mean = np.array([mean_area(d.masks.areas) for d in found])
    outside = (mean < AREAS[:, :1]) | (mean > AREAS[:, 1:])  # [4 n]
    ignored |= ~right & outside[:, None]
    return Matched(scores, right, ignored, np.sum(~ignore, axis=1))


def iou(
    found: list[Masks], truth: list[Masks], least: float = 0.0
) -> Float[np.ndarray, "n m"]:
    """Common pixels over all frames / pixels of either, for each pair of tracks.

    Frames beyond the shorter track of a pair count for nothing, and so do frames where
    the two masks differ in size. 0 where the union is empty.
    least: a row that cannot reach this anywhere is given as 0.
    """
    length = max(len(track.areas) for track in [*found, *truth])
    area, size, inside = _stack(found, length)
    area_m, size_m, inside_m = _stack(truth, length)
    # [n m t]: this frame adds to the sums of this pair.
    used = (size[:, None] == size_m) | (size[:, None] == 0) | (size_m == 0)
    used &= inside[:, None] & inside_m
    a, b = area[:, None], area_m
    # At most one mask lies inside the other. (Two broken masks may do better.)
    small = np.minimum(a, b).sum(axis=-1, where=used)
    large = np.maximum(a, b).sum(axis=-1, where=used)
    rows = (small >= least * large).any(axis=1)
    broken_m = _padded([track.broken for track in truth], length)
    # Also the check without which pycocotools may never return: of all, not of `rows`.
    broken = _padded([track.broken for track in found], length)
    if broken_m.any():
        rows |= broken.any(axis=1)

    union = (a + b).sum(axis=-1, where=used).astype(np.float64)
    common = np.zeros_like(union)
    for t in np.flatnonzero(size[rows].any(axis=0) & size_m.any(axis=0)).tolist():
        n, m = np.flatnonzero(rows & (size[:, t] > 0)), np.flatnonzero(size_m[:, t])
        rles, rles_m = [_rle(found[i], t) for i in n], [_rle(truth[i], t) for i in m]
        ratio = np.maximum(coco_mask.iou(rles, rles_m, [0] * len(m)), 0)
        both = area[n, t][:, None] + area_m[m, t]
        shared = np.where(used[n][:, m, t], np.rint(ratio * both / (1 + ratio)), 0)
        rest = both - shared
        if broken_m.any():
            for i, j in np.argwhere(broken[n, t][:, None] & broken_m[m, t]):
                if used[n[i], m[j], t]:
                    shared[i, j], rest[i, j] = _merge(rles[i], rles_m[j])
        common[np.ix_(n, m)] += shared
        union[np.ix_(n, m)] += rest - both
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def mean_area(areas: Iterable) -> float:
    """Mean of the areas that are neither 0 nor None; 0 if all are."""
    shown = [a for a in areas if a]
    return float(np.mean(shown)) if shown else 0.0


def _stack(tracks: list[Masks], length: int) -> tuple[np.ndarray, ...]:
    """Area, size in one number, "the list reaches here": each [track frame]."""
    area = _padded([track.areas for track in tracks], length)
    size = _padded([track.sizes @ [2**24, 1] for track in tracks], length)
    inside = _padded([np.ones(len(track.areas), bool) for track in tracks], length)
    return area, size, inside


def _padded(rows: list[np.ndarray], length: int) -> np.ndarray:
    stacked = np.zeros((len(rows), length), rows[0].dtype if rows else float)
    for n, row in enumerate(rows):
        stacked[n, : len(row)] = row
    return stacked


def _rle(track: Masks, t: int) -> dict:
    return {"size": track.sizes[t].tolist(), "counts": track.texts[t]}


def _merge(a: dict, b: dict) -> tuple[int, int]:
    # Where both masks have a run of length 0 at one pixel, the official loop stops and
    # loses the rest of both sums; the union is then not area + area - intersection.
    both, either = coco_mask.merge([a, b], True), coco_mask.merge([a, b], False)
    return int(coco_mask.area(both)), int(coco_mask.area(either))


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
    curves = {}
    for a in np.flatnonzero(counted):
        tp = np.cumsum(right[a] & ~ignored[a], axis=-1, dtype=np.float64)
        fp = np.cumsum(~right[a] & ~ignored[a], axis=-1, dtype=np.float64)
        recall = tp / counted[a]
        precision = tp / (fp + tp + np.spacing(1))
        # Best precision at this recall or a higher one; 0 beyond the last detection.
        precision = np.maximum.accumulate(precision[:, ::-1], axis=-1)[:, ::-1]
        precision = np.pad(precision, ((0, 0), (0, 1)))
        at = np.stack([np.searchsorted(r, RECALLS) for r in recall])
        reached = recall[:, -1] if len(scores) else 0.0
        curves[int(a)] = (
            np.take_along_axis(precision, at, axis=-1),
            reached,
            np.append(scores, 0.0)[at],
        )
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
