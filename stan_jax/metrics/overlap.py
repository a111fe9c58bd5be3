"""Overlap of tracks: common pixels over a whole video, by their run lengths."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as coco_mask

from stan_jax.masks import codec
from stan_jax.masks.run_lengths import Masks
from stan_jax.masks.segmentations import MOST

PAIRS = 2**17  # of masks that one call of pycocotools compares, about


class Overlaps(NamedTuple):
    """Overlap of each pair of two lists of tracks, over their video and by frame.

    Args:
      tracks: see `iou`.
      t, true, predicted: frame and places in the lists of each two masks of one frame,
        sorted in this order.
      masks: their common pixels / pixels of either; 0 where their sizes differ.
    """

    tracks: Float[np.ndarray, "n m"]
    t: Int[np.ndarray, " k"]
    true: Int[np.ndarray, " k"]
    predicted: Int[np.ndarray, " k"]
    masks: Float[np.ndarray, " k"]

    def of(self, rows: Sequence[int], columns: Sequence[int]) -> "Overlaps":
        """Return those of some tracks of either list, by their places in it."""
        tracks = self.tracks[np.ix_(rows, columns)]
        places = []
        for chosen, number in zip((rows, columns), self.tracks.shape, strict=True):
            places.append(np.full(number, -1))
            places[-1][chosen] = np.arange(len(chosen))
        predicted, true = places[0][self.predicted], places[1][self.true]
        kept = np.flatnonzero((predicted >= 0) & (true >= 0))
        kept = kept[np.lexsort((predicted[kept], true[kept], self.t[kept]))]
        return Overlaps(
            tracks, self.t[kept], true[kept], predicted[kept], self.masks[kept]
        )


def iou(
    predicted: Sequence[Masks],
    truth: Sequence[Masks],
    minimum: float = 0.0,
    kinds: tuple[Sequence[int], Sequence[int]] | None = None,
) -> Float[np.ndarray, "n m"]:
    """Common pixels over all frames / pixels of either, for each pair of tracks.

    Frames beyond the shorter track of a pair count for nothing, and so do frames where
    the two masks differ in size. 0 where the union is empty, and where it is below
    `minimum`: such pairs are compared only until that is certain.

    kinds: of each track of either list; 0 where two differ in it.
    """
    return _compared(predicted, truth, minimum, kinds)[0]


def compare(predicted: Sequence[Masks], truth: Sequence[Masks]) -> Overlaps:
    """Return all overlaps of two lists of tracks; each pair of masks is met once."""
    tracks, met = _compared(predicted, truth, 0.0)
    none = np.zeros((3, 0), int), np.zeros(0)
    (i, j, t), ratio = (np.concatenate(x, -1) for x in zip(none, *met, strict=True))
    order = np.lexsort((i, j, t))
    return Overlaps(tracks, t[order], j[order], i[order], ratio[order])


def _compared(
    predicted: Sequence[Masks],
    truth: Sequence[Masks],
    minimum: float,
    kinds: tuple[Sequence[int], Sequence[int]] | None = None,
) -> tuple[Float[np.ndarray, "n m"], list]:
    """The overlap of tracks; places, frames and overlaps of the masks that met."""
    if not predicted or not truth:
        return np.zeros((len(predicted), len(truth))), []
    (area, size), (area_m, size_m), used = paired(predicted, truth)
    # Small numbers all: pycocotools has 32 bits on Windows.
    beyond = 1 + max(int((x % MOST).max(initial=0)) for x in (size, size_m))
    kind, kind_m = np.zeros(len(predicted), int), np.zeros(len(truth), int)
    if kinds is not None:
        both = np.unique([*kinds[0], *kinds[1]], return_inverse=True)[1]
        kind, kind_m = both[: len(predicted)], both[len(predicted) :]
    alike = kind[:, None] == kind_m
    used &= alike[..., None]
    both = (area[:, None] + area_m) * used
    # What a pair has in common: at most that one mask lies inside the other.
    common = np.minimum(area[:, None], area_m) * used
    total, extra = both.sum(axis=-1), np.zeros(both.shape[:2], np.int64)
    # Two masks with runs of length 0 inside may have more in common than that.
    broken, broken_m = (
        padded([track.broken for track in side], used.shape[-1])
        for side in (predicted, truth)
    )
    odd = broken[:, None] & broken_m & used
    met = []

    times = np.flatnonzero(size.any(axis=0) & size_m.any(axis=0))
    parts = [times]
    if minimum:  # frames with many pixels decide soonest
        pixels = common[..., times].sum(axis=(0, 1))
        times = times[np.argsort(-pixels, kind="stable")]
        parts = np.split(times, [2 * len(times) // 5, 3 * len(times) // 5])
    for part in parts:
        sums = common.sum(axis=-1)
        still = alike & (sums >= minimum * (total - sums)) | odd.any(axis=-1)
        n, m = np.flatnonzero(still.any(axis=1)), np.flatnonzero(still.any(axis=0))
        step = 1 + int((PAIRS / max(1, len(n) * len(m))) ** 0.5)
        for k in range(0, len(part), step):
            some = part[k : k + step]
            i, t, label, rles = _masks(predicted, size, kind, n, some, beyond)
            j, _, label_m, rles_m = _masks(truth, size_m, kind_m, m, some, beyond)
            if not rles or not rles_m:
                continue
            p, q = np.nonzero(label[:, None] == label_m)
            ratio = np.asarray(coco_mask.iou(rles, rles_m, [0] * len(rles_m)))[p, q]
            at = i[p], j[q], t[p]
            ratio = np.maximum(ratio, 0)  # -1: sizes differ
            met.append((at, ratio))
            # Exact, since both sides are whole: ratio = common / (both - common).
            common[at] = np.rint(ratio * both[at] / (1 + ratio))
    for i, j, t in np.argwhere(odd).tolist():
        shared, either = _merge(predicted[i].rle(t), truth[j].rle(t))
        extra[i, j] += either - (both[i, j, t] - shared)
        common[i, j, t] = shared
    sums = common.sum(axis=-1)
    union = (total - sums + extra).astype(np.float64)
    ratio = np.divide(sums, union, out=np.zeros_like(union), where=union > 0)
    return np.where(ratio >= minimum, ratio, 0), met


def _masks(
    tracks: Sequence[Masks],
    size: np.ndarray,
    kind: np.ndarray,
    rows: np.ndarray,
    times: np.ndarray,
    beyond: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
    """Track, frame, label and run lengths of masks that tracks have in some frames.

    pycocotools compares all with all, but stops at once where sizes differ, and does
    not reckon with the width: so the width holds the label, which says of what frame
    and kind a mask is, times a number beyond all widths.
    """
    i, t = np.nonzero(size[np.ix_(rows, times)])
    i, t = rows[i], times[t]
    label = kind[i] * size.shape[1] + t
    height, width = np.divmod(size[i, t], MOST)
    width += beyond * label
    fields = (x.tolist() for x in (height, width, i, t))
    rles = [
        codec.pack((h, w), tracks[a].texts[b])
        for h, w, a, b in zip(*fields, strict=True)
    ]
    return i, t, label, rles


def paired(predicted: Sequence[Masks], truth: Sequence[Masks]) -> tuple:
    """Areas and sizes (in one number) of either side, and where a pair counts.

    Each side's are [track frame]. [n m t]: neither list has ended before this frame,
    and not both have a mask there, of different sizes.
    """
    length = max((len(track.areas) for track in [*predicted, *truth]), default=0)
    area, size, inside = _stacked(predicted, length)
    area_m, size_m, inside_m = _stacked(truth, length)
    used = (size[:, None] == size_m) | (size[:, None] == 0) | (size_m == 0)
    used &= inside[:, None] & inside_m
    return (area, size), (area_m, size_m), used


def _stacked(tracks: Sequence[Masks], length: int) -> tuple[np.ndarray, ...]:
    """Area, size in one number, whether the list reaches here: each [track frame]."""
    area = padded([track.areas for track in tracks], length)
    size = padded([track.sizes @ [MOST, 1] for track in tracks], length)
    inside = padded([np.ones(len(track.areas)) for track in tracks], length) > 0
    return area, size, inside


def padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Return rows of several lengths as one table, filled up with zeros."""
    table = np.zeros((len(rows), length), rows[0].dtype if rows else np.int64)
    for n, row in enumerate(rows):
        table[n, : len(row)] = row
    return table


def _merge(a: dict, b: dict) -> tuple[int, int]:
    # Where both masks have a run of length 0 at one pixel, the official loop stops and
    # loses the rest of both sums; the union is then not area + area - intersection.
    both, either = coco_mask.merge([a, b], True), coco_mask.merge([a, b], False)
    return int(coco_mask.area(both)), int(coco_mask.area(either))
