"""YouTube-VIS folders: the json is checked once, frames are read on demand.

All sets in this format are read alike (YouTube-VIS 2019/2021/2022, OVIS, exports of
one's own): classes come from the file, ids need not be contiguous, and a file without
`annotations` (val, test) is a set of videos without objects.
"""

import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from stan_jax import json_stream
from stan_jax.annotations import rules
from stan_jax.errors import InputError
from stan_jax.masks import codec, segmentations
from stan_jax.masks.segmentations import RLE
from stan_jax.media import pictures

_TAILS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # how a whole file ends

_BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile)  # as it is unpacked

# What pillow raises for a broken image, depending on the format and the place.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Category(NamedTuple):
    """A class as the file names it; `id` is the file's own, not the label 0..k-1."""

    id: int
    name: str


class Track(NamedTuple):
    """One object through one video; it is in view where its segmentation is not None.

    A segmentation that is given holds at least one pixel: an empty one counts as None.
    """

    id: int
    label: int  # 0..k-1, rank of the category's id
    crowd: bool  # a group; neither trained on nor counted against a prediction
    segmentations: tuple[RLE | None, ...]  # one for each frame
    boxes: Float32[np.ndarray, "t 4"]  # tight box of the mask, xyxy; 0 where None


class Video(NamedTuple):
    """The frames of one video, in order, and its tracks."""

    id: int
    file_names: tuple[str, ...]  # relative to the folder of the frames
    height: int
    width: int
    tracks: tuple[Track, ...]

    @property
    def name(self) -> str:
        """Folder of the frames, fit to be the name of a file."""
        parts = PurePosixPath(self.file_names[0]).parent.parts
        # Never a way out of the folder that such a file is written to.
        return (
            "-".join(part for part in parts if part not in ("/", ".."))
            or f"video-{self.id}"
        )


class Dataset(NamedTuple):
    """A json and the folder that its `file_names` are relative to."""

    path: Path
    frames_dir: Path
    categories: tuple[Category, ...]  # by id: label i is categories[i]
    videos: tuple[Video, ...]  # in the order of the file
    annotated: bool  # false: the file has no objects to learn from or to score
    # Bytes of frame t where frames are no files (`tfds_youtube_vis`), else None.
    stored: Callable[[Video, int], bytes] | None = None
    # Frames are turned as their EXIF orientation says; false: annotated as stored.
    upright: bool = True


def load(
    annotations: str | Path, frames_dir: str | Path, *, upright: bool = True
) -> Dataset:
    """Read a json (or .json.gz) in YouTube-VIS format; images are not touched.

    upright: of the frames, see `Dataset`.
    Raises: InputError for the first record that breaks a rule of the format.
    Source: masktrack_spec 12.1. Presence is what `segmentations` says, boxes are
    computed from it; `bboxes` and `areas` of the file are not used.
    """
    path = Path(annotations)
    return of_json(path, read_json(path), frames_dir, upright=upright)


def of_json(
    path: Path, root: dict, frames_dir: str | Path, *, upright: bool = True
) -> Dataset:
    """Return the set that the content of a json describes; `load` says more."""
    if "images" in root and not _names_frames(root):
        rule = "has annotations by image, as CocoVID or COCO: `stan convert` it first"
        raise InputError(path, "", rule)
    categories = _categories(path, root)
    videos = _videos(path, root)
    annotated = root.get("annotations") is not None
    if annotated:
        videos = _with_tracks(path, root, categories, videos)
    return Dataset(
        path,
        Path(frames_dir),
        categories,
        tuple(videos.values()),
        annotated,
        upright=upright,
    )


def check_frames(dataset: Dataset, *, num_threads: int = 8) -> None:
    """Open the header of every frame, so that a long run cannot fail on one later.

    Stored frames were checked before they were stored.
    Raises: InputError for the first frame in file order that is missing, empty, no
    image, cut short, or of another size than its video.
    """
    if dataset.stored is not None:
        return
    if not dataset.frames_dir.is_dir():
        raise InputError(dataset.frames_dir, "", "folder of the frames must exist")
    jobs = [(v, t) for v in dataset.videos for t in range(len(v.file_names))]
    with ThreadPoolExecutor(num_threads) as pool:
        # map yields in order; leaving it by an exception cancels what has not begun.
        for _ in pool.map(lambda job: _check_frame(dataset, *job), jobs):
            pass


def unique_names(videos: Sequence[Video]) -> dict[int, str]:
    """A name for the files of each video, by id; never the same twice."""
    names = {video.id: video.name for video in videos}
    often = Counter(names.values())
    for number, name in names.items():
        if often[name] > 1:
            while often[name]:
                name = f"{name}-{number}"
            often[name] += 1
            names[number] = name
    return names


