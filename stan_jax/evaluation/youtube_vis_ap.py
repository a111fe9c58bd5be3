"""What is the official score of a results file against an annotation file?

Same numbers as youtubevos/cocoapi (ytvos.py, ytvoseval.py), to the last digit. Where
that code stops with a traceback or never returns, there is one InputError instead.
"""

import json
from collections import defaultdict
from numbers import Real
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from stan_jax.errors import InputError
from stan_jax.evaluation import run_lengths
from stan_jax.evaluation.video_ap import FoundTrack, TrueTrack, VideoAp, mean_area

ID = (Real, str)


def evaluate_files(
    instances_path: str | Path, results_path: str | Path, class_agnostic: bool = False
) -> dict:
    """The twelve statistics by name; -1 where there is nothing to find.

    Also the curves `precision`, `recall`, `scores` of `VideoAp.finish`.
    class_agnostic: all listed categories count as one.
    Raises: InputError for a file that the official code would fail on.
    """
    videos, category_ids, truth = _instances(instances_path, class_agnostic)
    found = _results(results_path, videos)
    score = VideoAp(category_ids, class_agnostic)
    for video_id, video in videos.items():
        true = [_true(instances_path, a, video) for a in truth.pop(video_id, ())]
        score.add_video(
            video_id,
            true,
            [_found(results_path, i, row) for i, row in found.pop(video_id, ())],
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


def _instances(path, class_agnostic: bool) -> tuple[dict, list, dict]:
    """Videos by id, category ids, and the annotations that count by video id."""
    content = _json(path)
    if not isinstance(content, dict):
        raise InputError(path, "", "must hold a json object")
    videos = _records(path, content, "videos", id=ID)
    categories = _records(path, content, "categories", id=ID)
    content.setdefault("annotations", [])  # absent from val and test files
    annotations = _records(
        path, content, "annotations", id=Real, video_id=ID, category_id=ID
    )
    for name, records in (("videos", videos), ("categories", categories)):
        if len({isinstance(record["id"], str) for record in records}) > 1:
            raise InputError(path, name, "ids must be all numbers or all text")
    by_id = {video["id"]: video for video in videos}
    listed = {category["id"] for category in categories}
    # An official quirk: of annotations with one id the last stands in for all of them.
    last = {annotation["id"]: annotation for annotation in annotations}
    truth = defaultdict(list)
    known = [a for a in annotations if a["video_id"] in by_id]
    for annotation in sorted(known, key=lambda a: a["video_id"]):
        if class_agnostic or annotation["category_id"] in listed:
            annotation = last[annotation["id"]]
            if annotation["category_id"] in listed:
                truth[annotation["video_id"]].append(annotation)
    return by_id, [category["id"] for category in categories], truth


def _results(path, videos: dict) -> dict:
    """The results of each video, with their place in the file."""
    rows = {"results": _json(path)}
    rows = _records(
        path, rows, "results", video_id=ID, category_id=ID, score=Real, segmentations=list
    )
    if not rows:
        raise InputError(path, "", "must hold at least one result, as officially")
    found = defaultdict(list)
    for i, row in enumerate(rows):
        if row["video_id"] not in videos:
            rule = f"video_id {row['video_id']!r} is not in the annotation file"
            raise InputError(path, f"result {i}", rule)
        found[row["video_id"]].append((i, row))
    return found


def _true(path, annotation: dict, video: dict) -> TrueTrack:
    record = f"annotation {annotation['id']}"
    _check(path, record, annotation, segmentations=list, areas=list, iscrowd=Real)
    for area in annotation["areas"]:
        if not isinstance(area, Real | None):
            raise InputError(path, record, f"an area must be a number, not {area!r:.40}")
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


def _found(path, place: int, row: dict) -> FoundTrack:
    masks = run_lengths.read(row["segmentations"], path, f"result {place}")
    return FoundTrack(row["score"], row["category_id"], masks)


def _compressed(path, record: str, segmentation, video: dict) -> dict | None:
    """Compressed run lengths of what an annotation may hold; results may hold less."""
    if not segmentation:
        return None
    polygons = segmentation if isinstance(segmentation, list) else ()
    for points in polygons:
        if not isinstance(points, list) or len(points) < 6:
            rule = "a polygon must be a list of at least 3 points, x y x y ..., not"
            raise InputError(path, record, f"{rule} {points!r:.60}")
    try:
        if polygons:
            hw = video["height"], video["width"]
            numbers = [np.array(points, np.float64).tolist() for points in polygons]
            return coco_mask.merge(coco_mask.frPyObjects(numbers, *hw))
        if isinstance(segmentation["counts"], list):
            return coco_mask.frPyObjects(segmentation, 0, 0)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        rule = f"is no polygon list, run-length list or text: {segmentation!r:.60}"
        raise InputError(path, record, rule) from error
    return segmentation


def _json(path):
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(path, "", f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, "", f"is not valid json: {error}") from error


def _records(path, content: dict, name: str, **fields) -> list[dict]:
    records = content.get(name)
    if not isinstance(records, list):
        raise InputError(path, name, f"must be a list, not {records!r:.40}")
    for i, record in enumerate(records):
        _check(path, f"{name.removesuffix('s')} {i}", record, **fields)
    return records


def _check(path, name: str, record, **fields) -> None:
    if not isinstance(record, dict):
        raise InputError(path, name, f"must be an object, not {record!r:.40}")
    for field, kind in fields.items():
        if field not in record:
            raise InputError(path, name, f"{field} is missing")
        if not isinstance(record[field], kind):
            rule = f"{field} cannot be {record[field]!r:.40}"
            raise InputError(path, name, rule)
