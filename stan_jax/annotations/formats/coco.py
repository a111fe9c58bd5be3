"""Files with annotations by image: CocoVID, COCO with tracks, COCO of stills."""

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

from stan_jax.annotations import rules
from stan_jax.annotations.formats.collected import BOXES, EMPTY, Collected
from stan_jax.errors import InputError
from stan_jax.masks import segmentations
from stan_jax.masks.codec import RLE
from stan_jax.media.pictures import natural


def read_tracks(
    root: dict,
    file: str | Path = "annotations",
    faults: list[InputError] | None = None,
) -> Collected:
    """Read images with `video_id` and `frame_id`, and one mask each (CocoVID).

    Tracks are told apart by `instance_id` or `track_id` within a video, which may stand
    among the `attributes`, as CVAT has it; masks of one track in one image are pieces
    of it. Where no videos are listed each folder of the images is one.
    faults: as of `Collected`; of the annotations only where the images have none.
    Raises: InputError for a record that lacks what it needs, and where no annotation
    has a mask.
    """
    if "videos" not in root:
        root = _by_folder(root, file)
    found, place, sizes = Collected(file, faults), {}, {}
    found.categories = records(root, "categories", file)
    frames = _frames(found, root, file)
    for i, row in enumerate(records(root, "videos", file)):
        with found.record():
            number = need(row, "id", file, f"videos[{i}]")
            shown = sorted(frames.pop(number, ()), key=lambda image: image["frame_id"])
            sizes[number] = _same_size(shown, file, f"video {number}")
            found.video([image["file_name"] for image in shown], sizes[number], number)
            place |= {image["id"]: (number, t) for t, image in enumerate(shown)}
    if faults:
        return found
    for number, rest in frames.items():
        where = f"{rest[0]['file_name']} of video {number}"
        found.balance.read["frames"] += len(rest)
        found.balance.leave("frames", "are of no listed video", where, len(rest))
    for i, row in enumerate(with_masks(root, file)):
        where = f"annotations[{i}]"
        with found.record():
            image = need(row, "image_id", file, where)
            instance = track_of(row)
            if instance is None:
                rule = "must have 'instance_id' or 'track_id', a number or a text"
                cure = "give all annotations of an object its track_id"
                raise InputError(file, where, rule, cure)
            if image not in place:
                rule = f"image_id {image!r} is not among the images of listed videos"
                raise InputError(file, where, rule, "correct it, or add the image")
            number, t = place[image]
            _mask(found, row, (number, instance, t), sizes[number], where)
    return found


def _same_size(shown: list[dict], file: str | Path, where: str) -> tuple[int, int]:
    """The size of the frames of a video, each of which has its own number."""
    if not shown:
        raise InputError(file, where, "must have images, has none", "remove the video")
    size = size_of(shown[0], file, where)
    for a, b in itertools.pairwise(shown):
        if a["frame_id"] == b["frame_id"]:
            rule = f"frame_id {a['frame_id']} must be that of one image"
            raise InputError(file, where, rule, "number the frames of each video")
        if size_of(b, file, where) != size:
            rule = f"{b['file_name']} must have the size of the first frame"
            raise InputError(file, where, rule, "make two videos of it")
    return size


def _mask(
    found: Collected,
    row: dict,
    place: tuple[int, Any, int],
    size: tuple[int, int],
    where: str,
) -> None:
    """Register the mask of an annotation; place: video, track and frame."""
    mask = mask_of(row, size, found.file, where)
    if segmentations.loose_ends(row.get("segmentation")):
        found.balance.tell("masks have loose points, which are passed over", where)
    found.mask(
        *place,
        mask,
        category=need(row, "category_id", found.file, where),
        where=where,
        crowd=bool(row.get("iscrowd", 0)),
        reason=EMPTY if row.get("segmentation") else BOXES,
    )