def check_file(path: Path, record: str) -> None:
    """Raise InputError unless a frame is there; its pixels are not looked at.

    Raises: InputError where it is absent or empty.
    """
    try:
        empty = not path.is_file() or not path.stat().st_size
    except (OSError, ValueError) as error:  # a name that no file can have
        raise InputError(path, record, f"file must exist: {error}") from None
    if empty:
        rule = "must not be an empty file" if path.is_file() else "file must exist"
        raise InputError(path, record, rule)


def read_frame(
    dataset: Dataset, video: Video, t: int, *, max_hw: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode frame t as RGB, upright unless the set was annotated as stored.

    max_hw: size that will be enough. A JPEG at least twice as large is decoded at a
    half, quarter or eighth of its size, never below max_hw, in a fraction of the time.
    Raises: InputError for a frame that is missing, no image, cut short, of pixels that
    have no scale, or of another size than the video says.
    """
    with _open(dataset, video, t) as image:
        if max_hw is not None:
            turned = dataset.upright and pictures.orientation(image) > 4
            image.draft("RGB", max_hw if turned else (max_hw[1], max_hw[0]))
        try:
            return pictures.rgb(image, upright=dataset.upright)
        except _UNREADABLE as error:
            raise _broken(
                dataset, video, t, f"must be a whole image: {error}"
            ) from None


def mask(segmentation: RLE, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Decode a segmentation of a loaded track (which fits height x width)."""
    decoded = codec.decode(segmentation)
    assert decoded.shape == (height, width)
    return decoded


def _check_frame(dataset: Dataset, video: Video, t: int) -> None:
    with _open(dataset, video, t) as image:
        tail = _TAILS.get(image.format or "")
    with _path(dataset, video, t).open("rb") as file:
        file.seek(-8, 2)
        whole = tail is not None and file.read().endswith(tail)
    if not whole:
        # Bytes after the end of an image are harmless: let the decoder judge.
        read_frame(dataset, video, t)


def _open(dataset: Dataset, video: Video, t: int) -> Image.Image:
    path, stored = _path(dataset, video, t), dataset.stored
    try:
        image = Image.open(path if stored is None else io.BytesIO(stored(video, t)))
    except FileNotFoundError:
        raise _broken(dataset, video, t, "file must exist") from None
    except _UNREADABLE as error:
        empty = path.is_file() and path.stat().st_size == 0
        rule = (
            "must not be an empty file" if empty else f"must be a whole image: {error}"
        )
        raise _broken(dataset, video, t, rule) from None
    tag, want = pictures.orientation(image), (video.width, video.height)
    turned = image.size[::-1] if tag > 4 else image.size
    if (turned if dataset.upright else image.size) != want:
        stored = image.size
        image.close()
        width, height = stored if tag < 5 else turned
        rule = (
            f"must be {video.height} x {video.width} (height x width) as"
            f" {dataset.path} says, is {height} x {width}"
        )
        cure = ""
        if tag > 4:
            rule += f" once EXIF orientation {tag} has turned it upright"
            if (stored if dataset.upright else turned) == want:
                kind = "stored" if dataset.upright else "upright"
                switch = "--as-stored, in a config data.upright=False"
                if not dataset.upright:
                    switch = "it without --as-stored"
                cure = f"where the masks fit it as {kind}, say {switch}"
        raise _broken(dataset, video, t, rule, cure)
    return image


def _path(dataset: Dataset, video: Video, t: int) -> Path:
    return dataset.frames_dir / video.file_names[t]


def orientation(dataset: Dataset, video: Video, t: int) -> int:
    """Return the EXIF orientation of frame t, see `pictures.orientation`.

    Raises: InputError as `read_frame`, for what the head of the file tells.
    """
    with _open(dataset, video, t) as image:
        return pictures.orientation(image)


def holds_ids(dataset: Dataset, video: Video, t: int) -> bool:
    """Return whether frame t seems to be an id mask, see `pictures.holds_ids`.

    Raises: InputError as `read_frame`, for what the head of the file tells.
    """
    with _open(dataset, video, t) as image:
        return pictures.holds_ids(image)


def _broken(
    dataset: Dataset, video: Video, t: int, rule: str, cure: str = ""
) -> InputError:
    where = f"video {video.id}, frame {t}"
    return InputError(_path(dataset, video, t), where, rule, cure)


def read_json(path: Path) -> dict:
    """Return the content of a json (or .json.gz), lists of runs as arrays.

    Raises: InputError where it cannot be read or is no object.
    """
    # Lists of runs as arrays take a fifth of the memory of a large set.
    return read_plain(path, segmentations.pack_counts)


def read_plain(
    path: Path, hook: Callable[[dict], Any] | None = None, *, meta: bool = False
) -> dict:
    """Return the object of a json (or .json.gz) as it stands there, but for a hook.

    meta: it may be a meta.json of YouTube-VOS.
    """
    root = read_any(path, hook)
    if not isinstance(root, dict):
        rule = f"must hold an object, holds a {rules.kind(root)}"
        raise InputError(path, "", rule, json_stream.instead(root))
    if not meta and rules.is_meta(root.get("videos")):
        raise InputError(path, "", *rules.META)
    return root


def read_any(path: Path, hook: Callable[[dict], Any] | None = None) -> Any:
    """Return what a json (or .json.gz) holds. Raises: InputError where it is none."""
    try:
        with json_stream.open_text(path) as file:
            text = file.read().removeprefix("\ufeff")
        return json.loads(text, object_hook=hook)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(path, where, f"must be json: {error.msg}") from None
    except FileNotFoundError:
        raise InputError(path, "", "must be a readable json file, is absent") from None
    except (*_BROKEN, ValueError, RecursionError) as error:
        raise InputError(path, "", f"must be a readable json file: {error}") from None


def _names_frames(root: dict) -> bool:
    videos = root.get("videos")
    return isinstance(videos, list) and any(
        isinstance(video, dict) and "file_names" in video for video in videos
    )


def _categories(path: Path, root: dict) -> tuple[Category, ...]:
    found = [
        Category(row["id"], row["name"]) for row in records(path, root, "categories")
    ]
    return tuple(sorted(found))


def _videos(path: Path, root: dict) -> dict[int, Video]:
    found = {}
    for row in records(path, root, "videos"):
        names = tuple(map(rules.posix, row["file_names"]))
        found[row["id"]] = Video(row["id"], names, row["height"], row["width"], ())
    rules.require("videos", len(found), file=path, where="videos")
    return found


def _with_tracks(
    path: Path, root: dict, categories: tuple[Category, ...], videos: dict[int, Video]
) -> dict[int, Video]:
    label_of = {c.id: label for label, c in enumerate(categories)}
    sizes = {
        i: rules.Size(v.height, v.width, len(v.file_names)) for i, v in videos.items()
    }
    tracks: dict[int, list[Track]] = {number: [] for number in videos}
    known = rules.Known(sizes, label_of)
    for row in records(path, root, "annotations"):
        masks = masks_of(path, f"annotation {row['id']}", row, known)
        tracks[row["video_id"]].append(
            Track(
                id=row["id"],
                label=label_of[row["category_id"]],
                crowd=bool(row.get("iscrowd")),
                segmentations=masks,
                boxes=codec.tight_boxes(masks),
            )
        )
    return {i: v._replace(tracks=tuple(tracks[i])) for i, v in videos.items()}


def masks_of(
    path: Path, where: str, row: dict, known: rules.Known
) -> tuple[RLE | None, ...]:
    """Return the masks of an annotation whose rules all hold, but for its own id.

    Raises: InputError for the first one that it breaks.
    """
    for record in ("belongs", "track"):
        rules.require(record, row, known, file=path, where=where)
    for record, key in (("area", "areas"), ("box", "bboxes")):
        rules.require_each(record, row.get(key) or (), file=path, where=where)
    size = known.size(row)
    assert size is not None
    return tuple(rules.masks(row["segmentations"], size, file=path, where=where))


def records(path: Path, root: dict, key: str) -> Iterator[dict]:
    """Yield the records of a list, each after its own rules hold; ids stand once.

    Raises: InputError for the first record that breaks one.
    """
    seen = set()
    for i, row in enumerate(list_of(path, root, key)):
        where = rules.place(key, i, row)
        rules.require(rules.NAMES[key], row, file=path, where=where)
        if key == "videos":
            rules.require("size", row, file=path, where=where)
            rules.require_each("file name", row["file_names"], file=path, where=where)
        if row["id"] in seen:
            raise InputError(path, where, *rules.twice(key, i, row))
        seen.add(row["id"])
        yield row


def list_of(path: Path, root: dict, key: str) -> list[dict]:
    """Return a list of objects of a file; annotations may be null or absent.

    Raises: InputError where it is none.
    """
    rows = root.get(key, rules.ABSENT)
    rules.require("list", (key, rows), file=path, where="")
    if rows is None or rows is rules.ABSENT:
        return []
    for i, row in enumerate(rows):
        rules.require("entry", row, file=path, where=rules.place(key, i, row))
    return rows
