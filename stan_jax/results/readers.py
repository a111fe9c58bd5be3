"""Readers of the two files of an evaluation, one video at a time.

Read as leniently as the official code does, by `Rule.lenient`; where that stops with a
traceback there is one InputError instead. It also stops where `areas` or `iscrowd` are
absent: here those of the masks are taken, and 0.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stan_jax import json_stream
from stan_jax.annotations import rules
from stan_jax.errors import InputError
from stan_jax.masks import codec, run_lengths, segmentations
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack, mean_area
from stan_jax.results.record_store import RecordStore

KEPT = "id", "video_id", "category_id"  # of an annotation, in memory


class TracksByVideo(Mapping):
    """The tracks of each video, read when they are asked for, not kept in memory.

    read: makes them of the records of one video and what stands beside each.
    """

    def __init__(self, read: Callable[[list[tuple[Any, Any]]], list]):
        self.store, self._read = RecordStore(), read
        self._places: dict[Any, list[tuple[int, Any]]] = {}

    def put(self, video_id, place: int, beside: Any = None) -> None:
        """A record that lies on the store is one of this video's."""
        self._places.setdefault(video_id, []).append((place, beside))

    def later(self, video_id) -> Callable[[], list]:
        """Return a function that reads the tracks of a video, in any process."""
        places = self._places.get(video_id, ())
        return partial(self._read, [(self.store.get(place), x) for place, x in places])

    def __getitem__(self, video_id) -> list:
        if video_id not in self._places:
            raise KeyError(video_id)
        return self.later(video_id)()

    def __iter__(self) -> Iterator:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Truth(NamedTuple):
    """An annotation file: videos by id, categories, and by video the tracks in it."""

    videos: dict
    categories: list[dict]
    tracks: TracksByVideo  # video id -> list[TrueTrack]
    odd: list[str]  # what the official code passes over without a word


def true_tracks(path: str | Path) -> Truth:
    """Return what there is to find; memory holds none of the masks.

    Raises: InputError for what the official code would fail on; for masks, when the
    tracks of their video are asked for.
    """
    tracks = TracksByVideo(partial(_read_true, path))
    content: dict[str, list] = {}
    absent, by_image = Counter(), False
    for key, i, value in json_stream.members(path):
        by_image |= key == "images" and i == json_stream.START
        if key not in rules.LISTS:
            continue
        if i == json_stream.START:
            content[key] = []
            continue
        if i is None:
            rules.require("list", (key, value), file=path, where="", lenient=True)
            continue
        if by_image and key == "annotations" and "segmentations" not in value:
            rule = "has annotations by image, as CocoVID or COCO"
            raise InputError(path, "", f"{rule}: `stan convert` it first")
        where = rules.place(key, i, value)
        rules.require("entry", value, file=path, where=where, lenient=True)
        for record in (rules.NAMES[key], *["belongs"] * (key == "annotations")):
            rules.require(record, value, file=path, where=where, lenient=True)
        if key == "annotations":
            absent.update(k for k in ("areas", "iscrowd") if value.get(k) is None)
            # At once: lists of counts are nine tenths of the memory. What cannot
            # be packed is refused later, and only if it takes part.
            if isinstance(masks := value.get("segmentations"), list):
                value["segmentations"] = [_packed(mask) for mask in masks]
            place = tracks.store.add(value)
            value = {name: value[name] for name in KEPT} | {"place": place}
        content[key].append(value)
    videos, categories, annotations = (
        _records(path, content, key) for key in rules.LISTS
    )
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
            tracks.put(video["id"], annotation["place"], size)
    odd = {
        "share their id with another video": len(videos) - len(by_id),
        "share their id with another category": len(categories) - len(category_ids),
        "have id 0: officially they are never found": sum(
            not annotation["id"] for annotation in annotations
        ),
        "share their id with a later annotation, which stands in for them": (
            len(annotations) - len(last)
        ),
        "are of a video or category that is not listed: they count for nothing": sum(
            not takes_part(annotation) for annotation in annotations
        ),
        "have no areas: those of their masks are taken": absent["areas"],
        "have no iscrowd: taken for 0": absent["iscrowd"],
    }
    names = ["videos", "categories", *["annotations"] * 5]
    found = [
        f"{number} {name} {rule}"
        for name, (rule, number) in zip(names, odd.items(), strict=True)
        if number
    ]
    return Truth(by_id, categories, tracks, found)


