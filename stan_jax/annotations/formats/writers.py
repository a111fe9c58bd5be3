"""The official file as other formats: CocoVID, COCO with tracks, MOTS text, id masks.

Each says what the other format cannot hold.
"""

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.formats.collected import Balance
from stan_jax.annotations.formats.id_images import MOTS_IGNORE
from stan_jax.annotations.youtube_vis import Dataset, Video
from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.masks.codec import RLE
from stan_jax.media.pictures import natural

IGNORED_CLASS = MOTS_IGNORE // 1000


def start(dataset: Dataset) -> Balance:
    """Return the balance of writing all of a set."""
    balance = Balance()
    balance.read["videos"] = len(dataset.videos)
    for video in dataset.videos:
        balance.read["frames"] += len(video.file_names)
        for track in video.tracks:
            balance.read["tracks"] += 1
            shown = sum(mask is not None for mask in track.segmentations)
            balance.read["masks"] += shown
            if not shown:
                where = f"annotation {track.id}"
                balance.leave("tracks", "show nothing in any frame", where)
    return balance


def places(dataset: Dataset, out: str | Path, ending: str) -> dict[int, Path]:
    """Return the file of each video by its id, in a folder that is made.

    Raises: InputError where one of them is there already.
    """
    names = youtube_vis.unique_names(dataset.videos)
    paths = {number: Path(out) / f"{name}{ending}" for number, name in names.items()}
    for path in paths.values():
        if path.exists():
            raise InputError(path, "", "must not be there already")
    Path(out).mkdir(parents=True, exist_ok=True)
    return paths


def coco(dataset: Dataset, out: str | Path, *, videos: bool) -> Balance:
    """Write a json with an image a frame and an annotation a mask and frame.

    videos: as CocoVID has it, with `videos`, `frame_id` and `instance_id`; else as
    COCO with a `track_id` an annotation, where a folder of images is a video.
    Raises: InputError without `videos` where two videos lie in one folder, or frames
    are not in the order of their names: it could not be told.
    """
    balance, images, rows = start(dataset), [], []
    if not videos:
        _require_folders(dataset)
    for video in dataset.videos:
        first = len(images) + 1
        for t, name in enumerate(video.file_names):
            image: dict[str, Any] = {"id": first + t, "file_name": name}
            image |= {"height": video.height, "width": video.width}
            if videos:
                image |= {"video_id": video.id, "frame_id": t}
            images.append(image)
        for track in video.tracks:
            for t, mask in enumerate(track.segmentations):
                if mask is None:
                    continue
                x1, y1, x2, y2 = track.boxes[t].tolist()
                row = {
                    "id": len(rows) + 1,
                    "image_id": first + t,
                    "category_id": dataset.categories[track.label].id,
                    "segmentation": mask,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": codec.area(mask),
                    "iscrowd": int(track.crowd),
                }
                if videos:
                    row |= {"video_id": video.id, "instance_id": track.id}
                else:
                    row |= {"track_id": track.id, "attributes": {"track_id": track.id}}
                rows.append(row)
    root: dict[str, Any] = {"images": images, "annotations": rows}
    root["categories"] = [category._asdict() for category in dataset.categories]
    if videos:
        root["videos"] = [{"id": v.id, "name": v.name} for v in dataset.videos]
    Path(out).write_text(json.dumps(root))
    return balance


def _require_folders(dataset: Dataset) -> None:
    where = Counter()
    for video in dataset.videos:
        folders = {str(PurePosixPath(name).parent) for name in video.file_names}
        names = [natural(Path(name)) for name in video.file_names]
        for folder in folders:
            where[folder] += 1
        rule = ""
        if len(folders) > 1:
            rule = "frames must lie in one folder: COCO tells videos by it"
        elif any(b <= a for a, b in itertools.pairwise(names)):
            rule = "frames must be in the order of their names: COCO has no other"
        elif where[min(folders)] > 1:
            rule = f"folder {min(folders)} has another video: COCO tells them by it"
        if rule:
            cure = "`stan convert to-cocovid` has videos of its own"
            raise InputError(dataset.path, f"video {video.id}", rule, cure)


def mots_text(dataset: Dataset, out: str | Path) -> Balance:
    """Write a txt a video, as `mots_text.read` reads it.

    Classes are numbered from 1, but for 10, the class of what is ignored. Names of
    videos, frames and classes are lost, and frames before the first mask and after the
    last one.
    Raises: InputError for more than 999 tracks of one class in a video, and where such
    a file is there already.
    """
    balance, paths = start(dataset), places(dataset, out, ".txt")
    free = (n for n in itertools.count(1) if n != IGNORED_CLASS)
    classes = [next(free) for _ in dataset.categories]
    overlapping = 0
    for video in dataset.videos:
        rows, count = [], Counter()
        for track in video.tracks:
            kind = classes[track.label]
            if track.crowd:
                continue
            count[kind] += 1
            if count[kind] > 999:
                rule = "MOTS numbers 999 tracks of a class, the video has more"
                raise InputError(dataset.path, f"video {video.id}", rule)
            rows += [
                (t, kind * 1000 + count[kind], kind, mask)
                for t, mask in enumerate(track.segmentations)
                if mask is not None
            ]
        rows += [
            (t, MOTS_IGNORE, IGNORED_CLASS, mask)
            for t, mask in _ignored(video, balance).items()
        ]
        size = f"{video.height} {video.width}"
        rows.sort(key=lambda row: row[:2])
        overlapping += _overlapping([(row[0], row[3]) for row in rows])
        lines = [
            f"{t} {number} {kind} {size} {mask['counts']}"
            for t, number, kind, mask in rows
        ]
        if not lines:
            balance.leave("videos", "have no mask", f"video {video.id}")
            balance.leave(
                "frames", "have no mask", f"video {video.id}", len(video.file_names)
            )
            continue
        paths[video.id].write_text("\n".join(lines) + "\n")
        first, last = rows[0][0], rows[-1][0]
        if outside := first + len(video.file_names) - 1 - last:
            reason = "are before the first mask or after the last"
            balance.leave("frames", reason, f"video {video.id}", outside)
    crowds = sum(track.crowd for video in dataset.videos for track in video.tracks)
    if crowds:
        balance.notes.append(f"{crowds} crowds have lost their class: all are 10000")
    if overlapping:
        rule = "masks that overlap, which the official evaluation refuses"
        balance.notes.append(f"{overlapping} frames have {rule}")
    named = ",".join(category.name for category in dataset.categories)
    balance.notes.append(f"frames and classes have numbers in it; classes are {named}")
    return balance


