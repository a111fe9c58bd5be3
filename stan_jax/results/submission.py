"""Check of a results file as the challenge server does it, and the zip it wants."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stan_jax import json_stream
from stan_jax.annotations import rules
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
    seen: dict[Any, rules.Size] = {}
    videos, categories = read_challenge(annotations) if annotations else (None, None)
    known = rules.Known(videos, categories, seen)
    single, long, scores = 0, False, set()
    try:
        for i, row in enumerate(json_stream.rows(results)):
            verdict.rows += 1
            name = f"results[{i}]"
            for rule in _broken(row, known, seen):
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
    for video in videos or ():
        if video not in seen:
            rule = "is not listed: right only if nothing was found in it"
            verdict.warnings.append(str(InputError(results, f"video {video}", rule)))
    return verdict


def read_challenge(path: str | Path) -> tuple[dict[int, rules.Size], set[int]]:
    """Read the videos and categories of a challenge."""
    rows: dict[str, list] = {"videos": [], "categories": []}
    for key, i, value in json_stream.members(path):
        if key not in rows or i == json_stream.START:
            continue
        if i is None:
            rules.require("list", (key, value), file=path, where="")
            continue
        where = rules.place(key, i, value)
        rules.require("entry", value, file=path, where=where)
        rules.require(rules.NAMES[key], value, file=path, where=where)
        if key == "videos":
            rules.require("size", value, file=path, where=where)
        rows[key].append(value)
    if not all(rows.values()):
        raise InputError(path, "", "must list videos and categories")
    videos = {row["id"]: rules.size(row) for row in rows["videos"]}
    return videos, {row["id"] for row in rows["categories"]}


def _broken(
    row: dict, known: rules.Known, seen: dict[Any, rules.Size]
) -> Iterator[str]:
    """The rules that one row breaks; seen: what earlier rows tell of each video."""
    video, masks = row.get("video_id"), row.get("segmentations")
    if isinstance(video, int):
        seen.setdefault(video, rules.Size(0, 0, 0))
    sound = True
    for found in rules.broken("result", row, known):
        if found.level == "error":
            sound = False
            yield f"{found.rule}; {found.cure}"
    size = known.size(row)
    if not sound or size is None or not isinstance(masks, list):
        return
    if not size.frames:
        size = seen[row["video_id"]] = size._replace(frames=len(masks))
    for t, mask in enumerate(masks):
        for found in rules.broken("result mask", mask):
            yield f"frame {t}: {found.rule}; {found.cure}"
            return
    try:
        checked = run_lengths.read(masks, "", "")
    except InputError as error:
        yield f"{error.record}: {error.rule}"
        return
    for t, (height, width) in enumerate(checked.sizes.tolist()):
        if not height:
            continue
        if not size.height:
            size = size._replace(height=height, width=width)
            seen[row["video_id"]] = size
        if (height, width) != size[:2]:
            want = [*size[:2]]
            yield f"frame {t}: size must be {want} as the video's, is {[height, width]}"
            return


def _list(value: object) -> list:
    return value if isinstance(value, list) else [value]


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
