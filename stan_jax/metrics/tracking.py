"""How well do found tracks keep to their objects: HOTA, MOTA, IDF1.

Every found track counts, whatever its score. Same numbers as TrackEval, to the last
digit. Source: Luiten et al. 2021; Bernardin and Stiefelhagen 2008; Ristani et al. 2016.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from stan_jax.errors import InputError
from stan_jax.evaluation import files, track_map, videos
from stan_jax.evaluation.files import Truth
from stan_jax.evaluation.track_map import TrackMap
from stan_jax.evaluation.video_ap import FoundTrack, TrueTrack
from stan_jax.masks.run_lengths import Masks

ALPHAS = np.arange(0.05, 0.99, 0.05)  # overlaps that HOTA is a mean over
THRESHOLD = 0.5  # overlap of a match in CLEAR and identity
SLACK = np.finfo(float).eps
SAME_TRACK = 1000  # CLEAR prefers the track that the object had one frame before
MEANS = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA", "OWTA")


class Frame(NamedTuple):
    """One frame: who is there, and how much each pair overlaps."""

    true: Int[np.ndarray, " _"]  # numbers of tracks within the video
    found: Int[np.ndarray, " _"]
    overlap: Float[np.ndarray, "_ _"]  # IoU of the masks


class Scene(NamedTuple):
    """One video; tracks are numbered in the order of their ids."""

    frames: list[Frame]
    num_true: int
    num_found: int

    @property
    def masks_true(self) -> int:
        """How many masks of objects there are."""
        return sum(len(frame.true) for frame in self.frames)

    @property
    def masks_found(self) -> int:
        """How many masks of found tracks there are."""
        return sum(len(frame.found) for frame in self.frames)


def evaluate_files(
    instances_path: str | Path, results_path: str | Path, workers: int = 1
) -> dict:
    """The summary over all videos, every category taken for one.

    HOTA and its parts are means over ALPHAS. workers: processes that share the videos.
    Raises: InputError as `youtube_vis_ap.evaluate_files`; a results file without
    results is fine here.
    """
    with videos.crew(workers) as crew:
        truth = files.true_tracks(instances_path)
        work = partial(count, instances_path=instances_path, results_path=results_path)
        counts = crew.run(work, truth, results_path, may_be_empty=True).parts
    total = Total()
    for video in in_order(truth, counts, instances_path):
        total.add(video)
    return total.summary()


def in_order(truth: Truth, counts: Mapping, instances_path: str | Path) -> list:
    """What `count` gave for each video, in the order of TrackEval, which is by folder.

    Sums of floats depend on it.
    """
    ids = sorted(truth.videos, key=lambda i: _folder(instances_path, truth.videos[i]))
    return [counts[video_id] for video_id in ids]


class Counts(NamedTuple):
    """What one video adds to the summary."""

    hota: dict[str, np.ndarray]
    clear: dict[str, Any]
    identity: dict[str, int]
    track_map: TrackMap


def count(
    video: dict[str, Any],
    true: Sequence[TrueTrack],
    found: Sequence[FoundTrack],
    instances_path: str | Path = "instances",
    results_path: str | Path = "results",
) -> Counts:
    """One video; the paths are for errors."""
    _folder(instances_path, video)
    length = len(video["file_names"])
    # One object per id, as in the rest of the evaluation.
    objects = {track.id: track for track in true}
    here = scene(
        {i: track.masks for i, track in objects.items()},
        [track.masks for track in found],
        length,
        results_path,
        f"video {video['id']}",
    )
    return Counts(
        hota(here), clear(here), identity(here), track_map.match(objects, found)
    )


class Total:
    """Takes in videos one by one; keeps their counts, no masks."""

    def __init__(self) -> None:
        self._videos: list[Counts] = []

    def add(self, counts: Counts) -> None:
        """Nothing; the counts of one video are added."""
        self._videos.append(counts)

    def summary(self) -> dict[str, Any]:
        """The numbers over all videos by name."""
        c: Counter = Counter()
        for video in self._videos:
            c.update(video.clear)
            c.update(video.identity)
        parts = combine_hota([video.hota for video in self._videos])
        true = max(1, c["CLR_TP"] + c["CLR_FN"])
        return {name: float(np.mean(parts[name])) for name in MEANS} | {
            "MOTA": (c["CLR_TP"] - c["CLR_FP"] - c["IDSW"]) / true,
            "MOTP": float(c["MOTP_sum"] / max(1, c["CLR_TP"])),
            "IDSW": int(c["IDSW"]),
            "Frag": int(c["Frag"]),
            "IDF1": c["IDTP"] / max(1, c["IDTP"] + 0.5 * c["IDFP"] + 0.5 * c["IDFN"]),
            "IDR": c["IDTP"] / max(1, c["IDTP"] + c["IDFN"]),
            "IDP": c["IDTP"] / max(1, c["IDTP"] + c["IDFP"]),
            "TrackMAP_AP": track_map.ap([video.track_map for video in self._videos]),
        }


def _folder(path: str | Path, video: dict[str, Any]) -> str:
    names = video.get("file_names")
    if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
        raise InputError(path, f"video {video['id']}", "needs a list of file_names")
    return names[0].split("/")[0] if names else ""


def scene(
    true: Mapping[Any, Masks],
    found: Sequence[Masks],
    length: int,
    file: str | Path = "results",
    record: str = "",
) -> Scene:
    """Who is in each frame of a video, and how much each pair overlaps.

    true: the masks of the objects by id.
    Raises: InputError, named by `file` and `record`, where two masks of a frame differ
    in size.
    """
    # Tracks that no frame shows have no number; the others in the order of their ids.
    objects = {i: track for i, track in true.items() if any(track.texts[:length])}
    number = {i: n for n, i in enumerate(sorted(objects))}
    tracks = [track for track in found if any(track.texts[:length])]
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
    return Scene(frames, len(objects), len(tracks))


def hota(scene: Scene) -> dict[str, np.ndarray]:
    """Counts and association of one video, each over ALPHAS."""
    result = {k: np.zeros(len(ALPHAS)) for k in ("TP", "FN", "FP", *MEANS)}
    if not scene.masks_true or not scene.masks_found:
        result["FN"] += scene.masks_true
        result["FP"] += scene.masks_found
        result["LocA"] += 1.0
        return result
    # First pass: how well two tracks fit over the whole video.
    alignment = np.zeros((scene.num_true, scene.num_found))
    seen_true, seen_found = (
        np.zeros((scene.num_true, 1)),
        np.zeros((1, scene.num_found)),
    )
    for true, found, overlap in scene.frames:
        rest = overlap.sum(0)[None] + overlap.sum(1)[:, None] - overlap
        share = np.zeros_like(overlap)
        np.divide(overlap, rest, out=share, where=rest > SLACK)
        alignment[true[:, None], found[None]] += share
        seen_true[true] += 1
        seen_found[0, found] += 1
    alignment = alignment / (seen_true + seen_found - alignment)
    # Second pass: one assignment for each frame, then the thresholds.
    together = np.zeros((len(ALPHAS), *alignment.shape))
    for true, found, overlap in scene.frames:
        rows, columns = linear_sum_assignment(
            -(alignment[true[:, None], found[None]] * overlap)
        )
        matched = overlap[rows, columns]
        for a, alpha in enumerate(ALPHAS):
            right = matched >= alpha - SLACK
            number = int(right.sum())
            result["TP"][a] += number
            result["FN"][a] += len(true) - number
            result["FP"][a] += len(found) - number
            # In their order, one by one: NumPy's sum rounds otherwise.
            result["LocA"][a] += sum(matched[right])
            together[a][true[rows[right]], found[columns[right]]] += 1
    for a, count in enumerate(together):
        for name, size in (
            ("AssA", seen_true + seen_found - count),
            ("AssRe", seen_true),
            ("AssPr", seen_found),
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
    counts: dict[str, Any] = dict(
        CLR_TP=0, CLR_FN=0, CLR_FP=0, IDSW=0, Frag=0, MOTP_sum=0.0
    )
    if not scene.masks_true or not scene.masks_found:
        return counts | dict(CLR_FN=scene.masks_true, CLR_FP=scene.masks_found)
    last, before = (np.full(scene.num_true, -1) for _ in range(2))  # -1: no track yet
    begun = np.zeros(scene.num_true, int)
    for true, found, overlap in scene.frames:
        if not len(true) or not len(found):
            counts["CLR_FN"] += len(true)
            counts["CLR_FP"] += len(found)
            continue
        score = SAME_TRACK * (found[None] == before[true][:, None]) + overlap
        score[overlap < THRESHOLD - SLACK] = 0
        rows, columns = linear_sum_assignment(-score)
        right = score[rows, columns] > SLACK
        rows, columns = rows[right], columns[right]
        objects, tracks = true[rows], found[columns]
        old = last[objects]
        counts["IDSW"] += int(((old >= 0) & (old != tracks)).sum())
        gone = before < 0
        last[objects] = tracks
        before[:] = -1
        before[objects] = tracks
        begun += gone & (before >= 0)
        counts["CLR_TP"] += len(rows)
        counts["CLR_FN"] += len(true) - len(rows)
        counts["CLR_FP"] += len(found) - len(rows)
        counts["MOTP_sum"] += float(sum(overlap[rows, columns]))
    counts["Frag"] = int((begun[begun > 0] - 1).sum())
    return counts


def identity(scene: Scene) -> dict[str, int]:
    """Frames of one video that the best pairing of whole tracks gets right or wrong."""
    if not scene.masks_true or not scene.masks_found:
        return dict(IDTP=0, IDFN=scene.masks_true, IDFP=scene.masks_found)
    n, m = scene.num_true, scene.num_found
    both, seen_true, seen_found = np.zeros((n, m)), np.zeros(n), np.zeros(m)
    for true, found, overlap in scene.frames:
        i, j = np.nonzero(overlap >= THRESHOLD)
        both[true[i], found[j]] += 1
        seen_true[true] += 1
        seen_found[found] += 1
    # A track may stay alone: beside the real ones each has a partner of its own.
    missed, wrong = np.zeros((2, n + m, n + m))
    missed[:n, m:] = wrong[n:, :m] = 1e10
    missed[:n, :m] = seen_true[:, None] - both
    wrong[:n, :m] = seen_found[None] - both
    missed[np.arange(n), m + np.arange(n)] = seen_true
    wrong[n + np.arange(m), np.arange(m)] = seen_found
    rows, columns = linear_sum_assignment(missed + wrong)
    lost = int(missed[rows, columns].sum())
    return dict(
        IDTP=int(seen_true.sum()) - lost,
        IDFN=lost,
        IDFP=int(wrong[rows, columns].sum()),
    )
