"""Tracking metrics, of how predicted tracks keep to their objects: HOTA, MOTA, IDF1.

Every predicted track counts, whatever its score. Same numbers as TrackEval, to the last
digit. Source: Luiten et al. 2021; Bernardin and Stiefelhagen 2008; Ristani et al. 2016.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from stan_jax.errors import InputError
from stan_jax.masks.run_lengths import Masks
from stan_jax.masks.segmentations import MOST
from stan_jax.metrics import track_map
from stan_jax.metrics.overlap import Overlaps, compare, padded
from stan_jax.metrics.track_map import TrackMap
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack

ALPHAS = np.arange(0.05, 0.99, 0.05)  # overlaps that HOTA is a mean over
THRESHOLD = 0.5  # overlap of a match in CLEAR and identity
SLACK = np.finfo(float).eps
TIE = 1e-9  # values that differ by less are left to the assignment to tell apart
SAME_TRACK = 1000  # CLEAR prefers the track that the object had one frame before
MEANS = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA", "OWTA")


class Scene(NamedTuple):
    """One video; tracks are numbered in the order of their ids.

    Args:
      true, predicted: which of them a frame shows.
      t, n, m: frame and numbers of each two that are in one, frame by frame, in the
        order of the files.
      overlap: IoU of their masks.
      objects: the id of each.
      tracks: the number of each among those that were given.
    """

    true: Bool[np.ndarray, "t _n"]
    predicted: Bool[np.ndarray, "t _m"]
    t: Int[np.ndarray, " k"]
    n: Int[np.ndarray, " k"]
    m: Int[np.ndarray, " k"]
    overlap: Float[np.ndarray, " k"]
    objects: list
    tracks: list[int]

    @property
    def masks_true(self) -> int:
        """Number of masks of objects."""
        return int(self.true.sum())

    @property
    def masks_predicted(self) -> int:
        """Number of masks of predicted tracks."""
        return int(self.predicted.sum())

    def frames(
        self, chosen: Bool[np.ndarray, " t"]
    ) -> Iterator[tuple[int, slice, tuple[int, int]]]:
        """Yield those frames in which any two meet, their part of k and its shape."""
        shapes = np.stack([self.true.sum(1), self.predicted.sum(1)], 1)
        stops = shapes.prod(1).cumsum().tolist()
        for t in np.flatnonzero(shapes.all(1) & chosen).tolist():
            rows, columns = shapes[t].tolist()
            yield t, slice(stops[t] - rows * columns, stops[t]), (rows, columns)

    def table(self, values: np.ndarray) -> Float[np.ndarray, "n m"]:
        """Return sums over the frames of a value of each two."""
        shape = self.true.shape[1], self.predicted.shape[1]
        sums = _sums(self.n * shape[1] + self.m, values, shape[0] * shape[1])
        return sums.reshape(shape)


class Held(NamedTuple):
    """How tracks of one video keep to their objects."""

    hota: dict[str, np.ndarray]
    clear: dict[str, Any]
    identity: dict[str, int]


class Counts(NamedTuple):
    """Share of one video in the summary."""

    held: Held  # every category taken for one
    track_map: TrackMap
    by_category: dict[Any, Held]  # of the categories that are in the video


def count(
    video: dict[str, Any],
    true: Sequence[TrueTrack],
    predicted: Sequence[PredictedTrack],
    instances_path: str | Path = "instances",
    results_path: str | Path = "results",
    *,
    by_category: bool = False,
    overlaps: Overlaps | None = None,
) -> Counts:
    """One video; the paths are for errors.

    by_category: also count each category alone; its tracks meet only each other.
    overlaps: of `predicted` with `true`, where they are known.
    """
    folder_of(instances_path, video)
    length = len(video["file_names"])
    # One object per id, as in the rest of the evaluation.
    places = {track.id: place for place, track in enumerate(true)}
    objects = {i: true[place] for i, place in places.items()}
    masks = {i: track.masks for i, track in objects.items()}
    found = [track.masks for track in predicted]
    if overlaps is None:
        overlaps = compare(found, [track.masks for track in true])
    overlaps = overlaps.of(range(len(found)), list(places.values()))
    record = f"video {video['id']}"
    here = scene(masks, found, overlaps, length, results_path, record)
    parts = {}
    if by_category:
        kinds = [
            [tracks[i].category_id for i in shown]
            for tracks, shown in ((objects, here.objects), (predicted, here.tracks))
        ]
        shown = [_masks_of(here, side, kinds[side]) for side in (0, 1)]
        for category in {**shown[0], **shown[1]}:
            if category in shown[0] and category in shown[1]:
                sides = [np.array([k == category for k in of], bool) for of in kinds]
                parts[category] = held(part(here, *sides))
            else:
                parts[category] = one_sided(*(side[category] for side in shown))
    maps = track_map.match(list(objects.values()), predicted, overlaps.tracks)
    return Counts(held(here), maps, parts)


def _masks_of(here: Scene, side: int, kinds: Sequence) -> Counter:
    """Return how many masks each category has, of the objects or of the tracks."""
    numbers: Counter = Counter()
    shown = (here.true, here.predicted)[side]
    for kind, number in zip(kinds, shown.sum(axis=0).tolist(), strict=True):
        numbers[kind] += number
    return numbers


def held(here: Scene) -> Held:
    """Return all counts of a scene."""
    return Held(hota(here), clear(here), identity(here))


def one_sided(masks_true: int, masks_predicted: int) -> Held:
    """Return the counts of a scene in which nothing can be matched."""
    zero = np.zeros(len(ALPHAS))
    counts = {name: zero.copy() for name in ("TP", "FN", "FP", *MEANS)}
    counts["FN"] += masks_true
    counts["FP"] += masks_predicted
    counts["LocA"] += 1.0
    return Held(
        counts,
        dict(
            CLR_TP=0,
            CLR_FN=masks_true,
            CLR_FP=masks_predicted,
            IDSW=0,
            Frag=0,
            MOTP_sum=0.0,
        ),
        dict(IDTP=0, IDFN=masks_true, IDFP=masks_predicted),
    )


def part(
    here: Scene, true: Bool[np.ndarray, " n"], predicted: Bool[np.ndarray, " m"]
) -> Scene:
    """Return a scene with some of the objects and some of the tracks alone."""
    kept = true[here.n] & predicted[here.m]
    return Scene(
        here.true[:, true],
        here.predicted[:, predicted],
        here.t[kept],
        (np.cumsum(true) - 1)[here.n[kept]],
        (np.cumsum(predicted) - 1)[here.m[kept]],
        here.overlap[kept],
        [i for i, kept in zip(here.objects, true, strict=True) if kept],
        [n for n, kept in zip(here.tracks, predicted, strict=True) if kept],
    )


class Total:
    """Sum over videos that are added one by one; keeps their counts, no masks."""

    def __init__(self) -> None:
        self._videos: list[Counts] = []

    def add(self, counts: Counts) -> None:
        """Add the counts of one video."""
        self._videos.append(counts)

    def summary(self) -> dict[str, Any]:
        """The numbers over all videos by name."""
        maps = [video.track_map for video in self._videos]
        whole = summary([video.held for video in self._videos])
        return whole | {"TrackMAP_AP": track_map.ap(maps)}

    def by_category(self) -> dict[Any, dict[str, Any]]:
        """The same of each category that was in some video, but for TrackMAP."""
        found = defaultdict(list)
        for video in self._videos:
            for category, part in video.by_category.items():
                found[category].append(part)
        return {category: summary(parts) for category, parts in found.items()}


def summary(videos: Sequence[Held]) -> dict[str, Any]:
    """Return the numbers over some videos by name."""
    c: Counter = Counter()
    for video in videos:
        c.update(video.clear)
        c.update(video.identity)
    parts = combine_hota([video.hota for video in videos])
    true = max(1, c["CLR_TP"] + c["CLR_FN"])
    return {name: float(np.mean(parts[name])) for name in MEANS} | {
        "MOTA": (c["CLR_TP"] - c["CLR_FP"] - c["IDSW"]) / true,
        "MOTP": float(c["MOTP_sum"] / max(1, c["CLR_TP"])),
        "IDSW": int(c["IDSW"]),
        "Frag": int(c["Frag"]),
        "IDF1": c["IDTP"] / max(1, c["IDTP"] + 0.5 * c["IDFP"] + 0.5 * c["IDFN"]),
        "IDR": c["IDTP"] / max(1, c["IDTP"] + c["IDFN"]),
        "IDP": c["IDTP"] / max(1, c["IDTP"] + c["IDFP"]),
    }


def folder_of(path: str | Path, video: dict[str, Any]) -> str:
    """Return the folder of a video's frames, which TrackEval sorts by."""
    names = video.get("file_names")
    if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
        raise InputError(path, f"video {video['id']}", "needs a list of file_names")
    return names[0].split("/")[0] if names else ""