def _ignored(video: Video, balance: Balance) -> dict[int, RLE]:
    """Join the crowds of a video, a mask a frame: MOTS has one region to ignore."""
    joined, first = {}, None
    for track in video.tracks:
        if not track.crowd or not any(track.segmentations):
            continue
        where = f"annotation {track.id}"
        if first is not None:
            balance.leave("tracks", "are joined with the first crowd", where)
        first = track if first is None else first
        for t, mask in enumerate(track.segmentations):
            if mask is not None and t in joined:
                reason = "are joined with that of another crowd"
                balance.leave("masks", reason, f"{where}, frame {t}")
            if mask is not None:
                joined[t] = codec.union([joined[t], mask]) if t in joined else mask
    return joined


def _overlapping(masks: list[tuple[int, RLE]]) -> int:
    """Return in how many frames some masks overlap."""
    frames = defaultdict(list)
    for t, mask in masks:
        frames[t].append(mask)
    return sum(
        sum(map(codec.area, some)) > codec.area(codec.union(some))
        for some in frames.values()
    )


def id_images(dataset: Dataset, out: str | Path) -> Balance:
    """Write PNGs as `id_images.davis` reads them, a folder a video.

    Tracks of a video are numbered from 1 in the order of the file; where two overlap
    the later one is seen, so masks may lose pixels, or hide. Frames are numbered where
    their names do not give their order. Classes and crowds are lost.
    Raises: InputError for a video of more than 255 tracks, and for a folder in which
    PNGs lie already.
    """
    balance, names = start(dataset), youtube_vis.unique_names(dataset.videos)
    cut, lost, whole = 0, 0, 0
    for video in dataset.videos:
        if len(video.tracks) > 255:
            rule = f"a PNG holds 255 ids, the video has {len(video.tracks)} tracks"
            raise InputError(dataset.path, f"video {video.id}", rule)
        folder = Path(out) / names[video.id]
        if any(folder.glob("*.png")):
            raise InputError(folder, "", "must be empty, holds PNGs already")
    for video in dataset.videos:
        folder = Path(out) / names[video.id]
        folder.mkdir(parents=True, exist_ok=True)
        seen, stems = [False] * len(video.tracks), _stems(video)
        if stems != [Path(name).stem for name in video.file_names]:
            text = "videos have numbers for frames: names do not give their order"
            balance.tell(text, f"video {video.id}")
        if (named := str(PurePosixPath(video.file_names[0]).parent)) != folder.name:
            text = "videos have the name of their folder in another form"
            balance.tell(text, f"{named} is {folder.name}")
        for t, stem in enumerate(stems):
            ids, given = np.zeros((video.height, video.width), np.uint8), {}
            for i, track in enumerate(video.tracks, start=1):
                if (rle := track.segmentations[t]) is not None:
                    mask = codec.decode(rle)
                    ids[mask], given[i] = i, int(mask.sum())
            image = Image.fromarray(ids)
            image.putpalette(codec.palette())
            image.save(folder / f"{stem}.png")
            left = np.bincount(ids.ravel(), minlength=256)
            for i, area in given.items():
                whole += area
                lost += area - int(left[i])
                cut += 0 < left[i] < area
                seen[i - 1] |= bool(left[i])
                if not left[i]:
                    where = f"annotation {video.tracks[i - 1].id}, frame {t}"
                    balance.leave("masks", "are behind others", where)
        for track, is_seen in zip(video.tracks, seen, strict=True):
            if any(track.segmentations) and not is_seen:
                where = f"annotation {track.id}"
                balance.leave("tracks", "are behind others in every frame", where)
    if cut:
        balance.notes.append(
            f"{cut} masks are partly behind others: {lost:,} of {whole:,} pixels lost"
        )
    if len(dataset.categories) > 1:
        balance.notes.append("classes are lost: a PNG holds the number of an object")
    if crowds := sum(track.crowd for v in dataset.videos for track in v.tracks):
        balance.notes.append(f"{crowds} crowds are objects like others in it")
    return balance


def _stems(video: Video) -> list[str]:
    """Names of the PNGs: of the frames, or numbers where those give no order."""
    stems = [Path(name).stem for name in video.file_names]
    keys = [natural(Path(stem)) for stem in stems]
    if any(b <= a for a, b in itertools.pairwise(keys)):
        stems = [f"{t:05}" for t in range(len(stems))]
    return stems
