"""Tracking metrics, of how predicted tracks keep to their objects: HOTA, MOTA, IDF1.

Every predicted track counts, whatever its score. Same numbers as TrackEval, to the last
digit. Source: Luiten et al. 2021; Bernardin and Stiefelhagen 2008; Ristani et al. 2016.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from stan_jax.errors import InputError
from stan_jax.masks.run_lengths import Masks
from stan_jax.metrics import track_map
from stan_jax.metrics.track_map import TrackMap
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack

ALPHAS = np.arange(0.05, 0.99, 0.05)  # overlaps that HOTA is a mean over
THRESHOLD = 0.5  # overlap of a match in CLEAR and identity
SLACK = np.finfo(float).eps
SAME_TRACK = 1000  # CLEAR prefers the track that the object had one frame before
MEANS = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA", "OWTA")


class Frame(NamedTuple):
    """One frame: who is there, and how much each pair overlaps."""

    true: Int[np.ndarray, " _"]  # numbers of tracks within the video
    predicted: Int[np.ndarray, " _"]
    overlap: Float[np.ndarray, "_ _"]  # IoU of the masks


class Scene(NamedTuple):
    """One video; tracks are numbered in the order of their ids."""

    frames: list[Frame]
    objects: list  # the id of each
    tracks: list[int]  # the number of each among those that were given

    @property
    def num_true(self) -> int:
        """Number of objects that some frame shows."""
        return len(self.objects)

    @property
    def num_predicted(self) -> int:
        """Number of predicted tracks that some frame shows."""
        return len(self.tracks)

    @property
    def masks_true(self) -> int:
        """Number of masks of objects."""
        return sum(len(frame.true) for frame in self.frames)

    @property
    def masks_predicted(self) -> int:
        """Number of masks of predicted tracks."""
        return sum(len(frame.predicted) for frame in self.frames)


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
) -> Counts:
    """One video; the paths are for errors.

    by_category: also count each category alone; its tracks meet only each other.
    """
    folder_of(instances_path, video)
    length = len(video["file_names"])
    # One object per id, as in the rest of the evaluation.
    objects = {track.id: track for track in true}
    here = scene(
        {i: track.masks for i, track in objects.items()},
        [track.masks for track in predicted],
        length,
        results_path,
        f"video {video['id']}",
    )
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
    return Counts(held(here), track_map.match(objects, predicted), parts)


def _masks_of(here: Scene, side: int, kinds: Sequence) -> Counter:
    """Return how many masks each category has, of the objects or of the tracks."""
    numbers = [n for frame in here.frames for n in frame[side].tolist()]
    return Counter(kinds[n] for n in numbers)


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
    numbers = np.cumsum(true) - 1, np.cumsum(predicted) - 1
    frames = []
    for frame in here.frames:
        rows, columns = true[frame.true], predicted[frame.predicted]
        frames.append(
            Frame(
                numbers[0][frame.true[rows]],
                numbers[1][frame.predicted[columns]],
                frame.overlap[rows][:, columns],
            )
        )
    return Scene(
        frames,
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
    length: int,
    file: str | Path = "results",
    record: str = "",
) -> Scene:
    """Return who is in each frame of a video, and the overlap of each pair.

    true: the masks of the objects by id.
    Raises: InputError, named by `file` and `record`, where two masks of a frame differ
    in size.
    """
    # Tracks that no frame shows have no number; the others in the order of their ids.
    objects = {i: track for i, track in true.items() if any(track.texts[:length])}
    number = {i: n for n, i in enumerate(sorted(objects))}
    shown = [n for n, track in enumerate(predicted) if any(track.texts[:length])]
    tracks = [predicted[n] for n in shown]
    frames = []
    for t in range(length):
        here = {i: rle for i, track in objects.items() if (rle := track.rle(t))}
        seen = {n: rle for n, track in enumerate(tracks) if (rle := track.rle(t))}
        rles = list(here.values()), list(seen.values())
        sizes = {tuple(rle["size"]) for side in rles for rle in side}
        if len(sizes) > 1 and all(rles):
            rule = f"masks of one frame must have one size, have {sorted(sizes)}"
            raise InputError(file, f"{record}, frame {t}".removeprefix(", "), rule)
        overlap = np.zeros((len(here), len(seen)))
        if overlap.size:
            overlap = np.asarray(coco_mask.iou(*rles, [False] * len(seen)))
        numbers = np.array([number[i] for i in here], int), np.array(list(seen), int)
        frames.append(Frame(*numbers, overlap))
    return Scene(frames, list(number), shown)


def hota(scene: Scene) -> dict[str, np.ndarray]:
    """Counts and association of one video, each over ALPHAS."""
    if not scene.masks_true or not scene.masks_predicted:
        return one_sided(scene.masks_true, scene.masks_predicted).hota
    result = {k: np.zeros(len(ALPHAS)) for k in ("TP", "FN", "FP", *MEANS)}
    # First pass: how well two tracks fit over the whole video.
    alignment = np.zeros((scene.num_true, scene.num_predicted))
    seen_true, seen_predicted = (
        np.zeros((scene.num_true, 1)),
        np.zeros((1, scene.num_predicted)),
    )
    for true, predicted, overlap in scene.frames:
        rest = overlap.sum(0)[None] + overlap.sum(1)[:, None] - overlap
        share = np.zeros_like(overlap)
        np.divide(overlap, rest, out=share, where=rest > SLACK)
        alignment[true[:, None], predicted[None]] += share
        seen_true[true] += 1
        seen_predicted[0, predicted] += 1
    alignment = alignment / (seen_true + seen_predicted - alignment)
    # Second pass: one assignment for each frame, then the thresholds.
    together = np.zeros((len(ALPHAS), *alignment.shape))
    for true, predicted, overlap in scene.frames:
        rows, columns = linear_sum_assignment(
            -(alignment[true[:, None], predicted[None]] * overlap)
        )
        matched = overlap[rows, columns]
        right = matched >= ALPHAS[:, None] - SLACK  # [19 n]
        number = right.sum(1)
        result["TP"] += number
        result["FN"] += len(true) - number
        result["FP"] += len(predicted) - number
        if len(matched):
            # In their order, one by one: NumPy's sum rounds otherwise.
            result["LocA"] += np.cumsum(np.where(right, matched, 0.0), axis=1)[:, -1]
        together[:, true[rows], predicted[columns]] += right
    for a, count in enumerate(together):
        for name, size in (
            ("AssA", seen_true + seen_predicted - count),
            ("AssRe", seen_true),
            ("AssPr", seen_predicted),
        ):
            share = count / np.maximum(1, size)
            result[name][a] = np.sum(count * share) / np.maximum(1, result["TP"][a])
    result["LocA"] = np.maximum(1e-10, result["LocA"]) / np.maximum(1e-10, result["TP"])
    return _rates(result)


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
    if not scene.masks_true or not scene.masks_predicted:
        return one_sided(scene.masks_true, scene.masks_predicted).clear
    counts = one_sided(0, 0).clear
    last, before = (np.full(scene.num_true, -1) for _ in range(2))  # -1: no track yet
    begun = np.zeros(scene.num_true, int)
    for true, predicted, overlap in scene.frames:
        if not len(true) or not len(predicted):
            counts["CLR_FN"] += len(true)
            counts["CLR_FP"] += len(predicted)
            continue
        score = SAME_TRACK * (predicted[None] == before[true][:, None]) + overlap
        score[overlap < THRESHOLD - SLACK] = 0
        rows, columns = linear_sum_assignment(-score)
        right = score[rows, columns] > SLACK
        rows, columns = rows[right], columns[right]
        objects, tracks = true[rows], predicted[columns]
        old = last[objects]
        counts["IDSW"] += int(((old >= 0) & (old != tracks)).sum())
        gone = before < 0
        last[objects] = tracks
        before[:] = -1
        before[objects] = tracks
        begun += gone & (before >= 0)
        counts["CLR_TP"] += len(rows)
        counts["CLR_FN"] += len(true) - len(rows)
        counts["CLR_FP"] += len(predicted) - len(rows)
        counts["MOTP_sum"] += float(sum(overlap[rows, columns]))
    counts["Frag"] = int((begun[begun > 0] - 1).sum())
    return counts


def identity(scene: Scene) -> dict[str, int]:
    """Frames of one video that the best pairing of whole tracks gets right or wrong."""
    if not scene.masks_true or not scene.masks_predicted:
        return one_sided(scene.masks_true, scene.masks_predicted).identity
    n, m = scene.num_true, scene.num_predicted
    both, seen_true, seen_predicted = np.zeros((n, m)), np.zeros(n), np.zeros(m)
    for true, predicted, overlap in scene.frames:
        i, j = np.nonzero(overlap >= THRESHOLD)
        both[true[i], predicted[j]] += 1
        seen_true[true] += 1
        seen_predicted[predicted] += 1
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