def scene(
    true: Mapping[Any, Masks],
    predicted: Sequence[Masks],
    overlaps: Overlaps,
    length: int,
    file: str | Path = "results",
    record: str = "",
) -> Scene:
    """Return who is in each frame of a video, and the overlap of each pair.

    Args:
      true: the masks of the objects by id.
      overlaps: of `predicted` with `true`, see `overlap.compare`.
      length: of the video, in frames.
    Raises: InputError, named by `file` and `record`, where two masks of a frame differ
    in size.
    """
    objects = list(true.values())
    sizes, found = (_sizes(side, length) for side in (objects, predicted))
    # Tracks that no frame shows have no number; the others in the order of their ids.
    ids = list(true)
    columns = sorted(np.flatnonzero(sizes.any(axis=0)).tolist(), key=lambda i: ids[i])
    rows = np.flatnonzero(found.any(axis=0))
    number, seen = (np.zeros(len(side), int) for side in (objects, predicted))
    number[columns], seen[rows] = np.arange(len(columns)), np.arange(len(rows))
    for t in np.flatnonzero(sizes.any(axis=1) & found.any(axis=1)).tolist():
        here = {*sizes[t].tolist(), *found[t].tolist()} - {0}
        if len(here) > 1:
            both = sorted(divmod(size, MOST) for size in here)
            rule = f"masks of one frame must have one size, have {both}"
            raise InputError(file, f"{record}, frame {t}".removeprefix(", "), rule)
    inside = overlaps.t < length
    return Scene(
        sizes[:, columns] > 0,
        found[:, rows] > 0,
        overlaps.t[inside],
        number[overlaps.true[inside]],
        seen[overlaps.predicted[inside]],
        overlaps.masks[inside],
        [ids[i] for i in columns],
        rows.tolist(),
    )


