"""What is the official score of a results file against an annotation file?

Same numbers as youtubevos/cocoapi (ytvos.py, ytvoseval.py), to the last digit. Where
that code stops with a traceback or never returns, there is one InputError instead.
"""

import contextlib
import copy
import multiprocessing
from collections import Counter
from collections.abc import (
    Callable,
    Container,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from stan_jax import json_stream
from stan_jax.errors import InputError
from stan_jax.evaluation import run_lengths
from stan_jax.evaluation.shelf import Shelf
from stan_jax.evaluation.video_ap import (
    FoundTrack,
    TrueTrack,
    VideoAp,
    match,
    mean_area,
)

ID = (Real, str)
FIELDS: dict[str, dict] = {
    "videos": {"id": ID},
    "categories": {"id": ID},
    "annotations": {"id": Real, "video_id": ID, "category_id": ID},
}
CHUNK = 8  # videos that a worker takes at a time


class Tracks(Mapping):
    """The tracks of each video, read when they are asked for, not kept in memory.

    read: makes them of the records of one video.
    """

    def __init__(self, read: Callable[[list], list]):
        self._read, self._shelf = read, Shelf()
        self._rows: dict[Any, list[tuple[Any, int]]] = {}
        self.counts: Counter = Counter()  # tracks by category

    def add(self, video_id, category_id, name, record: dict) -> None:
        """Store a record; `name` stands beside it when it is read."""
        self.put(video_id, category_id, name, self._shelf.add(record))

    def put(self, video_id, category_id, name, place: int) -> None:
        """Likewise, of a record that lies on the shelf."""
        self._rows.setdefault(video_id, []).append((name, place))
        self.counts[category_id] += 1

    def close(self) -> None:
        """Let other processes read what was added."""
        self._shelf.close()

    def filled(self, other: Mapping) -> "Tracks":
        """What another process added to a copy of this, with the shelf of this one."""
        assert isinstance(other, Tracks)
        self._rows, self.counts = other._rows, other.counts
        return self

    def only(self, video_ids: Sequence) -> "Tracks":
        """Some of the videos, on the same shelf."""
        part = copy.copy(self)
        part._rows = {i: self._rows[i] for i in video_ids if i in self._rows}
        return part

    def __getitem__(self, video_id) -> list:
        rows = self._rows[video_id]
        return self._read([(name, self._shelf.get(place)) for name, place in rows])

    def __iter__(self) -> Iterator:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class Truth(NamedTuple):
    """An annotation file: videos by id, categories, and by video the tracks in it."""

    videos: dict
    categories: list[dict]
    tracks: Mapping  # video id -> list[TrueTrack]


def evaluate_files(
    instances_path: str | Path,
    results_path: str | Path,
    class_agnostic: bool = False,
    workers: int = 1,
) -> dict:
    """The twelve statistics by name; -1 where there is nothing to find.

    Also the curves `precision`, `recall`, `scores` of `VideoAp.finish`.
    class_agnostic: all listed categories count as one.
    workers: processes; with more than one they are started afresh.
    Memory holds one video and 88 bytes a found track; the files, checked, lie on disk
    meanwhile (in TMPDIR).
    Raises: InputError for a file that the official code would fail on.
    """
    with pool(workers) as executor:
        truth, found = read_both(instances_path, results_path, executor)
        return evaluate(truth, found, class_agnostic, executor)


def evaluate(
    truth: Truth,
    found: Mapping,
    class_agnostic: bool = False,
    executor: Executor | None = None,
) -> dict:
    """Likewise, of files that were read."""
    score = VideoAp([c["id"] for c in truth.categories], class_agnostic)
    work = partial(_matched, score.groups)
    for video_id, matched in each_video(work, truth, found, executor):
        score.add_matched(video_id, matched)
    return score.finish()


def _matched(groups, video: dict, truth: list, found: list) -> dict:
    return match(groups, truth, found)


@contextlib.contextmanager
def pool(workers: int) -> Generator[Executor | None]:
    """Processes for `evaluate`; None for one worker, which is this process."""
    if workers < 2:
        yield None
        return
    # Not forked: the caller may run threads, as JAX does.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def read_both(
    instances_path: str | Path,
    results_path: str | Path,
    executor: Executor | None = None,
    *,
    may_be_empty: bool = False,
) -> tuple[Truth, Tracks]:
    """`true_tracks` and `found_tracks`, with an executor at the same time."""
    if executor is None:
        truth = true_tracks(instances_path)
        found = found_tracks(results_path, truth.videos, may_be_empty=may_be_empty)
        return truth, found
    tracks = Tracks(partial(_read_true, instances_path))
    future = executor.submit(true_tracks, instances_path, tracks)
    try:
        found = found_tracks(results_path, None, may_be_empty=may_be_empty)
    except InputError:
        future.result()  # what is wrong with the annotations is said first
        raise
    there = future.result()
    truth = there._replace(tracks=tracks.filled(there.tracks))
    _check_videos(results_path, found, truth.videos)
    return truth, found


