"""Other formats become the official one, and back: id-mask images, CocoVID, COCO.

The official format has one annotation a track, with a mask or null for each frame.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from pycocotools import mask as coco_mask

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.masks import codec, segmentations
from stan_jax.masks.codec import RLE
from stan_jax.media.pictures import is_image, natural

LABELS = "labels.txt"  # CVAT's: the name of class 1, 2, ... a line
MOST_FRAMES = 100_000  # of a video: an hour at 25 a second has 90,000
VOID = 255  # DAVIS 2017: pixels that are nobody's
MOTS_IGNORE = 10_000  # a region that counts for nobody: class 10, a crowd


class Balance:
    """What a conversion has left out, by reason: how often, and one example."""

    def __init__(self):
        self.left: dict[str, list] = {}
        self.notes: list[str] = []  # what else one should know

    def leave(self, reason: str, example: str) -> None:
        """Count one record that is left out."""
        self.left.setdefault(reason, [0, example])[0] += 1

    def lines(self) -> list[str]:
        """Return a line for each reason."""
        left = [
            f"warning: {number:,} {reason}, e.g. {example}: left out"
            for reason, (number, example) in self.left.items()
        ]
        return left + [f"note: {note}" for note in self.notes]


BOXES = "annotations have no mask, a box alone"


def _official(videos: list, categories: list, tracks: list[dict]) -> dict[str, Any]:
    """The file of tracks with `video_id`, `category_id` and `segmentations`."""
    annotations = []
    for number, track in enumerate(tracks, start=1):
        shown = [s for s in track["segmentations"] if s]
        boxes, areas = iter(()), iter(())
        if shown:
            boxes = iter(coco_mask.toBbox(shown).tolist())
            # One by one: pycocotools counts no more than 255 of them under numpy 2.
            areas = iter([codec.area(s) for s in shown])
        annotations.append(
            {
                "id": number,
                "iscrowd": 0,
                **track,
                "bboxes": [next(boxes) if s else None for s in track["segmentations"]],
                "areas": [next(areas) if s else None for s in track["segmentations"]],
            }
        )
    return {"videos": videos, "categories": categories, "annotations": annotations}


def _video(number: int, names: list[str], size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    sizes = {"height": height, "width": width, "length": len(names)}
    return {"id": number, "file_names": names, **sizes}


def from_id_images(
    folder: str | Path,
    *,
    mots: bool = False,
    suffix: str = ".jpg",
    classes: Sequence[str] = (),
    balance: Balance | None = None,
) -> dict[str, Any]:
    """Folders of PNGs whose pixels are ids, a folder a video, a PNG a frame.

    mots: 16-bit ids of class x 1000 + number, 10000 is ignored (MOTS); else a pixel is
    the number of its object, 0 is background, 255 beside others nobody's (void); all
    are of one class (DAVIS), or of those in a meta.json above them (YouTube-VOS).
    suffix: of the frames that belong to them, in folders of the same names; where
    `instances` lies beside `images`, as CVAT has it, frames are those of `images`.
    classes: names of class 1, 2, ...; else those of a labels.txt beside the PNGs.
    The folders may lie deeper, if all in one place; a folder of PNGs is one video.
    Raises: InputError for an image that is no id mask or has another size, and where
    most ids have no inside: greys of a mask that was resized.
    """
    balance = balance or Balance()
    videos, tracks, kinds = [], [], set()
    folders = _id_folders(Path(folder))
    meta = {} if mots else _meta(folders[0][0])
    named = sorted({name for objects in meta.values() for name in objects.values()})
    for place, files in folders:
        number, size, masks = len(videos) + 1, None, {}
        inside: set[int] = set()
        for t, file in enumerate(files):
            ids = _ids(file, mots)
            if size not in (None, ids.shape):
                rule = f"must be {size} (height, width) as the others, is {ids.shape}"
                raise InputError(file, f"video {place.name}, frame {t}", rule)
            size = ids.shape
            for value in np.unique(ids[ids > 0]).tolist():
                absent: list = [None] * len(files)
                masks.setdefault(value, absent)[t] = codec.encode(ids == value)
            inside |= _with_inside(ids)
        if len(masks) >= 8 and len(masks) > 2 * len(inside & set(masks)):
            rims = len(set(masks) - inside)
            rule = (
                f"holds {len(masks)} ids, {rims} of which only rim others: are they the"
                " greys of a resized mask? resize without smoothing (nearest)"
            )
            raise InputError(place, f"video {place.name}", rule)
        if not mots and VOID in masks and len(masks) > 1:
            example = f"{place.name}/{files[0].name}"
            balance.leave(f"videos have a void label, {VOID}, beside objects", example)
            del masks[VOID]
        names = _frames_of(place, files, suffix)
        videos.append(_video(number, names, size or (0, 0)))
        for value, found in sorted(masks.items()):
            crowd = mots and value == MOTS_IGNORE
            kind = (1 if crowd else value // 1000) if mots else 1
            if meta:
                name = meta.get(place.name, {}).get(value)
                if name is None:
                    where = f"object {value} of video {place.name}"
                    balance.leave("objects are not in the meta.json", where)
                    continue
                kind = named.index(name) + 1
            kinds.add(kind)
            row = {"video_id": number, "category_id": kind, "iscrowd": int(crowd)}
            tracks.append({**row, "segmentations": found})
    names = classes or named or (_labels(folders[0][0]) if mots else ["object"])
    return _official(videos, _named(kinds, names, balance), tracks)


def from_mots_txt(
    source: str | Path,
    *,
    suffix: str = ".jpg",
    classes: Sequence[str] = (),
    balance: Balance | None = None,
) -> dict[str, Any]:
    """MOTS as text: a file a video, a mask a line.

    A line is frame, id, class, height, width and a compressed RLE, by spaces; id 10000
    is an ignored region, a crowd. Frames without a line are frames all the same.

    Args:
      source: a txt, or a folder of them.
      suffix, classes: as of `from_id_images`; frame n is <video>/<n, six digits>.
    Raises: InputError for a line that is none.
    """
    balance, source = balance or Balance(), Path(source)
    files = [source] if source.is_file() else sorted(source.glob("*.txt"), key=natural)
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise InputError(source, "", "must be a txt of MOTS, or a folder of them")
    videos, tracks, kinds = [], [], set()
    for number, file in enumerate(files, start=1):
        rows = list(_mots_lines(file))
        if not rows:
            raise InputError(file, "", "must hold at least one line")
        times = [row[0] for row in rows]
        first, length = min(times), max(times) - min(times) + 1
        if first < 0 or length > MOST_FRAMES:
            rule = (
                f"frames must lie within {MOST_FRAMES:,}, are {first} to {max(times)}"
            )
            raise InputError(file, "", rule)
        size = rows[0][3]
        names = [f"{file.stem}/{first + t:06}{suffix}" for t in range(length)]
        videos.append(_video(number, names, size))
        found: dict[tuple, list] = {}
        for n, (time, instance, kind, its, rle) in enumerate(rows, start=1):
            if its != size:
                rule = f"must have the size of the others, {size}, has {its}"
                raise InputError(file, f"mask {n}", rule)
            absent: list = [None] * length
            masks = found.setdefault((instance, kind), absent)
            if masks[time - first] is not None and instance != MOTS_IGNORE:
                rule = f"object {instance} has two masks in frame {time}"
                raise InputError(file, f"mask {n}", rule)
            masks[time - first] = rle
        for (instance, kind), masks in sorted(found.items()):
            crowd = instance == MOTS_IGNORE
            kinds.add(kind := 1 if crowd else kind)
            row = {"video_id": number, "category_id": kind, "iscrowd": int(crowd)}
            tracks.append({**row, "segmentations": masks})
    return _official(videos, _named(kinds, classes, balance), tracks)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(file, "", f"must be a readable text: {error}") from None


def _mots_lines(file: Path):
    """Frame, id, class, size and mask of each line."""
    for n, line in enumerate(_lines(file), start=1):
        if not (parts := line.split()):
            continue
        try:
            time, instance, kind, height, width = map(int, parts[:5])
            (counts,) = parts[5:]
            mask = {"size": [height, width], "counts": counts}
            rle = segmentations.compress(mask, height, width)
        except ValueError as error:
            rule = f"must be frame, id, class, height, width, RLE: {error}"
            raise InputError(file, f"line {n}", rule) from None
        yield time, instance, kind, (height, width), rle


def _named(kinds: set[int], names: Sequence[str], balance: Balance) -> list[dict]:
    """Categories of MOTS; a note where they have no names."""
    if not names:
        given = ", ".join(f"class {c}" for c in sorted(kinds))
        balance.notes.append(
            f"MOTS does not name classes: they are {given}; --classes NAME,NAME names"
            " them (car,pedestrian in KITTI MOTS and MOTSChallenge)"
        )
    return [
        {"id": c, "name": names[c - 1] if 0 < c <= len(names) else f"class {c}"}
        for c in sorted(kinds)
    ]


def _id_folders(folder: Path) -> list[tuple[Path, list[Path]]]:
    """The folders that hold PNGs, and those, in the order people count in.

    Raises: InputError where there are none, or where they lie in several places.
    """
    if not folder.is_dir():
        raise InputError(folder, "", "must be a folder of folders of PNGs")
    found = defaultdict(list)
    for file in folder.rglob("*"):
        hidden = any(x.startswith(".") for x in file.relative_to(folder).parts)
        if file.suffix.lower() == ".png" and file.is_file() and not hidden:
            found[file.parent].append(file)
    for place in [x for x in found if x.name == "images"]:
        if place.with_name("instances") in found:  # the frames, as CVAT has them
            del found[place]
    places = {place.parent for place in found}
    if not found:
        rule = "must hold folders of PNGs, holds none, at any depth"
        raise InputError(folder, "", rule)
    if len(places) > 1:
        some = ", ".join(str(place.relative_to(folder)) for place in sorted(found)[:4])
        rule = f"holds PNGs in several places ({some}): name the folder of one of them"
        raise InputError(folder, "", rule)
    return [
        (place, sorted(found[place], key=natural))
        for place in sorted(found, key=natural)
    ]


def _frames_of(place: Path, files: list[Path], suffix: str) -> list[str]:
    """Names of the frames that id masks belong to."""
    images = place.parent / "images"
    if place.name != "instances" or not images.is_dir():
        return [f"{place.name}/{file.stem}{suffix}" for file in files]
    there = {path.stem: path.name for path in images.iterdir() if is_image(path)}
    for file in files:
        if file.stem not in there:
            raise InputError(file, "", f"its frame must lie in {images}, does not")
    return [f"images/{there[file.stem]}" for file in files]


def _meta(place: Path) -> dict[str, dict[int, str]]:
    """Classes of the objects of each video, of a meta.json of YouTube-VOS, if any."""
    for folder in place.parents[:3]:
        if not (file := folder / "meta.json").is_file():
            continue
        root = youtube_vis.read_plain(file, meta=True)
        try:
            return {
                video: {int(n): str(x["category"]) for n, x in row["objects"].items()}
                for video, row in root["videos"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            rule = f"must give each object of each video a category: {error}"
            raise InputError(file, "videos", rule) from None
    return {}


def _labels(place: Path) -> list[str]:
    """Names of classes that lie beside the PNGs, if any do."""
    for folder in (place, place.parent):
        if (file := folder / LABELS).is_file():
            return [line.strip() for line in _lines(file) if line.strip()]
    return []


def _with_inside(ids: Int[np.ndarray, "h w"]) -> set[int]:
    """Ids that have a pixel whose four neighbours are of the same object."""
    middle = ids[1:-1, 1:-1]
    same = (middle == ids[:-2, 1:-1]) & (middle == ids[2:, 1:-1])
    same &= (middle == ids[1:-1, :-2]) & (middle == ids[1:-1, 2:])
    return set(np.unique(middle[same]).tolist())


def _ids(file: Path, mots: bool) -> Int[np.ndarray, "h w"]:
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(file, "", f"must be a whole image: {error}") from None
    if pixels.ndim != 2:
        rule = "must have one channel of ids (palette or grey), not colours"
        raise InputError(file, "", rule)
    if mots and pixels.dtype == np.uint8 and pixels.max(initial=0) > 0:
        raise InputError(file, "", "must have 16 bits a pixel, as MOTS has")
    return pixels.astype(np.int64)


def to_id_images(annotations: str | Path, out: str | Path) -> tuple[int, int]:
    """Write PNGs as `from_id_images` reads them; how many, and how many tracks hide.

    Tracks of a video are numbered from 1 in the order of the file; where two overlap
    the later one is seen, and a track may be hidden behind others everywhere. Frames
    are numbered where their names do not give their order.
    Raises: InputError as `youtube_vis.load`, for a video of more than 255 tracks, and
    for a folder in which PNGs lie already.
    """
    dataset, number, hidden = youtube_vis.load(annotations, "."), 0, 0
    names = youtube_vis.unique_names(dataset.videos)
    for video in dataset.videos:
        if len(video.tracks) > 255:
            rule = f"a PNG holds 255 ids, the video has {len(video.tracks)} tracks"
            raise InputError(annotations, f"video {video.id}", rule)
        folder = Path(out) / names[video.id]
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.png")):
            raise InputError(folder, "", "must be empty, holds PNGs already")
        stems = [Path(name).stem for name in video.file_names]
        keys = [natural(Path(stem)) for stem in stems]
        if any(b <= a for a, b in itertools.pairwise(keys)):
            stems = [f"{t:05}" for t in range(len(stems))]
        seen: set[int] = set()
        for t, stem in enumerate(stems):
            ids = np.zeros((video.height, video.width), np.uint8)
            for i, track in enumerate(video.tracks, start=1):
                if (rle := track.segmentations[t]) is not None:
                    ids[codec.decode(rle)] = i
            image = Image.fromarray(ids)
            image.putpalette(codec.palette())
            image.save(folder / f"{stem}.png")
            seen.update(np.unique(ids).tolist())
            number += 1
        shown = {
            i
            for i, track in enumerate(video.tracks, start=1)
            if any(track.segmentations)
        }
        hidden += len(shown - seen)
    return number, hidden


def from_cocovid(
    root: dict, file: str | Path = "annotations", balance: Balance | None = None
) -> dict[str, Any]:
    """CocoVID (mmtracking): images with `video_id` and `frame_id`, one mask each.

    Tracks are told apart by `instance_id` or `track_id` within a video, which may stand
    among the `attributes`, as CVAT has it; masks of one track in one image are pieces
    of it. Where no videos are listed each folder of the images is one.
    Raises: InputError for a record that lacks what it needs, and where no annotation
    has a mask.
    """
    balance = balance or Balance()
    if "videos" not in root:
        root = _by_folder(root, file)
    frames, seen = defaultdict(list), set()
    for i, image in enumerate(_list(root, "images", file)):
        for key in ("id", "video_id", "frame_id", "file_name", "height", "width"):
            _need(image, key, file, f"images[{i}]")
        try:
            image = image | {"frame_id": int(str(image["frame_id"]))}
        except ValueError:
            rule = f"frame_id must be numbers, is {image['frame_id']!r:.40}"
            raise InputError(file, f"images[{i}]", rule) from None
        if image["id"] in seen:
            rule = f"id {image['id']} must be that of one image in the whole file"
            raise InputError(file, f"images[{i}]", rule)
        seen.add(image["id"])
        frames[image["video_id"]].append(image)
    videos, place, sizes = [], {}, {}
    for i, video in enumerate(_list(root, "videos", file)):
        number = _need(video, "id", file, f"videos[{i}]")
        shown = sorted(frames[number], key=lambda image: image["frame_id"])
        if not shown:
            raise InputError(file, f"video {number}", "must have images, has none")
        sizes[number] = _size(shown[0], file, f"video {number}")
        for a, b in itertools.pairwise(shown):
            if a["frame_id"] == b["frame_id"]:
                rule = f"frame_id {a['frame_id']} must be that of one image"
                raise InputError(file, f"video {number}", rule)
            if _size(b, file, f"video {number}") != sizes[number]:
                rule = f"{b['file_name']} must have the size of the first frame"
                raise InputError(file, f"video {number}", rule)
        names = [image["file_name"] for image in shown]
        videos.append(_video(number, names, sizes[number]))
        place |= {image["id"]: (number, t) for t, image in enumerate(shown)}
    length = {video["id"]: len(video["file_names"]) for video in videos}
    tracks: dict[tuple, dict] = {}
    for i, row in enumerate(_with_masks(root, file)):
        where = f"annotations[{i}]"
        image = _need(row, "image_id", file, where)
        instance = track_of(row)
        if instance is None:
            rule = "must have 'instance_id' or 'track_id', a number or a text"
            raise InputError(file, where, rule)
        if image not in place:
            rule = f"image_id {image!r} is not among the images of the listed videos"
            raise InputError(file, where, rule)
        number, t = place[image]
        category = _need(row, "category_id", file, where)
        absent: list = [None] * length[number]
        track = tracks.setdefault(
            (number, instance),
            {
                "video_id": number,
                "category_id": category,
                "iscrowd": int(bool(row.get("iscrowd", 0))),
                "segmentations": absent,
            },
        )
        if track["category_id"] != category:
            rule = (
                f"instance {instance} is of category {track['category_id']} elsewhere"
            )
            raise InputError(file, where, f"{rule}, here of {category}")
        track["iscrowd"] |= int(bool(row.get("iscrowd", 0)))
        if (mask := _mask(row, sizes[number], file, where)) is None:
            balance.leave(BOXES, where)
            continue
        if before := track["segmentations"][t]:
            mask = codec.encode(codec.decode(before) | codec.decode(mask))
        track["segmentations"][t] = mask
    shown = [track for track in tracks.values() if any(track["segmentations"])]
    return _official(videos, _list(root, "categories", file), shown)


def track_of(row: dict) -> Any:
    """Return what tells the track of an annotation apart, if anything does."""
    attributes = row.get("attributes")
    places = (row, attributes if isinstance(attributes, dict) else {})
    for key in ("instance_id", "track_id"):
        for place in places:
            if isinstance(place.get(key), str | int | float):
                return place[key]
    return None


def _by_folder(root: dict, file: str | Path) -> dict:
    """Return the file with a video for each folder of its images, in their order."""
    folders = defaultdict(list)
    for i, image in enumerate(_list(root, "images", file)):
        name = str(_need(image, "file_name", file, f"images[{i}]"))
        folders[Path(youtube_vis.posix(name)).parent].append(
            (natural(Path(name)), image)
        )
    videos, images = [], []
    for number, (folder, found) in enumerate(sorted(folders.items()), start=1):
        videos.append({"id": number, "name": str(folder)})
        found = [image for _, image in sorted(found, key=lambda x: x[0])]
        images += [
            image | {"video_id": number, "frame_id": t} for t, image in enumerate(found)
        ]
    return root | {"videos": videos, "images": images}


def _with_masks(root: dict, file: str | Path) -> list[dict]:
    """The annotations. Raises: InputError where there are some, and not one mask."""
    rows = _list(root, "annotations", file)
    if rows and not any(row.get("segmentation") for row in rows):
        rule = f"none of {len(rows)} has a mask: boxes alone cannot be converted"
        raise InputError(file, "annotations", rule)
    return rows


def from_stills(
    root: dict, file: str | Path = "annotations", balance: Balance | None = None
) -> dict[str, Any]:
    """COCO images as they are: every image a video of one frame.

    Raises: InputError for a record that lacks what it needs.
    """
    balance = balance or Balance()
    videos, tracks = {}, []
    for i, image in enumerate(_list(root, "images", file)):
        where = f"images[{i}]"
        number, name = (_need(image, k, file, where) for k in ("id", "file_name"))
        if number in videos:
            raise InputError(file, where, f"id {number} must be that of one image")
        videos[number] = _video(number, [name], _size(image, file, where))
    for i, row in enumerate(_with_masks(root, file)):
        where = f"annotations[{i}]"
        number = _need(row, "image_id", file, where)
        if number not in videos:
            raise InputError(
                file, where, f"image_id {number!r} is not among the images"
            )
        size = videos[number]["height"], videos[number]["width"]
        if (mask := _mask(row, size, file, where)) is None:
            balance.leave(BOXES, where)
            continue
        tracks.append(
            {
                "video_id": number,
                "category_id": _need(row, "category_id", file, where),
                "iscrowd": int(bool(row.get("iscrowd", 0))),
                "segmentations": [mask],
            }
        )
    return _official(list(videos.values()), _list(root, "categories", file), tracks)


def _size(row: dict, file, where: str) -> tuple[int, int]:
    height, width = row.get("height"), row.get("width")
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or side < 1:
            rule = "height and width must be whole numbers from 1 up, one is"
            raise InputError(file, where, f"{rule} {side!r:.40}")
    assert isinstance(height, int)
    assert isinstance(width, int)
    return height, width


def _mask(row: dict, size: tuple, file, where: str) -> RLE | None:
    try:
        return segmentations.compress(row.get("segmentation"), *size)
    except (ValueError, TypeError) as error:
        raise InputError(file, where, f"segmentation: {error}") from None


def _shown(mask: Bool[np.ndarray, "h w"]) -> RLE | None:
    return codec.encode(mask) if mask.any() else None


def _list(root: dict, key: str, file) -> list[dict]:
    rows = root.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(file, key, "must be a list of objects")
    return rows


def _need(row: dict, key: str, file, where: str) -> Any:
    if not isinstance(row.get(key), str | int | float):
        raise InputError(file, where, f"must have '{key}', a number or a text")
    return row[key]


def from_images(
    root: dict,
    images: str | Path,
    out: str | Path,
    *,
    length: int = 8,
    seed: int = 0,
    file: str | Path = "annotations",
    balance: Balance | None = None,
    watch: Callable[[int], None] = lambda number: None,
) -> dict[str, Any]:
    """Turn COCO images into pseudo-videos: a window glides over the still image.

    The window turns and zooms smoothly and never leaves the image; masks go through the
    same map as the pixels. The frames are written as JPEGs under `out`.

    Args:
      length: frames of each video.
      seed: of the paths; with it all is the same each time.
      watch: called with the number of images done.
    Raises: InputError for a broken record or image, before anything is written, and for
    a file with tracks, whose images are the frames of a video.
    """
    balance = balance or Balance()
    rows = _with_masks(root, file)
    tracked = [i for i, row in enumerate(rows) if track_of(row) is not None]
    if tracked:
        rule = "has a track_id: the images are frames of a video"
        cure = "`stan convert cocovid` takes it"
        raise InputError(file, f"annotations[{tracked[0]}]", rule, cure)
    listed = [image.get("id") for image in _list(root, "images", file)]
    for number, often in Counter(listed).items():
        if often > 1:
            raise InputError(file, f"image {number}", "its id must be used only once")
    by_image = defaultdict(list)
    for i, row in enumerate(rows):
        number = _need(row, "image_id", file, f"annotations[{i}]")
        if number not in listed:
            rule = f"image_id {number!r} is not among the images"
            raise InputError(file, f"annotations[{i}]", rule)
        by_image[number].append((i, row))
    videos, tracks = [], []
    for i, entry in enumerate(_list(root, "images", file)):
        name = str(_need(entry, "file_name", file, f"images[{i}]"))
        pixels = _picture(Path(images) / name)
        size = pixels.height, pixels.width
        if _size(entry, file, f"images[{i}]") != size:
            rule = f"must have the size of its file, {size} (height, width)"
            raise InputError(file, f"images[{i}]", rule)
        rng = np.random.default_rng([seed, i])
        path = glide(size, length, rng)
        folder = Path(out) / f"{i + 1:06}"
        folder.mkdir(parents=True, exist_ok=True)
        for t, step in enumerate(path):
            warp(pixels, step).save(folder / f"{t:05}.jpg", quality=95)
        names = [f"{folder.name}/{t:05}.jpg" for t in range(length)]
        videos.append(_video(i + 1, names, size))
        for k, row in by_image[_need(entry, "id", file, f"images[{i}]")]:
            where = f"annotations[{k}]"
            if (rle := _mask(row, size, file, where)) is None:
                balance.leave(BOXES, where)
                continue
            mask = codec.decode(rle)
            masks = [_shown(warp_mask(mask, step)) for step in path]
            if not any(masks):
                balance.leave("annotations lie where the clip never looks", where)
                continue
            tracks.append(
                {
                    "video_id": i + 1,
                    "category_id": _need(row, "category_id", file, where),
                    "iscrowd": int(bool(row.get("iscrowd", 0))),
                    "segmentations": masks,
                }
            )
        watch(i + 1)
    return _official(videos, _list(root, "categories", file), tracks)


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(path, "", f"must be a whole image: {error}") from None


def glide(
    size: tuple[int, int], length: int, rng: np.random.Generator
) -> Float[np.ndarray, "t 6"]:
    """Affine maps from pixels of a frame to pixels of the still image, smooth in time.

    size: height, width. A row is a b c d e f: x' = a x + b y + c, y' = d x + e y + f.
    The window lies inside the image.
    """
    height, width = size
    # Two ends and a bend between them; a half cosine starts and stops gently.
    ease = (1 - np.cos(np.linspace(0, np.pi, length))) / 2
    start, end, bend = rng.uniform(-1, 1, (3, 4))
    z = start + (end - start) * ease[:, None]
    z = np.clip(z + 0.3 * bend * np.sin(np.pi * ease)[:, None], -1, 1)
    scale, angle = 0.72 + 0.12 * z[:, 0], np.deg2rad(6) * z[:, 1]
    cos, sin = np.cos(angle), np.sin(angle)
    # Half sides of the upright box around the turned window; a long image has no room
    # to turn unless the window shrinks.
    reach_x = (np.abs(cos) * width + np.abs(sin) * height) / 2
    reach_y = (np.abs(sin) * width + np.abs(cos) * height) / 2
    scale = np.min([scale, width / 2 / reach_x, height / 2 / reach_y], axis=0)
    cos, sin, reach_x, reach_y = (scale * v for v in (cos, sin, reach_x, reach_y))
    room_x = np.maximum(width / 2 - reach_x, 0)
    room_y = np.maximum(height / 2 - reach_y, 0)
    x, y = width / 2 + z[:, 2] * room_x, height / 2 + z[:, 3] * room_y
    move_x = x - cos * width / 2 + sin * height / 2
    move_y = y - sin * width / 2 - cos * height / 2
    return np.stack([cos, -sin, move_x, sin, cos, move_y], axis=1)


def warp(image: Image.Image, step: Float[np.ndarray, " 6"]) -> Image.Image:
    """Return the window's view of an image, at the size of the image."""
    return image.transform(
        image.size, Image.Transform.AFFINE, step.tolist(), Image.Resampling.BILINEAR
    )


def warp_mask(
    mask: Bool[np.ndarray, "h w"], step: Float[np.ndarray, " 6"]
) -> Bool[np.ndarray, "h w"]:
    """Return the window's view of a mask: the pixels that are more object than not."""
    grey = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
    return np.asarray(warp(grey, step)) > 127
