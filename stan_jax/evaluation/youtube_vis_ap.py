"""What is the official score of a results file against an annotation file?

Same numbers as youtubevos/cocoapi (ytvos.py, ytvoseval.py), to the last digit. Where
that code stops with a traceback or never returns, there is one InputError instead.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Container
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from stan_jax.errors import InputError
from stan_jax.evaluation import results, run_lengths
from stan_jax.evaluation.video_ap import FoundTrack, TrueTrack, VideoAp, mean_area

ID = (Real, str)


class Truth(NamedTuple):
    """An annotation file: videos by id, categories, and by video the tracks in it."""

    videos: dict
    categories: list[dict]
    tracks: dict[Any, list[TrueTrack]]


def evaluate_files(
    instances_path: str | Path, results_path: str | Path, class_agnostic: bool = False
) -> dict:
    """The twelve statistics by name; -1 where there is nothing to find.

    Also the curves `precision`, `recall`, `scores` of `VideoAp.finish`.
    class_agnostic: all listed categories count as one.
    Raises: InputError for a file that the official code would fail on.
    """
    truth = true_tracks(instances_path)
    found = found_tracks(results_path, truth.videos)
    return evaluate(truth, found, class_agnostic)


def evaluate(truth: Truth, found: dict, class_agnostic: bool = False) -> dict:
    """Likewise, of tracks that were read; they are left as they are."""
    score = VideoAp([c["id"] for c in truth.categories], class_agnostic)
    for video_id in truth.videos:
        score.add_video(
            video_id, truth.tracks.get(video_id, ()), found.get(video_id, ())
        )
    return score.finish()


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


def true_tracks(path: str | Path) -> Truth:
    """What there is to find.

    Raises: InputError as `evaluate_files`.
    """
    content = _json(path)
    content.setdefault("annotations", [])  # absent from val and test files
    videos = _records(path, content, "videos", id=ID)
    categories = _records(path, content, "categories", id=ID)
    annotations = _records(
        path, content, "annotations", id=Real, video_id=ID, category_id=ID
    )
    by_id = {video["id"]: video for video in videos}
    category_ids = [category["id"] for category in categories]

    def takes_part(annotation: dict) -> bool:
        listed = annotation["category_id"] in category_ids
        return listed and annotation["video_id"] in by_id

    # An official quirk: of annotations with one id the last stands in for all of them.
    last = {annotation["id"]: annotation for annotation in annotations}
    known = filter(takes_part, annotations)
    truth, tracks = defaultdict(list), {}
    for annotation in sorted(known, key=lambda annotation: annotation["video_id"]):
        number, annotation = annotation["id"], last[annotation["id"]]
        if takes_part(annotation):
            video = by_id[annotation["video_id"]]
            if number not in tracks:
                tracks[number] = _true_track(path, annotation, video)
            truth[video["id"]].append(tracks[number])
    return Truth(by_id, categories, truth)


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
    path: str | Path, videos: Container, *, may_be_empty: bool = False
) -> dict:
    """The results of each video in the order of the file.

    Raises: InputError as `evaluate_files`.
    """
    found = defaultdict(list)
    for i, row in enumerate(results.rows(path)):
        name = f"results[{i}]"
        _check(path, name, row, video_id=ID, category_id=ID, score=Real)
        _check(path, name, row, segmentations=list)
        if row["video_id"] not in videos:
            rule = f"video_id {row['video_id']!r} is not in the annotation file"
            raise InputError(path, name, rule)
        masks = run_lengths.read(row["segmentations"], path, name)
        track = FoundTrack(float(row["score"]), row["category_id"], masks)
        found[row["video_id"]].append(track)
    if not found and not may_be_empty:
        raise InputError(path, "", "must hold at least one result, as officially")
    return found


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


def _json(path) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_hook=_packed)
    except OSError as error:
        raise InputError(path, "", f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, "", f"is not valid json: {error}") from error
    if not isinstance(content, dict):
        raise InputError(path, "", f"must hold an object, not {content!r:.40}")
    return content


def _packed(value: dict) -> dict:
    # While the file is read: lists of counts are nine tenths of its memory. What
    # cannot be packed is refused later, and only if it takes part.
    if isinstance(value.get("counts"), list) and "size" in value:
        with contextlib.suppress(TypeError, ValueError, IndexError, OverflowError):
            return coco_mask.frPyObjects(value, 0, 0)
    return value


def _records(path, content: dict, name: str, **fields) -> list[dict]:
    records = content.get(name)
    if not isinstance(records, list):
        raise InputError(path, name, f"must be a list, not {records!r:.40}")
    for i, record in enumerate(records):
        _check(path, f"{name}[{i}]", record, **fields)
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