def _sizes(tracks: Sequence[Masks], length: int) -> Int[np.ndarray, "t n"]:
    """Size of each mask of a video as one number; 0 where there is none."""
    return padded([(x.sizes @ [MOST, 1])[:length] for x in tracks], length).T


def hota(scene: Scene) -> dict[str, np.ndarray]:
    """Counts and association of one video, each over ALPHAS."""
    if not scene.masks_true or not scene.masks_predicted:
        return one_sided(scene.masks_true, scene.masks_predicted).hota
    result = {k: np.zeros(len(ALPHAS)) for k in ("TP", "FN", "FP", *MEANS)}
    n, m, overlap = scene.n, scene.m, scene.overlap
    # First pass: how well two tracks fit over the whole video.
    of_track, of_object = (
        _sums(at := scene.t * shown.shape[1] + number, overlap, shown.size)[at]
        for shown, number in ((scene.predicted, m), (scene.true, n))
    )
    rest = of_track + of_object - overlap
    # 0 where both met nobody.
    shares = scene.table(overlap / np.where(rest > SLACK, rest, np.inf))
    seen_true, seen_predicted = scene.true.sum(0)[:, None], scene.predicted.sum(0)
    either = seen_true + seen_predicted
    fit = (shares / (either - shares))[n, m] * overlap
    # Second pass: one assignment for each frame, then the thresholds.
    matched, pairs = np.zeros((2, len(scene.true), min(shares.shape)))
    best, contested = _best(scene, fit)
    best = best[~contested[scene.t[best]]]
    t = scene.t[best]
    i = np.arange(len(t)) - np.searchsorted(t, t)  # which of its frame
    matched[t, i], pairs[t, i] = overlap[best], n[best] * shares.shape[1] + m[best]
    for t, part, shape in scene.frames(contested):
        rows, columns = linear_sum_assignment(fit[part].reshape(shape), maximize=True)
        at = part.start + rows * shape[1] + columns
        matched[t, : len(at)] = overlap[at]
        pairs[t, : len(at)] = n[at] * shares.shape[1] + m[at]
    right = matched >= ALPHAS[:, None, None] - SLACK  # [19 t n]; never where none is
    result["TP"] += right.sum((1, 2))
    result["FN"] += scene.masks_true - result["TP"]
    result["FP"] += scene.masks_predicted - result["TP"]
    # In their order, one by one: NumPy's sum rounds otherwise.
    by_frame = np.cumsum(np.where(right, matched, 0.0), axis=2)[..., -1]
    result["LocA"] += np.cumsum(by_frame, axis=1)[:, -1]
    a, t, n = np.nonzero(right)
    places = a * shares.size + pairs[t, n].astype(int)
    together = np.bincount(places, minlength=len(ALPHAS) * shares.size)
    together = together.reshape(len(ALPHAS), *shares.shape)
    for name, size in (
        ("AssA", either - together),
        ("AssRe", seen_true),
        ("AssPr", seen_predicted),
    ):
        products = together * (together / np.maximum(1, size))
        sums = products.reshape(len(ALPHAS), -1).sum(axis=1)
        result[name] = sums / np.maximum(1, result["TP"])
    result["LocA"] = np.maximum(1e-10, result["LocA"]) / np.maximum(1e-10, result["TP"])
    return _rates(result)