def each_video(
    work: Callable[[dict, list, list], Any],
    truth: Truth,
    found: Mapping,
    executor: Executor | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Video id and what `work(video, true tracks, found tracks)` gives for it.

    executor: shares the videos among processes; `work` must be known to them.
    """
    ids = list(truth.videos)
    if executor is None:
        for video_id in ids:
            yield video_id, _one_video(work, truth, found, video_id)
        return
    chunks = [ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK)]
    jobs = []
    for chunk in chunks:
        part = Truth(
            {i: truth.videos[i] for i in chunk}, [], _only(truth.tracks, chunk)
        )
        jobs.append(executor.submit(_chunk, work, part, _only(found, chunk)))
    for chunk, job in zip(chunks, jobs, strict=True):
        yield from zip(chunk, job.result(), strict=True)


def _only(tracks: Mapping, video_ids: list) -> Mapping:
    return tracks.only(video_ids) if isinstance(tracks, Tracks) else tracks


def _chunk(work, truth: Truth, found: Mapping) -> list:
    return [_one_video(work, truth, found, video_id) for video_id in truth.videos]


def _one_video(work, truth: Truth, found: Mapping, video_id):
    true, seen = truth.tracks.get(video_id, []), found.get(video_id, [])
    return work(truth.videos[video_id], true, seen)


def table(stats: dict) -> str:
    """The twelve lines that the official evaluator prints."""
    scores = {"AP": "Average Precision  (AP)", "AR": "Average Recall     (AR)"}
    lines = []
    for name, value in stats.items():
        if name[:2] in scores:
            rest = name[2:].removeprefix("_")
            limit = rest if name[:2] == "AR" and rest.isdigit() else "100"
            iou = f"0.{rest}" if name[:2] == "AP" and rest.isdigit() else "0.50:0.95"
            area = rest if rest.isalpha() else "all"
            lines.append(
                f" {scores[name[:2]]} @[ IoU={iou:<9} | area={area:>6} "
                f"| maxDets={limit:>3} ] = {value:.3f}"
            )
    return "\n".join(lines)


def true_tracks(path: str | Path, tracks: Tracks | None = None) -> Truth:
    """What there is to find.

    tracks: where to put them; made here if not given.
    Raises: InputError as `evaluate_files`; for masks, when they are asked for.
    """
    tracks = Tracks(partial(_read_true, path)) if tracks is None else tracks
    content: dict[str, list] = {"annotations": []}  # absent from val and test files
    shelf = tracks._shelf
    for key, i, value in json_stream.members(path, _packed):
        if key not in FIELDS:
            continue
        if i == json_stream.START:
            content[key] = []
        elif i is None:
            raise InputError(path, key, f"must be a list, not {value!r:.40}")
        else:
            _check(path, f"{key}[{i}]", value, **FIELDS[key])
            if key == "annotations":
                place = shelf.add(value)
                value = {name: value[name] for name in FIELDS[key]} | {"place": place}
            content[key].append(value)
    videos, categories, annotations = (_records(path, content, key) for key in FIELDS)
    by_id = {video["id"]: video for video in videos}
    category_ids = {category["id"] for category in categories}

    def takes_part(annotation: dict) -> bool:
        listed = annotation["category_id"] in category_ids
        return listed and annotation["video_id"] in by_id

    # An official quirk: of annotations with one id the last stands in for all of them.
    last = {annotation["id"]: annotation for annotation in annotations}
    known = filter(takes_part, annotations)
    for annotation in sorted(known, key=lambda annotation: annotation["video_id"]):
        annotation = last[annotation["id"]]
        if takes_part(annotation):
            video = by_id[annotation["video_id"]]
            size = {k: video[k] for k in ("id", "height", "width") if k in video}
            tracks.put(
                video["id"], annotation["category_id"], size, annotation["place"]
            )
    tracks.close()
    return Truth(by_id, categories, tracks)


def _read_true(path, rows: list[tuple[Any, dict]]) -> list[TrueTrack]:
    known, found = {}, []
    for video, row in rows:
        if row["id"] not in known:
            known[row["id"]] = _true_track(path, row, video)
        found.append(known[row["id"]])
    return found


def _true_track(path, annotation: dict, video: dict) -> TrueTrack:
    record = f"annotation {annotation['id']}"
    _check(path, record, annotation, segmentations=list, areas=list, iscrowd=Real)
    for area in annotation["areas"]:
        if not isinstance(area, Real | None):
            raise InputError(path, record, f"areas cannot hold {area!r:.40}")
    if any(annotation["segmentations"]):
        _check(path, f"video {video['id']}", video, height=int, width=int)
    rles = [
        _compressed(path, f"{record}, frame {t}", segmentation, video)
        for t, segmentation in enumerate(annotation["segmentations"])
    ]
    return TrueTrack(
        annotation["id"],
        annotation["category_id"],
        bool(annotation["iscrowd"]),
        mean_area(annotation["areas"]),  # the list of the file, never the masks
        run_lengths.read(rles, path, record),
    )


def found_tracks(
    path: str | Path, videos: Container | None, *, may_be_empty: bool = False
) -> Tracks:
    """The results of each video in the order of the file.

    videos: the known ids; None: not looked at.
    Raises: InputError as `evaluate_files`; for masks, when they are asked for.
    """
    found = Tracks(partial(_read_found, path))
    for i, row in enumerate(json_stream.rows(path)):
        name = f"results[{i}]"
        _check(path, name, row, video_id=ID, category_id=ID, score=Real)
        _check(path, name, row, segmentations=list)
        if videos is not None and row["video_id"] not in videos:
            raise _unknown(path, i, row["video_id"])
        found.add(row["video_id"], row["category_id"], i, row)
    if not found and not may_be_empty:
        raise InputError(path, "", "must hold at least one result, as officially")
    found.close()
    return found


def _read_found(path, rows: list[tuple[int, dict]]) -> list[FoundTrack]:
    return [
        FoundTrack(
            float(row["score"]),
            row["category_id"],
            run_lengths.read(row["segmentations"], path, f"results[{i}]"),
            i,
        )
        for i, row in rows
    ]


def _check_videos(path, found: Tracks, videos: Container) -> None:
    unknown = [(rows[0][0], i) for i, rows in found._rows.items() if i not in videos]
    if unknown:
        raise _unknown(path, *min(unknown, key=lambda pair: pair[0]))


def _unknown(path, number: int, video_id) -> InputError:
    rule = f"video_id {video_id!r} is not in the annotation file"
    return InputError(path, f"results[{number}]", rule)


def _compressed(path, record: str, segmentation, video: dict):
    """Run lengths of what an annotation may hold: polygons, or run lengths already."""
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
        rule = "needs a size and run lengths from 0 up"  # `_packed` found otherwise
        raise InputError(path, record, f"{rule}, not {segmentation!r:.60}")
    if not segmentation or not isinstance(segmentation, list):
        return segmentation
    polygons = []
    for points in segmentation:
        try:
            polygons.append(np.asarray_chkfinite(points, np.float64))
        except (TypeError, ValueError) as error:
            rule = f"a polygon must hold finite numbers, not {points!r:.60}"
            raise InputError(path, record, rule) from error
        if polygons[-1].ndim != 1 or polygons[-1].size < 6:
            rule = "a polygon must hold at least 3 points as x y x y ..., not"
            raise InputError(path, record, f"{rule} {points!r:.60}")
    rles = coco_mask.frPyObjects(
        [points.tolist() for points in polygons], video["height"], video["width"]
    )
    return coco_mask.merge(rles)


def _packed(value: dict) -> dict:
    # While the file is read: lists of counts are nine tenths of its memory. What
    # cannot be packed is refused later, and only if it takes part.
    if isinstance(value.get("counts"), list) and "size" in value:
        with contextlib.suppress(TypeError, ValueError, IndexError, OverflowError):
            return coco_mask.frPyObjects(value, 0, 0)
    return value


def _records(path, content: dict, name: str) -> list[dict]:
    if name not in content:
        raise InputError(path, name, "must be a list, not None")
    records = content[name]
    if len({isinstance(record["id"], str) for record in records}) > 1:
        raise InputError(path, name, "ids must be all numbers or all text")
    return records


def _check(path, name: str, record, **fields) -> None:
    if not isinstance(record, dict):
        raise InputError(path, name, f"must be an object, not {record!r:.40}")
    for field, kind in fields.items():
        if field not in record:
            raise InputError(path, name, f"{field} is missing")
        if not isinstance(record[field], kind):
            raise InputError(path, name, f"{field} cannot be {record[field]!r:.40}")