def _read_true(path, rows: list[tuple[dict, dict]]) -> list[TrueTrack]:
    each = {row["id"]: (row, video) for row, video in rows}
    records = [f"annotation {number}" for number in each]
    given = [
        _masks(path, record, row, video)
        for record, (row, video) in zip(records, each.values(), strict=True)
    ]
    masks = run_lengths.read_many(given, path, records)
    tracks = {
        number: TrueTrack(
            number,
            row["category_id"],
            bool(row.get("iscrowd")),
            # The list of the file where there is one, whatever the masks are.
            mean_area(mask.areas if row.get("areas") is None else row["areas"]),
            mask,
        )
        for (number, (row, _)), mask in zip(each.items(), masks, strict=True)
    }
    return [tracks[row["id"]] for row, _ in rows]


def _masks(path, record: str, annotation: dict, video: dict) -> list:
    rules.require("track", annotation, file=path, where=record, lenient=True)
    areas = annotation.get("areas") or ()
    rules.require_each("area", areas, file=path, where=record, lenient=True)
    if any(annotation["segmentations"]):
        where = f"video {video['id']}"
        rules.require("size", video, file=path, where=where, lenient=True)
    return [
        _compressed(path, f"{record}, frame {t}", mask, video)
        for t, mask in enumerate(annotation["segmentations"])
    ]


def predicted_rows(
    path: str | Path, videos: Container, counts: Counter
) -> Iterator[tuple[Any, list[tuple[int, dict]]]]:
    """The id of each video and its rows, numbered, in the order of the file.

    For `read_predicted`. A video whose rows do not follow each other comes again at the
    end, then with all.
    videos: the known ids. counts: results by category are added to it.
    Raises: InputError for a row that the official code would fail on.
    """
    current, rows, begun, scattered = None, [], set(), set()
    for i, row in _rows(path, videos):
        counts[row["category_id"]] += 1
        video_id = row["video_id"]
        if not begun or video_id != current:
            if rows:
                yield current, rows
            current, rows = video_id, []
            if video_id in begun:
                scattered.add(video_id)
            begun.add(video_id)
        if video_id not in scattered:
            rows.append((i, row))
    if rows:
        yield current, rows
    if scattered:
        whole = TracksByVideo(lambda rows: [pair for pair, _ in rows])
        for i, row in _rows(path, videos):
            if row["video_id"] in scattered:
                whole.put(row["video_id"], whole.store.add((i, row)))
        yield from whole.items()


def predicted_in(
    path: str | Path, chosen: Container, videos: Container
) -> dict[Any, list[PredictedTrack]]:
    """The results of some videos, all in memory; else as `predicted_rows`."""
    rows: dict[Any, list] = {}
    for i, row in _rows(path, videos):
        if row["video_id"] in chosen:
            rows.setdefault(row["video_id"], []).append((i, row))
    return {video_id: read_predicted(path, found) for video_id, found in rows.items()}


def _rows(path, videos: Container) -> Iterator[tuple[int, dict]]:
    known = rules.Known(videos)
    for i, row in enumerate(json_stream.rows(path)):
        where = f"results[{i}]"
        rules.require("result", row, known, file=path, where=where, lenient=True)
        yield i, row


def read_predicted(
    path: str | Path, rows: Sequence[tuple[int, dict]]
) -> list[PredictedTrack]:
    """Return the predictions in rows of one video.

    Raises: InputError for masks that are none.
    """
    masks = run_lengths.read_many(
        [row["segmentations"] for _, row in rows],
        path,
        [f"results[{i}]" for i, _ in rows],
    )
    return [
        PredictedTrack(float(row["score"]), row["category_id"], mask, i)
        for (i, row), mask in zip(rows, masks, strict=True)
    ]


def _compressed(path, record: str, mask: Any, video: dict) -> Any:
    """Run lengths of what an annotation may hold: polygons, or run lengths already."""
    if isinstance(mask, dict) and isinstance(mask.get("counts"), list):
        rule = "needs a size and run lengths from 0 up"  # `_packed` found otherwise
        raise InputError(path, record, f"{rule}, not {mask!r:.60}")
    if not mask or not isinstance(mask, list):
        return mask
    try:
        return segmentations.from_polygons(mask, video["height"], video["width"])
    except ValueError as error:
        raise InputError(path, record, str(error)) from error


def _packed(mask: Any) -> Any:
    """Compressed run lengths of a list of counts; anything else as it is."""
    counts = mask.get("counts") if isinstance(mask, dict) else None
    if isinstance(counts, list) and "size" in mask:
        with contextlib.suppress(TypeError, ValueError, LookupError, OverflowError):
            return codec.encode_runs(counts, mask["size"])
    return mask


def _records(path, content: dict, name: str) -> list[dict]:
    rows = content.get(name, rules.ABSENT)
    rules.require("list", (name, rows), file=path, where="", lenient=True)
    if rows is rules.ABSENT:
        return []  # annotations, of val and test files
    if len({isinstance(row["id"], str) for row in rows}) > 1:
        raise InputError(path, name, "ids must be all numbers or all text")
    return rows