def read_stills(
    root: dict,
    file: str | Path = "annotations",
    faults: list[InputError] | None = None,
) -> Collected:
    """Read COCO images as they are: every image a video of one frame.

    faults: as of `read_tracks`.
    Raises: InputError for a record that lacks what it needs.
    """
    found, sizes = Collected(file, faults), {}
    found.categories = records(root, "categories", file)
    for i, image in enumerate(records(root, "images", file)):
        where = f"images[{i}]"
        with found.record():
            number, name = (need(image, k, file, where) for k in ("id", "file_name"))
            if number in sizes:
                raise InputError(file, where, f"id {number} must be that of one image")
            sizes[number] = size_of(image, file, where)
            found.video([name], sizes[number], number)
    if faults:
        return found
    for i, row in enumerate(with_masks(root, file)):
        where = f"annotations[{i}]"
        with found.record():
            number = need(row, "image_id", file, where)
            if number not in sizes:
                rule = f"image_id {number!r} is not among the images"
                raise InputError(file, where, rule, "correct it, or add the image")
            _mask(found, row, (number, i, 0), sizes[number], where)
    return found


def track_of(row: dict) -> Any:
    """Return what tells the track of an annotation apart, if anything does."""
    attributes = row.get("attributes")
    places = (row, attributes if isinstance(attributes, dict) else {})
    for key in ("instance_id", "track_id"):
        for place in places:
            if isinstance(place.get(key), str | int | float):
                return place[key]
    return None


def has_tracks(root: dict) -> bool:
    """Return whether any annotation names its track."""
    rows = root.get("annotations")
    return isinstance(rows, list) and any(
        isinstance(row, dict) and track_of(row) is not None for row in rows
    )


def _frames(found: Collected, root: dict, file: str | Path) -> dict[Any, list[dict]]:
    """The images of each video, their `frame_id` a number."""
    frames, seen = defaultdict(list), set()
    for i, image in enumerate(records(root, "images", file)):
        where = f"images[{i}]"
        with found.record():
            for key in ("id", "video_id", "frame_id", "file_name", "height", "width"):
                need(image, key, file, where)
            try:
                image = image | {"frame_id": int(str(image["frame_id"]))}
            except ValueError:
                rule = f"frame_id must be numbers, is {image['frame_id']!r:.40}"
                raise InputError(file, where, rule) from None
            if image["id"] in seen:
                rule = f"id {image['id']} must be that of one image in the whole file"
                raise InputError(file, where, rule, "give each image an id of its own")
            seen.add(image["id"])
            frames[image["video_id"]].append(image)
    return frames


def _by_folder(root: dict, file: str | Path) -> dict:
    """Return the file with a video for each folder of its images, in their order."""
    folders = defaultdict(list)
    for i, image in enumerate(records(root, "images", file)):
        name = rules.posix(str(need(image, "file_name", file, f"images[{i}]")))
        folders[Path(name).parent].append((natural(Path(name)), image))
    videos, images = [], []
    for number, (folder, found) in enumerate(sorted(folders.items()), start=1):
        videos.append({"id": number, "name": str(folder)})
        found = [image for _, image in sorted(found, key=lambda x: x[0])]
        images += [
            image | {"video_id": number, "frame_id": t} for t, image in enumerate(found)
        ]
    return root | {"videos": videos, "images": images}


def with_masks(root: dict, file: str | Path) -> list[dict]:
    """Return the annotations. Raises: InputError where no single one has a mask."""
    rows = records(root, "annotations", file)
    if rows and not any(row.get("segmentation") for row in rows):
        rule = f"none of {len(rows)} has a mask: boxes alone cannot be converted"
        raise InputError(file, "annotations", rule)
    return rows


def size_of(row: dict, file, where: str) -> tuple[int, int]:
    """Return height and width of an image. Raises: InputError where they are none."""
    rules.require("size", row, file=file, where=where)
    return row["height"], row["width"]


def mask_of(row: dict, size: tuple, file, where: str) -> RLE | None:
    """Return the mask of an annotation. Raises: InputError where it is none."""
    try:
        return segmentations.compress(row.get("segmentation"), *size)
    except (ValueError, TypeError) as error:
        raise InputError(file, where, f"segmentation: {error}") from None


def records(root: dict, key: str, file) -> list[dict]:
    """Return a list of objects of a file. Raises: InputError where it is none."""
    rows = root.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(file, key, "must be a list of objects")
    return rows


def need(row: dict, key: str, file, where: str) -> Any:
    """Return a number or a text of a record. Raises: InputError where it is none."""
    if not isinstance(row.get(key), str | int | float):
        raise InputError(file, where, f"must have '{key}', a number or a text")
    return row[key]