def _best(
    scene: Scene, value: Float[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " _"], Bool[np.ndarray, " t"]]:
    """Place in k of the best partner of each object in each frame, in this order.

    And which frames are contested: a track has a value for two objects there, or two
    tracks are as good for one. In the others these pairs are the one best assignment,
    which need not be searched for.
    """
    some = np.flatnonzero(value > 0)
    contested = np.zeros(len(scene.true), bool)
    if not some.size:
        return some, contested
    t, n, value = scene.t[some], scene.n[some], value[some]
    met = np.bincount(t * scene.predicted.shape[1] + scene.m[some])
    contested[np.flatnonzero(met > 1) // scene.predicted.shape[1]] = True
    begin = np.flatnonzero(np.diff(t * scene.true.shape[1] + n, prepend=-1))
    most = np.maximum.reduceat(value, begin)
    near = value >= np.repeat(most, np.diff(begin, append=len(t))) - TIE
    contested[t[begin[np.add.reduceat(near, begin, dtype=int) > 1]]] = True
    first = np.flatnonzero(near)
    return some[first[np.searchsorted(first, begin)]], contested


def _sums(at: np.ndarray, values: np.ndarray, number: int) -> Float[np.ndarray, " _"]:
    """Sums of the values at each of so many places, one by one in their order."""
    return np.bincount(at, values, number).astype(float)  # whole numbers, of nothing


def combine_hota(videos: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The same over several videos: counts are added, means weighted by matches."""
    zero = np.zeros(len(ALPHAS))
    result = {k: sum((v[k] for v in videos), zero) for k in ("TP", "FN", "FP")}
    for name in ("AssRe", "AssPr", "AssA"):
        weighted = sum((v[name] * v["TP"] for v in videos), zero)
        result[name] = weighted / np.maximum(1.0, result["TP"])
    weighted = sum((v["LocA"] * v["TP"] for v in videos), zero)
    result["LocA"] = np.maximum(1e-10, weighted) / np.maximum(1e-10, result["TP"])
    return _rates(result)


def _rates(result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    tp, fn, fp = result["TP"], result["FN"], result["FP"]
    result["DetRe"] = tp / np.maximum(1, tp + fn)
    result["DetPr"] = tp / np.maximum(1, tp + fp)
    result["DetA"] = tp / np.maximum(1, tp + fn + fp)
    result["HOTA"] = np.sqrt(result["DetA"] * result["AssA"])
    result["OWTA"] = np.sqrt(result["DetRe"] * result["AssA"])
    return result


def clear(scene: Scene) -> dict[str, Any]:
    """Counts of one video, by TrackEval's names."""
    masks = scene.masks_true, scene.masks_predicted
    counts = one_sided(*masks).clear
    if not all(masks):
        return counts
    n, m, overlap = (x.tolist() for x in (scene.n, scene.m, scene.overlap))
    near = scene.overlap >= THRESHOLD - SLACK
    best, contested = _best(scene, np.where(near, scene.overlap, 0))
    in_frame = defaultdict(list)
    for t, k in zip(scene.t[best].tolist(), best.tolist(), strict=True):
        in_frame[t].append(k)
    pairs = np.flatnonzero(near).tolist()
    place = {
        (t, n[k], m[k]): k for t, k in zip(scene.t[pairs].tolist(), pairs, strict=True)
    }
    parts = {t: (part, shape) for t, part, shape in scene.frames(contested)}
    # The track that each object had at last, and in the frame before.
    last: dict[int, int] = {}
    before: dict[int, int] = {}
    begun: Counter = Counter()
    for t in np.flatnonzero(scene.true.any(1) & scene.predicted.any(1)).tolist():
        if t in parts:
            at = _kept(scene, near, before, *parts[t])
        else:
            at = [place.get((t, n[k], before.get(n[k])), k) for k in in_frame[t]]
        here = {n[k]: m[k] for k in at}
        counts["IDSW"] += sum(last.get(i, track) != track for i, track in here.items())
        begun.update(here.keys() - before.keys())
        last |= here
        before = here
        counts["CLR_TP"] += len(at)
        # One by one: `sum` rounds once for all, from 3.12 on.
        counts["MOTP_sum"] += reduce(add, [overlap[k] for k in at], 0.0)
    counts["CLR_FN"] -= counts["CLR_TP"]
    counts["CLR_FP"] -= counts["CLR_TP"]
    counts["Frag"] = begun.total() - len(begun)
    return counts


def _kept(
    scene: Scene,
    near: Bool[np.ndarray, " k"],
    before: Mapping[int, int],
    part: slice,
    shape: tuple[int, int],
) -> list[int]:
    """Places in k of the best assignment of a frame, which keeps tracks if it can."""
    had = np.full(scene.true.shape[1], -1)  # no track
    had[[*before]] = [*before.values()]
    same = scene.m[part] == had[scene.n[part]]
    score = (SAME_TRACK * same + scene.overlap[part]) * near[part]
    rows, columns = linear_sum_assignment(score.reshape(shape), maximize=True)
    at = rows * shape[1] + columns
    return (part.start + at[score[at] > SLACK]).tolist()


def identity(scene: Scene) -> dict[str, int]:
    """Frames of one video that the best pairing of whole tracks gets right or wrong."""
    if not scene.masks_true or not scene.masks_predicted:
        return one_sided(scene.masks_true, scene.masks_predicted).identity
    both = scene.table(scene.overlap >= THRESHOLD)
    seen_true, seen_predicted = scene.true.sum(0), scene.predicted.sum(0)
    n, m = both.shape
    # A track may stay alone: beside the real ones each has a partner of its own.
    missed, wrong = np.zeros((2, n + m, n + m))
    missed[:n, m:] = wrong[n:, :m] = 1e10
    missed[:n, :m] = seen_true[:, None] - both
    wrong[:n, :m] = seen_predicted[None] - both
    missed[np.arange(n), m + np.arange(n)] = seen_true
    wrong[n + np.arange(m), np.arange(m)] = seen_predicted
    rows, columns = linear_sum_assignment(missed + wrong)
    lost = int(missed[rows, columns].sum())
    return dict(
        IDTP=int(seen_true.sum()) - lost,
        IDFN=lost,
        IDFP=int(wrong[rows, columns].sum()),
    )
