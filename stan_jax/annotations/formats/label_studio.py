"""Label Studio: the JSON export, with brush masks and polygons of images.

Source: Label Studio's documentation, tags BrushLabels and PolygonLabels. A brush mask
is a run-length code of RGBA pixels of which alpha counts; points are in percent.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from jaxtyping import UInt8

from stan_jax.annotations import rules, youtube_vis
from stan_jax.annotations.formats.collected import (
    BOXES,
    EMPTY,
    MOST_CELLS,
    Collected,
    by_name,
)
from stan_jax.errors import InputError
from stan_jax.masks import codec, segmentations
from stan_jax.masks.codec import RLE
from stan_jax.media.pictures import natural

AREAS = "brushlabels", "polygonlabels"
RECTANGLES = "rectanglelabels", "videorectangle"
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # put before the name of what is uploaded


class Region(NamedTuple):
    """One result of one annotation."""

    where: str
    frame: int
    key: Any  # what tells its object apart; None: its label, if that does
    label: str
    kind: str
    value: dict
    size: tuple[int, int]


class Film(NamedTuple):
    """The frames of a video and what is drawn in them."""

    names: list[str]
    regions: list[Region]


def read(file: str | Path) -> Collected:
    """Read tasks of one image each, or of a list of images.

    Images of one folder are a video, in the order of their names, and so are those of a
    task with a list. Objects are told apart by relations between regions, by a region's
    id or by the text of its meta information; else those of one label are one track
    where no frame has two of it. Of several annotations of a task the first is taken.
    Raises: InputError for a file that is none, and for two regions of a label in one
    frame that nothing tells apart.
    """
    file = Path(file)
    tasks = youtube_vis.read_any(file)
    if not isinstance(tasks, list):
        raise InputError(file, "", "must hold a list of tasks")
    found = Collected(file)
    films = _films(found, tasks)
    labels = sorted({r.label for f in films for r in f.regions if r.kind in AREAS})
    numbers, found.categories = by_name(labels or ["object"])
    alone = 0
    for film in films:
        sizes = {region.size for region in film.regions}
        if len(sizes) > 1:
            rule = f"frames of a video must have one size, are {sorted(sizes)}"
            raise InputError(file, film.names[0], rule)
        if not sizes:
            found.balance.read["videos"] += 1
            found.balance.read["frames"] += len(film.names)
            for unit, number in (("videos", 1), ("frames", len(film.names))):
                reason = "have no region, which alone tell their size"
                found.balance.leave(unit, reason, film.names[0], number)
            continue
        video = found.video(film.names, sizes.pop())
        alone += _read_film(found, video, film, numbers)
    if alone:
        found.balance.notes.append(
            f"{alone} regions have no relation or meta text: those of one label are"
            " one track"
        )
    return found


def _films(found: Collected, tasks: list) -> list[Film]:
    """The videos, and their regions."""
    file, folders, films = found.file, defaultdict(list), []
    for i, task in enumerate(tasks):
        where = f"task {i}"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            rule = "must have 'data' and 'annotations'"
            raise InputError(file, where, rule, "export as JSON, not as JSON-MIN")
        many = [v for v in task["data"].values() if isinstance(v, list) and v]
        many = [v for v in many if all(isinstance(x, str) for x in v)]
        if many:
            names = [_name(x) for x in many[0]]
            films.append(Film(names, _regions(found, task, where, len(names))))
        else:
            texts = [v for v in task["data"].values() if isinstance(v, str)]
            paths = [v for v in texts if PurePosixPath(_name(v)).suffix]
            if not paths:
                raise InputError(file, where, "data must name an image, does not")
            name = _name(paths[0])
            regions = _regions(found, task, where, 1)
            folders[str(PurePosixPath(name).parent)].append((name, regions))
    for _, frames in sorted(folders.items()):
        frames.sort(key=lambda frame: natural(Path(_plain(frame[0]))))
        regions = [r._replace(frame=t) for t, f in enumerate(frames) for r in f[1]]
        films.append(Film([name for name, _ in frames], regions))
    return films


def _name(url: str) -> str:
    """Folder and name of an image, of a path or an address."""
    parts = urlsplit(rules.posix(url))
    local = parse_qs(parts.query).get("d")
    path = PurePosixPath(rules.posix(local[0] if local else unquote(parts.path)))
    return "/".join([x for x in path.parts if x not in ("/", "..")][-2:])


def _plain(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{UPLOADED.sub('', last)}"


def _regions(found: Collected, task: dict, where: str, length: int) -> list[Region]:
    """What the first valid annotation of a task has drawn."""
    file, given = found.file, task.get("annotations", task.get("completions")) or []
    if not isinstance(given, list) or not all(isinstance(a, dict) for a in given):
        raise InputError(file, where, "annotations must be a list of objects")
    valid = [a for a in given if not a.get("was_cancelled")]
    valid.sort(key=lambda a: not a.get("ground_truth"))
    cancelled = [a for a in given if a.get("was_cancelled")]
    for reason, others in (
        ("are of an annotation that was cancelled", cancelled),
        ("are of a second annotation of the same task", valid[1:]),
        ("are predictions, which nobody has accepted", task.get("predictions")),
    ):
        _pass_over(found, others, reason, where)
    rows = (valid[0].get("result") or []) if valid else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(file, where, "result must be a list of objects")
    linked = _linked(rows)
    regions = []
    for n, row in enumerate(rows):
        if row.get("type") == "relation":
            continue
        at = f"{where}, result {n}"
        kind, value = str(row.get("type", "")).lower(), row.get("value")
        size = row.get("original_height"), row.get("original_width")
        if not all(isinstance(x, int) and 0 < x for x in size):
            if kind in AREAS:
                rule = "original_height and original_width must be whole numbers"
                raise InputError(file, at, rule)
            found.balance.read["masks"] += 1
            found.balance.leave("masks", f"are of type '{kind}': no masks", at)
            continue
        if size[0] * size[1] > MOST_CELLS:
            raise InputError(
                file, at, f"an image of {size[0]} x {size[1]} is too large"
            )
        if not isinstance(value, dict):
            raise InputError(file, at, "value must be an object")
        if row.get("image_rotation"):
            raise InputError(file, at, "image_rotation must be 0: the image was turned")
        frame = row.get("item_index", 0)
        if not isinstance(frame, int) or not 0 <= frame < length:
            rule = f"item_index must be from 0 to {length - 1}, is {frame!r}"
            raise InputError(file, at, rule)
        names = value.get(kind) or value.get("labels") or []
        if kind in AREAS and not (isinstance(names, list) and len(names) == 1):
            rule = f"must have one label, has {names!r:.40}"
            raise InputError(file, at, rule, "give the region one label, and no other")
        label = names[0] if isinstance(names, list) and names else "object"
        text = (row.get("meta") or {}).get("text") if row.get("meta") else None
        key = str(text) if text else linked.get(row.get("id"))
        regions.append(Region(at, frame, key, str(label), kind, value, size))
    return regions


def _pass_over(found: Collected, annotations: Any, reason: str, where: str) -> None:
    """Count what annotations have drawn as left out."""
    for annotation in annotations if isinstance(annotations, list) else ():
        rows = annotation.get("result") if isinstance(annotation, dict) else None
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, dict) or row.get("type") != "relation":
                found.balance.read["masks"] += 1
                found.balance.leave("masks", reason, where)


def _linked(rows: list[dict]) -> dict[str, str]:
    """The name of the object of each region that an id or a relation ties."""
    parent: dict[str, str] = {}

    def top(x: str) -> str:
        while parent.setdefault(x, x) != x:
            x = parent[x]
        return x

    for row in rows:
        if row.get("type") == "relation":
            parent[top(str(row.get("from_id")))] = top(str(row.get("to_id")))
    often = Counter(str(row["id"]) for row in rows if row.get("id") is not None)
    return {x: top(x) for x in often if x in parent or often[x] > 1}


def _read_film(
    found: Collected, video: int, film: Film, numbers: dict[str, int]
) -> int:
    """Register what is drawn; return how many regions only their label tells apart."""
    file, alone = found.file, Counter()
    for region in film.regions:
        if region.key is None and region.kind in AREAS:
            alone[region.frame, region.label] += 1
    for (t, label), often in alone.items():
        if often > 1:
            rule = f"has {often} regions of '{label}' that nothing tells apart"
            cure = "relate the regions of an object, or give each a meta text"
            raise InputError(file, film.names[t], rule, cure)
    for region in film.regions:
        mask, reason = None, EMPTY
        if region.kind in AREAS:
            read = _brush if region.kind == "brushlabels" else _polygon
            try:
                mask = read(region.value, region.size)
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(file, region.where, f"value: {error}") from None
        elif region.kind in RECTANGLES:
            reason = BOXES
        else:
            reason = f"are of type '{region.kind}': no masks"
        area = region.kind in AREAS
        key = (region.label, region.key) if area else (region.label, region.kind)
        found.mask(
            video,
            key,
            region.frame,
            mask,
            category=numbers.get(region.label, 1),
            where=region.where,
            reason=reason,
        )
    return alone.total()


def _polygon(value: dict, size: tuple[int, int]) -> RLE | None:
    height, width = size
    points = [
        v for x, y in value["points"] for v in (x * width / 100, y * height / 100)
    ]
    return segmentations.compress([points], *size)


def _brush(value: dict, size: tuple[int, int]) -> RLE | None:
    if value.get("format") != "rle":
        raise ValueError(f"format must be rle, is {value.get('format')!r:.20}")
    numbers = np.array(value["rle"])
    if numbers.ndim != 1 or numbers.dtype != np.int64 or len(numbers) < 8:
        raise ValueError("rle must be a list of bytes")
    if numbers.min() < 0 or numbers.max() > 255:
        raise ValueError("rle must be bytes, from 0 to 255")
    pixels = decode_brush(numbers.astype(np.uint8), size)
    mask = pixels[..., 3] > 0
    return codec.encode(mask) if mask.any() else None


def decode_brush(
    data: UInt8[np.ndarray, " n"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 4"]:
    """Return the RGBA pixels of a brush mask.

    The code: 32 bits, how many values; 5, bits of a value less one; four times 4, bits
    of a length less one. Then blocks: a bit, whether one value is repeated; 2 bits,
    which of the four sizes; the length less one; the value, or all values.
    Raises: ValueError where the values are not four for each pixel of size (height,
    width), or end too early.
    """
    bits, at = np.unpackbits(data), 0

    def take(number: int, times: int = 1) -> np.ndarray:
        nonlocal at
        part = bits[at : at + number * times]
        if part.size != number * times:
            raise ValueError("rle ends too early")
        at += number * times
        powers = 1 << np.arange(number - 1, -1, -1, dtype=np.int64)
        return part.reshape(times, number) @ powers

    total = int(take(32)[0])
    if total != size[0] * size[1] * 4:
        wanted = f"{size[0]} x {size[1]} x 4"
        raise ValueError(f"rle must hold {wanted} values, holds {total}")
    width = int(take(5)[0]) + 1
    lengths = [int(take(4)[0]) + 1 for _ in range(4)]
    out, done = np.zeros(total, np.uint8), 0
    while done < total:
        repeated = take(1)[0]
        number = int(take(lengths[int(take(2)[0])])[0]) + 1
        if done + number > total:
            raise ValueError("rle holds more values than it says")
        out[done : done + number] = take(width) if repeated else take(width, number)
        done += number
    return out.reshape(*size, 4)
