"""How well do found tracks match true tracks: the YouTube-VIS AP and AR, from masks.

Source: youtubevos/cocoapi ytvoseval.py; same numbers to the last digit.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

from stan_jax.masks import codec
from stan_jax.masks.run_lengths import Masks
from stan_jax.masks.segmentations import MOST

PAIRS = 2**17  # of masks that one call of pycocotools compares, about
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
    for d, area in zip(found, _mean_areas(found), strict=True):
        seen[d.category_id].append((d, area))
    return {
        k: _match([g for c in group for g in true[c]], rows)
        for k, group in enumerate(groups)
        for rows in [[pair for c in group for pair in seen[c]]]
        if rows or any(true[c] for c in group)
    }


def _match(truth: list[TrueTrack], found: list[tuple[FoundTrack, float]]) -> Matched:
    """One video and category: each detection, best first, takes the best free track.

    found: with their mean areas.
    """
    scores = np.array([d.score for d, _ in found], np.float64)
    best = np.argsort(-scores, kind="stable")[: max(LIMITS)]
    found, scores = [found[n] for n in best], scores[best]

    size = np.array([g.area for g in truth])
    crowd = np.array([g.crowd for g in truth], bool)
    # An official quirk: the match is stored by id, and id 0 reads as "no match".
    named = np.array([g.id != 0 for g in truth], bool)
    ignore = crowd | (size < AREAS[:, :1]) | (size > AREAS[:, 1:])  # [4 m]

    right, ignored = np.zeros((2, len(AREAS), len(THRESHOLDS), len(found)), bool)
    if truth and found:
        masks = [d.masks for d, _ in found], [g.masks for g in truth]
        overlap = iou(*masks, THRESHOLDS[0])
        taken = np.zeros((len(AREAS), len(THRESHOLDS), len(truth)), bool)
        a, k = np.ogrid[: len(AREAS), : len(THRESHOLDS)]
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
    mean = np.array([area for _, area in found])
    outside = (mean < AREAS[:, :1]) | (mean > AREAS[:, 1:])  # [4 n]
    ignored |= ~right & outside[:, None]
    return Matched(scores, right, ignored, np.sum(~ignore, axis=1))


def iou(
    found: Sequence[Masks], truth: Sequence[Masks], least: float = 0.0
) -> Float[np.ndarray, "n m"]:
    """Common pixels over all frames / pixels of either, for each pair of tracks.

    Frames beyond the shorter track of a pair count for nothing, and so do frames where
    the two masks differ in size. 0 where the union is empty, and where it is below
    `least`: such pairs are compared only until that is certain.
    """
    (area, size), (area_m, size_m), used = paired(found, truth)
    both = (area[:, None] + area_m) * used
    # What a pair has in common: at most that one mask lies inside the other.
    common = np.minimum(area[:, None], area_m) * used
    total, extra = both.sum(axis=-1), np.zeros(both.shape[:2], np.int64)
    # Two masks with runs of length 0 inside may have more in common than that.
    broken, broken_m = (
        _padded([track.broken for track in side], used.shape[-1])
        for side in (found, truth)
    )
    odd = broken[:, None] & broken_m & used

    times = np.flatnonzero(size.any(axis=0) & size_m.any(axis=0))
    # Frames with many pixels decide soonest.
    times = times[np.argsort(-common[..., times].sum(axis=(0, 1)), kind="stable")]
    for part in np.split(times, [2 * len(times) // 5, 3 * len(times) // 5]):
        sums = common.sum(axis=-1)
        still = (sums >= least * (total - sums)) | odd.any(axis=-1)
        n, m = np.flatnonzero(still.any(axis=1)), np.flatnonzero(still.any(axis=0))
        step = 1 + int((PAIRS / max(1, len(n) * len(m))) ** 0.5)
        for k in range(0, len(part), step):
            some = part[k : k + step]
            i, t, rles = _masks(found, size, n, some)
            j, t_m, rles_m = _masks(truth, size_m, m, some)
            if not rles or not rles_m:
                continue
            p, q = np.nonzero(t[:, None] == t_m)
            ratio = np.asarray(coco_mask.iou(rles, rles_m, [0] * len(rles_m)))[p, q]
            ratio = np.maximum(ratio, 0)  # -1: sizes differ
            at = i[p], j[q], t[p]
            # Exact, since both sides are whole: ratio = common / (both - common).
            common[at] = np.rint(ratio * both[at] / (1 + ratio))
    for i, j, t in np.argwhere(odd).tolist():
        shared, either = _merge(found[i].rle(t), truth[j].rle(t))
        extra[i, j] += either - (both[i, j, t] - shared)
        common[i, j, t] = shared
    sums = common.sum(axis=-1)
    union = (total - sums + extra).astype(np.float64)
    ratio = np.divide(sums, union, out=np.zeros_like(union), where=union > 0)
    return np.where(ratio >= least, ratio, 0)


def _masks(
    tracks: Sequence[Masks], size: np.ndarray, rows: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Track, frame and run lengths of the masks that some tracks have in some frames.

    pycocotools compares all with all, but stops at once where sizes differ, and does
    not reckon with the width: so the width says which frame it is.
    """
    i, t = np.nonzero(size[np.ix_(rows, times)])
    i, t = rows[i], times[t]
    height, width = np.divmod(size[i, t], MOST)
    width += MOST * t
    fields = (x.tolist() for x in (height, width, i, t))
    return (
        i,
        t,
        [
            codec.pack((h, w), tracks[a].texts[b])
            for h, w, a, b in zip(*fields, strict=True)
        ],
    )


def mean_area(areas: Iterable) -> float:
    """Mean of the areas that are neither 0 nor None; 0 if all are."""
    shown = [a for a in areas if a]
    return float(np.mean(shown)) if shown else 0.0


def _mean_areas(found: Sequence[FoundTrack]) -> list[float]:
    """Likewise of the masks of each track; sums of whole numbers are exact."""
    length = max((len(d.masks.areas) for d in found), default=0)
    areas = _padded([d.masks.areas for d in found], length)
    return (areas.sum(axis=1) / np.maximum((areas > 0).sum(axis=1), 1)).tolist()


def paired(found: Sequence[Masks], truth: Sequence[Masks]) -> tuple:
    """Areas and sizes (in one number) of either side, and where a pair counts.

    Each side's are [track frame]. [n m t]: neither list has ended before this frame,
    and not both have a mask there, of different sizes.
    """
    length = max((len(track.areas) for track in [*found, *truth]), default=0)
    area, size, inside = _stacked(found, length)
    area_m, size_m, inside_m = _stacked(truth, length)
    used = (size[:, None] == size_m) | (size[:, None] == 0) | (size_m == 0)
    used &= inside[:, None] & inside_m
    return (area, size), (area_m, size_m), used


def _stacked(tracks: Sequence[Masks], length: int) -> tuple[np.ndarray, ...]:
    """Area, size in one number, whether the list reaches here: each [track frame]."""
    area = _padded([track.areas for track in tracks], length)
    size = _padded([track.sizes @ [MOST, 1] for track in tracks], length)
    inside = _padded([np.ones(len(track.areas)) for track in tracks], length) > 0
    return area, size, inside


def _padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    table = np.zeros((len(rows), length), rows[0].dtype if rows else np.int64)
    for n, row in enumerate(rows):
        table[n, : len(row)] = row
    return table


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
