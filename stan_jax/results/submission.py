"""Check of a results file as the challenge server does it, and the zip it wants."""

import math
import zipfile
from pathlib import Path
from typing import Any

from stan_jax import json_stream
from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.masks import run_lengths

NAME = "results.json"  # what the server looks for, at the top of the zip


class Verdict:
    """Findings of the check of a results file."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.rows = 0


def check(results: str | Path, annotations: str | Path | None = None) -> Verdict:
    """Every broken rule of every row; memory holds one row at a time.

    annotations: the videos and categories of the challenge; without them ids, lengths
    and sizes are only compared with each other.
    """
    verdict = Verdict()
    videos, categories = _known(annotations) if annotations else ({}, set())
    seen: dict[Any, tuple] = {}
    single, long, scores = 0, False, set()
    try:
        for i, row in enumerate(json_stream.rows(results)):
            verdict.rows += 1
            name = f"results[{i}]"
            for rule in _broken(row, videos, categories, seen, bool(annotations)):
                verdict.errors.append(str(InputError(results, name, rule)))
            shown = sum(map(bool, _list(row.get("segmentations"))))
            single += shown == 1
            long |= len(_list(row.get("segmentations"))) > 2
            if len(scores) < 2 and isinstance(row.get("score"), int | float):
                scores.add(row["score"])
            if not shown:
                rule = "shows nothing: every mask is null"
                verdict.warnings.append(str(InputError(results, name, rule)))
    except InputError as error:  # no json: nothing behind it can be read
        verdict.errors.append(str(error))
        return verdict
    if not verdict.rows:
        rule = "must hold at least one result: the server fails on an empty list"
        verdict.errors.append(str(InputError(results, "", rule)))
    if long and single > verdict.rows / 2:
        rule = f"{single} of {verdict.rows} results show one frame alone"
        verdict.warnings.append(str(InputError(results, "", rule)))
    if verdict.rows > 1 and len(scores) == 1:
        rule = f"all {verdict.rows} results have one score: AP needs them ranked"
        verdict.warnings.append(str(InputError(results, "", rule)))
    for video in videos:
        if video not in seen:
            rule = "is not listed: right only if nothing was found in it"
            verdict.warnings.append(str(InputError(results, f"video {video}", rule)))
    return verdict


def _known(path: str | Path) -> tuple[dict, set]:
    videos, categories = {}, set()
    for key, i, value in json_stream.members(path):
        if key not in ("videos", "categories") or i in (None, json_stream.START):
            continue
        where = f"{key}[{i}]"
        if not isinstance(value, dict) or not _whole(value.get("id")):
            raise InputError(path, where, "must be an object with an id")
        if key == "categories":
            categories.add(value["id"])
            continue
        names = value.get("file_names")
        length = len(names) if isinstance(names, list) else value.get("length")
        size = [value.get("height"), value.get("width")]
        if not all(map(_whole, [length, *size])):
            rule = "must have height, width and file_names (or length)"
            raise InputError(path, where, rule)
        videos[value["id"]] = length, size
    if not videos or not categories:
        raise InputError(path, "", "must list videos and categories")
    return videos, categories


def _broken(row: dict, videos: dict, categories: set, seen: dict, known: bool):
    """The rules that one row breaks."""
    for key in ("video_id", "category_id"):
        if not _whole(row.get(key)):
            yield f"{key} must be a whole number, is {row.get(key)!r:.40}"
            return
    video = row["video_id"]
    seen.setdefault(video, ())
    if known and video not in videos:
        yield f"video_id {video} is not among the videos"
    if known and row["category_id"] not in categories:
        yield f"category_id {row['category_id']} is not among the categories"
    score = row.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float):
        yield f"score must be a number, is {score!r:.40}"
    elif not math.isfinite(score):
        yield f"score must be finite, is {score}"
    masks = row.get("segmentations")
    if not isinstance(masks, list):
        yield f"segmentations must be a list, is {masks!r:.40}"
        return
    length, size = videos.get(video) or seen.get(video) or (len(masks), None)
    if len(masks) != length:
        yield f"segmentations must have {length} entries, one a frame, has {len(masks)}"
    for t, mask in enumerate(masks):
        if mask is not None and not isinstance(mask, dict):
            yield f"frame {t}: a mask must be a compressed RLE or null, is {mask!r:.40}"
            return
    try:
        checked = run_lengths.read(masks, "", "")
    except InputError as error:
        yield f"{error.record}: {error.rule}"
        return
    for t, found in enumerate(checked.sizes.tolist()):
        if any(found) and size is None:
            size = found
        if any(found) and found != size:
            yield f"frame {t}: size must be {size} as the video's, is {found}"
            return
    seen[video] = length, size


def _list(value: object) -> list:
    return value if isinstance(value, list) else [value]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def write(results: str | Path, out: str | Path) -> None:
    """The zip with the file at its top; the same bytes each time.

    Raises: OSError where it cannot be written.
    """
    info = zipfile.ZipInfo(NAME)  # of 1980, so that the zip does not depend on today
    info.compress_type = zipfile.ZIP_DEFLATED
    with replacing(out) as partial, json_stream.open_bytes(results) as source:
        with zipfile.ZipFile(partial, "w") as archive:
            with archive.open(info, "w", force_zip64=True) as target:
                while piece := source.read(1 << 20):
                    target.write(piece)
