"""labelme: a json beside each image, shapes with label and `group_id`."""

import base64
import binascii
import io
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stan_jax.annotations import rules, youtube_vis
from stan_jax.annotations.formats.coco import records, size_of
from stan_jax.annotations.formats.collected import (
    BOXES,
    EMPTY,
    Collected,
    by_name,
    found_below,
)
from stan_jax.errors import InputError
from stan_jax.masks import codec, segmentations
from stan_jax.masks.codec import RLE
from stan_jax.media.pictures import is_image, natural

AREAS = "polygon", "mask", "circle"


def read(folder: str | Path) -> Collected:
    """Read a folder of json files; each folder with some is a video, a json a frame.

    A track is a label and a `group_id`, and shapes of one track in one frame are its
    pieces. Shapes without a group are one track a label where no frame has two of it.
    Raises: InputError for a file that is none, and for two shapes of a label in one
    frame without a group: they cannot be told apart.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "", "must be a folder of json files, one a frame")
    places: dict[Path, list[Path]] = defaultdict(list)
    found = Collected(folder)
    for file in found_below(folder, ".json"):
        if _is_frame(file):
            places[file.parent].append(file)
        else:
            text = "json are no files of labelme: passed over"
            found.balance.tell(text, str(file.relative_to(folder)))
    frames = {
        place: [(file, _read(file)) for file in places[place]]
        for place in sorted(places, key=natural)
    }
    if not frames:
        raise InputError(folder, "", "must hold json files of labelme, holds none")
    every = [
        row for some in frames.values() for _, root in some for row in root["shapes"]
    ]
    labels = sorted({row["label"] for row in every if row["shape_type"] in AREAS})
    numbers, found.categories = by_name(labels or sorted({r["label"] for r in every}))
    for place, some in frames.items():
        size = size_of(some[0][1], some[0][0], "")
        names = []
        for file, root in some:
            if size_of(root, file, "") != size:
                rule = f"must have the size of the first frame, {size}"
                raise InputError(file, "imageHeight, imageWidth", rule)
            names.append(_image(folder, place, rules.posix(str(root["imagePath"]))))
        for path in sorted(place.iterdir(), key=natural):
            name = path.relative_to(folder).as_posix()
            if is_image(path) and name not in names:
                text = "images have no json: they are no frames"
                found.balance.tell(text, name)
        video = found.video(names, size)
        for t, (file, root) in enumerate(some):
            _read_frame(found, video, t, file, root["shapes"], size, numbers)
    if alone := sum(row["group_id"] is None for row in every):
        found.balance.notes.append(
            f"{alone} shapes have no group_id: those of one label are one track"
        )
    return found


def _image(folder: Path, place: Path, named: str) -> str:
    """Where the image of a json is, below the folder: where it says, or beside it."""
    there = (place / named).resolve()
    if there.is_file() and there.is_relative_to(folder.resolve()):
        return there.relative_to(folder.resolve()).as_posix()
    return (place / Path(named).name).relative_to(folder).as_posix()


def _is_frame(file: Path) -> bool:
    """Return whether a json has any of the members that labelme writes."""
    root = youtube_vis.read_any(file)
    return isinstance(root, dict) and bool({"shapes", "imagePath"} & set(root))


def _read(file: Path) -> dict[str, Any]:
    root = youtube_vis.read_plain(file)
    shapes = records(root, "shapes", file)
    if not isinstance(root.get("imagePath"), str) or not root["imagePath"]:
        raise InputError(file, "imagePath", "must be the name of the image")
    kept = []
    for i, row in enumerate(shapes):
        if not isinstance(row.get("label"), str):
            raise InputError(file, f"shapes[{i}]", "must have a label, a text")
        kind = row.get("shape_type", "polygon")
        kept.append(row | {"shape_type": kind, "group_id": row.get("group_id")})
    size = {"height": root.get("imageHeight"), "width": root.get("imageWidth")}
    return {"shapes": kept, "imagePath": root["imagePath"], **size}


def _read_frame(
    found: Collected,
    video: int,
    t: int,
    file: Path,
    shapes: list[dict],
    size: tuple[int, int],
    numbers: dict[str, int],
) -> None:
    alone = [r["label"] for r in shapes if r["group_id"] is None and _area(r)]
    for label, often in Counter(alone).items():
        if often > 1:
            rule = (
                f"has {often} shapes of '{label}' without a group_id: which is which?"
            )
            raise InputError(file, "", rule, "give each object a group_id of its own")
    for i, row in enumerate(shapes):
        where = f"{file.relative_to(found.file)}, shapes[{i}]"
        label, group = row["label"], row["group_id"]
        if not isinstance(group, int | str | None):
            raise InputError(
                file, f"shapes[{i}]", "group_id must be a whole number, a text or null"
            )
        mask = reason = None
        if _area(row):
            try:
                mask = _mask(row, size)
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(file, f"shapes[{i}]", f"points: {error}") from None
            reason = EMPTY
        elif row["shape_type"] == "rectangle":
            reason = BOXES
        else:
            reason = "are lines or points: no area"
        # A box is beside the masks of its label, whatever group it is of.
        key = (label, group) if _area(row) or group is not None else (label, "no area")
        category = numbers.get(label, 1)
        found.mask(video, key, t, mask, category=category, where=where, reason=reason)


def _area(row: dict) -> bool:
    return row["shape_type"] in AREAS


def _mask(row: dict, size: tuple[int, int]) -> RLE | None:
    points = [[float(x), float(y)] for x, y in row["points"]]
    if row["shape_type"] == "polygon":
        return segmentations.compress([[v for p in points for v in p]], *size)
    (x, y), (x2, y2) = points
    if row["shape_type"] == "circle":  # centre, and a point of the rim
        rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
        mask = (columns - x) ** 2 + (rows - y) ** 2 <= math.dist((x, y), (x2, y2)) ** 2
        return codec.encode(mask) if mask.any() else None
    try:
        data = base64.b64decode(row["mask"], validate=True)
        with Image.open(io.BytesIO(data)) as image:
            inside = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError) as error:
        raise ValueError(f"mask must be a PNG in base64: {error}") from None
    left, top = round(x), round(y)
    mask = np.zeros(size, bool)
    height, width = inside.shape
    if min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(
            f"mask of {height} x {width} at {left}, {top} leaves the frame"
        )
    mask[top : top + height, left : left + width] = inside
    return codec.encode(mask) if mask.any() else None
