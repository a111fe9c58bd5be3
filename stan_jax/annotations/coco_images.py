"""COCO instances as a set to train on: every image is a video of one frame.

The json is read piece by piece, twice: images and categories, then annotations, in
whatever order they stand. It is never in memory as a whole.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stan_jax import json_stream
from stan_jax.annotations import rules, youtube_vis
from stan_jax.annotations.formats import coco
from stan_jax.annotations.youtube_vis import Category, Dataset, Track, Video
from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.masks.codec import RLE

Objects = list[tuple[int, int, bool, RLE]]  # id, label, crowd and mask of one image


def are_in(path: str | Path) -> bool:
    """Return whether a json lists images, and videos nowhere before them.

    Reads no further than to the first of either. False too where it cannot be read:
    whoever reads the file then says why.
    """
    try:
        for key, _, _ in json_stream.members(path):
            if key in ("images", "videos"):
                return key == "images"
    except InputError:
        pass
    return False


def load(
    annotations: str | Path, frames_dir: str | Path, *, upright: bool = True
) -> Dataset:
    """Read COCO instances; images are not touched.

    Polygons and run lengths are brought into one form, as everywhere. Crowd regions
    stay, marked as such; an annotation without a pixel leaves no track.
    upright: see `Dataset`.
    Raises: InputError for the first record that breaks a rule, and for a file whose
    images are the frames of videos.
    """
    path = Path(annotations)
    images, categories = _images(path)
    label_of = {c.id: label for label, c in enumerate(categories)}
    objects: dict[int, Objects] = {number: [] for number in images}
    for _, row, where in _rows(path, ("annotations",)):
        number, label = _belongs(path, row, where, images, label_of)
        video = images[number]
        mask = coco.mask_of(row, (video.height, video.width), path, where)
        if mask is not None:
            crowd = bool(row.get("iscrowd"))
            objects[number].append((row["id"], label, crowd, mask))
    videos = tuple(
        v._replace(tracks=_tracks(objects.pop(i))) for i, v in images.items()
    )
    return Dataset(path, Path(frames_dir), categories, videos, True, upright=upright)


def without_crowded(dataset: Dataset, most: int) -> tuple[Dataset, int]:
    """Return a set without the stills of more than `most` objects, and their number.

    Crowd regions do not count; longer videos stay as they are.
    """
    videos = tuple(
        video
        for video in dataset.videos
        if len(video.file_names) > 1 or sum(not x.crowd for x in video.tracks) <= most
    )
    return dataset._replace(videos=videos), len(dataset.videos) - len(videos)


def _images(path: Path) -> tuple[dict[int, Video], tuple[Category, ...]]:
    """Return the images by id, as videos without tracks, and the categories."""
    images: dict[int, Video] = {}
    named: list[dict[str, Any]] = []
    for key, row, where in _rows(path, ("images", "categories")):
        if key == "categories":
            named.append(row)
            continue
        if "video_id" in row:
            rule = "has a video_id: the images are frames of a video"
            raise InputError(path, where, rule, "`stan convert cocovid` takes it")
        size = coco.size_of(row, path, where)
        name = rules.posix(str(coco.need(row, "file_name", path, where)))
        if row["id"] in images:
            raise InputError(path, where, f"id {row['id']} must be that of one image")
        images[row["id"]] = Video(row["id"], (name,), *size, ())
    found = youtube_vis.records(path, {"categories": named}, "categories")
    categories = tuple(sorted(Category(row["id"], row["name"]) for row in found))
    for key, number in (("images", len(images)), ("categories", len(categories))):
        if not number:
            raise InputError(path, key, "must list at least one, lists none")
    return images, categories


def _rows(
    path: Path, wanted: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield list, record and its name in messages; each has a whole number as id."""
    for key, i, row in json_stream.members(path):
        if key not in wanted or i == json_stream.START:
            continue
        where = key if i is None else f"{key}[{i}]"
        if i is None or not isinstance(row, dict):
            raise InputError(path, where, "must be a list of objects")
        rules.require("annotation", row, file=path, where=where)
        yield key, row, where


def _belongs(
    path: Path,
    row: dict[str, Any],
    where: str,
    images: dict[int, Video],
    label_of: dict[int, int],
) -> tuple[int, int]:
    """Return the image of an annotation, and its label."""
    if coco.track_of(row) is not None:
        rule = "has a track_id: the images are frames of a video"
        raise InputError(path, where, rule, "`stan convert cocovid` takes it")
    number = coco.need(row, "image_id", path, where)
    category = coco.need(row, "category_id", path, where)
    if number not in images:
        rule = f"image_id {number!r} is not among the images"
        raise InputError(path, where, rule, "correct it, or add the image")
    if category not in label_of:
        rule = f"category_id {category!r} is not among the categories"
        raise InputError(path, where, rule, "correct it, or add it")
    return number, label_of[category]


def _tracks(objects: Objects) -> tuple[Track, ...]:
    boxes = codec.tight_boxes([mask for *_, mask in objects])
    return tuple(
        Track(number, label, crowd, (mask,), boxes[i : i + 1])
        for i, (number, label, crowd, mask) in enumerate(objects)
    )
