"""Folders of PNGs whose pixels tell the objects: DAVIS, YouTube-VOS, MOTS, BDD100K.

A folder is a video and a PNG a frame. The folders may lie deeper, if all in one place;
a folder of PNGs is one video; what begins with a dot is passed over.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.formats.collected import (
    Collected,
    by_name,
    found_below,
    named,
)
from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.media.pictures import is_image, natural

LABELS = "labels.txt"  # CVAT's: the name of class 1, 2, ... a line
VOID = 255  # DAVIS 2017: pixels that are nobody's
MOTS_IGNORE = 10_000  # a region that counts for nobody: class 10, a crowd
UNNAMED = (
    "MOTS does not name classes: they are {}; --classes NAME,NAME names them"
    " (car,pedestrian in KITTI MOTS and MOTSChallenge)"
)
# Source: documentation of BDD100K, "Bitmask format": R is the class, G holds truncated,
# occluded, crowd and ignored from bit 3 down, B and A the number of the object.
BDD100K = "pedestrian rider car truck bus train motorcycle bicycle".split()
CROWD, IGNORED = 2, 1  # bits of G


class Object(NamedTuple):
    """What the number of a pixel says."""

    category: int
    crowd: bool = False


def davis(
    folder: str | Path, *, suffix: str = ".jpg", classes: Sequence[str] = ()
) -> Collected:
    """Read a pixel as the number of its object, 0 as background.

    255 beside others is nobody's (void). All objects are of one class, or of those in a
    meta.json above the folders (YouTube-VOS).

    Args:
      folder: of the videos.
      suffix: of the frames that belong to the PNGs, in folders of the same names.
      classes: the name of the class.
    Raises: InputError for an image that is no id mask or has another size, and where
    most ids have no inside: greys of a mask that was resized.
    """
    folder = Path(folder)
    found = Collected(folder)
    folders = _folders(folder)
    meta = _meta(folders[0][0])
    known = sorted({name for objects in meta.values() for name in objects.values()})
    numbers, found.categories = by_name(known or list(classes[:1]) or ["object"])
    for place, files in folders:
        names = meta.get(place.name, {})

        def of(value: int, names=names) -> Object:
            return Object(numbers[names[value]] if value in names else 1)

        video, values = _video(found, place, files, _ids, of, suffix)
        where = f"{place.name}/{files[0].name}"
        if VOID in values and len(values) > 1:
            found.drop(
                video, VOID, f"are the void label, {VOID}, beside objects", where
            )
        for value in values if meta else ():
            if value not in names:
                where = f"object {value} of video {place.name}"
                found.drop(video, value, "are not in the meta.json", where)
    return found


def mots(
    folder: str | Path, *, suffix: str = ".jpg", classes: Sequence[str] = ()
) -> Collected:
    """Read 16-bit pixels as class x 1000 + number; 10000 is a crowd (MOTS).

    Where `instances` lies beside `images`, as CVAT has it, frames are those.
    Arguments and errors as of `davis`; classes: else those of a labels.txt beside.
    """
    folder = Path(folder)
    found = Collected(folder)
    folders = _folders(folder)
    kinds = set()

    def of(value: int) -> Object:
        one = mots_object(value)
        kinds.add(one.category)
        return one

    for place, files in folders:
        _video(found, place, files, _ids16, of, suffix)
    names = [*classes] or _labels(folders[0][0])
    found.categories = named(kinds, names)
    note_unnamed(found, names)
    return found


def mots_object(number: int) -> Object:
    """Return what an id of MOTS says."""
    crowd = number == MOTS_IGNORE
    return Object(1 if crowd else number // 1000, crowd)


def note_unnamed(found: Collected, names: Sequence[str]) -> None:
    """Say so where classes of MOTS have no names."""
    if not names:
        given = ", ".join(str(row["name"]) for row in found.categories)
        found.balance.notes.append(UNNAMED.format(given))


def bdd100k(folder: str | Path, *, suffix: str = ".jpg") -> Collected:
    """Read RGBA pixels as class, flags and number (bitmasks of BDD100K).

    What is flagged as crowd or ignored is a crowd. Arguments and errors as of `davis`.
    """
    folder = Path(folder)
    found = Collected(folder)
    kinds = set()

    def of(value: int) -> Object:
        kinds.add(category := value >> 24)
        return Object(category, bool(value >> 16 & (CROWD | IGNORED)))

    for place, files in _folders(folder):
        _video(found, place, files, _rgba, of, suffix)
    found.categories = named(kinds, BDD100K)
    return found


def colours(
    folder: str | Path, palette: str | Path, *, suffix: str = ".jpg"
) -> Collected:
    """Read a colour as an object, by a palette; black is background.

    Args:
      folder: of the videos.
      palette: a text with a colour a line, `#rrggbb` or `r g b`, then the name of its
        class, if any; or the labelmap.txt of CVAT, `name:r,g,b::`.
      suffix: as of `davis`.
    Raises: InputError for a colour that the palette has not, and as `davis`.
    """
    folder = Path(folder)
    found = Collected(folder)
    table = read_palette(Path(palette))
    numbers, found.categories = by_name([name for _, name in table])
    of = [0, *(numbers[name] for _, name in table)]
    known = {colour: n for n, (colour, _) in enumerate(table, start=1)}

    def decode(file: Path) -> Int[np.ndarray, "h w"]:
        pixels = _pixels(file, "RGB").astype(np.int64)
        packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        ids = np.zeros(packed.shape, np.int64)
        for colour in np.unique(packed[packed > 0]).tolist():
            if colour not in known:
                often = int((packed == colour).sum())
                rule = f"has {often} pixels of #{colour:06x}, a colour that is not in"
                raise InputError(file, "", f"{rule} the palette {palette}")
            ids[packed == colour] = known[colour]
        return ids

    for place, files in _folders(folder):
        _video(found, place, files, decode, lambda n: Object(of[n]), suffix)
    return found


def read_palette(file: Path) -> list[tuple[int, str]]:
    """Return colour and name of each line of a palette; black is left out."""
    found = []
    for n, line in enumerate(read_lines(file), start=1):
        text = line.strip()
        if not text or text.startswith("# "):
            continue
        cvat = re.match(r"(?P<name>[^:]*):(?P<rgb>\d+,\d+,\d+):", text)
        plain = re.match(
            r"(?P<rgb>#[0-9a-fA-F]{6}|\d+[ ,]+\d+[ ,]+\d+)(?P<name>.*)", text
        )
        if not (match := cvat or plain):
            rule = "must be #rrggbb or r g b, then a name; or name:r,g,b::"
            raise InputError(file, f"line {n}", f"{rule}, is {text!r:.40}")
        rgb = match["rgb"]
        if rgb.startswith("#"):
            colour = int(rgb[1:], 16)
        else:
            parts = [int(x) for x in re.findall(r"\d+", rgb)]
            if max(parts) > 255:
                raise InputError(file, f"line {n}", f"colours end at 255, is {rgb}")
            colour = parts[0] << 16 | parts[1] << 8 | parts[2]
        if colour:
            found.append((colour, match["name"].strip() or "object"))
    if not found:
        raise InputError(file, "", "must hold at least one colour but black")
    return found


def objects(
    folder: str | Path, *, suffix: str = ".jpg", classes: Sequence[str] = ()
) -> Collected:
    """Read one PNG an object and frame: VIDEO/OBJECT/FRAME.png (SAM 2, SA-V).

    A pixel is the object's where it is not 0. A frame is one that any object of its
    video has a PNG for. Arguments and errors as of `davis`.
    """
    folder = Path(folder)
    found = Collected(folder)
    _, found.categories = by_name(list(classes[:1]) or ["object"])
    videos = defaultdict(list)
    for place, files in pngs(folder).items():
        if place == folder:
            rule = "holds PNGs itself: must be VIDEO/OBJECT/FRAME.png, or of one video"
            raise InputError(folder, "", rule)
        videos[place.parent].append((place, files))
    for parent in sorted(videos, key=natural):
        places = sorted(videos[parent], key=lambda x: natural(x[0]))
        stems = sorted(
            {file.stem for _, files in places for file in files},
            key=lambda stem: natural(Path(stem)),
        )
        size, masks, times = None, [], {stem: t for t, stem in enumerate(stems)}
        for place, files in places:
            for file in files:
                ids = _ids(file)
                size = _same_size(size, ids, file, parent.name)
                masks.append((place.name, times[file.stem], file, ids > 0))
        names = [f"{parent.name}/{stem}{suffix}" for stem in stems]
        video = found.video(names, size or (0, 0))
        for key, t, file, mask in masks:
            rle = codec.encode(mask) if mask.any() else None
            if rle is not None:  # an empty PNG says that the object is out of view
                where = str(file.relative_to(folder))
                found.mask(video, key, t, rle, category=1, where=where)
    return found


def _video(
    found: Collected,
    place: Path,
    files: list[Path],
    decode: Callable[[Path], Int[np.ndarray, "h w"]],
    of: Callable[[int], Object],
    suffix: str,
) -> tuple[int, list[int]]:
    """Register a folder of PNGs; return the video's id and the values of its pixels."""
    size, masks = None, defaultdict(dict)
    inside: set[int] = set()
    for t, file in enumerate(files):
        ids = decode(file)
        size = _same_size(size, ids, file, place.name)
        for value in np.unique(ids[ids > 0]).tolist():
            masks[value][t] = codec.encode(ids == value)
        inside |= _with_inside(ids)
    if len(masks) >= 8 and len(masks) > 2 * len(inside & set(masks)):
        rims = len(set(masks) - inside)
        rule = (
            f"holds {len(masks)} ids, {rims} of which only rim others: are they the"
            " greys of a resized mask? resize without smoothing (nearest)"
        )
        raise InputError(place, f"video {place.name}", rule)
    video = found.video(_frames_of(place, files, suffix), size or (0, 0))
    for value in sorted(masks):
        category, crowd = of(value)
        for t, mask in masks[value].items():
            where = f"{place.name}/{files[t].name}"
            found.mask(
                video, value, t, mask, category=category, crowd=crowd, where=where
            )
    return video, sorted(masks)


def _same_size(size: tuple | None, ids: np.ndarray, file: Path, video: str) -> tuple:
    if size not in (None, ids.shape):
        rule = f"must be {size} (height, width) as the others, is {ids.shape}"
        raise InputError(file, f"video {video}", rule)
    return ids.shape


def pngs(folder: Path) -> dict[Path, list[Path]]:
    """PNGs by their folder, in the order people count in; hidden ones are passed over.

    Raises: InputError where there are none.
    """
    if not folder.is_dir():
        raise InputError(folder, "", "must be a folder of folders of PNGs")
    found = defaultdict(list)
    for file in found_below(folder, ".png"):
        found[file.parent].append(file)
    for place in [x for x in found if x.name == "images"]:
        if place.with_name("instances") in found:  # the frames, as CVAT has them
            del found[place]
    if not found:
        rule = "must hold folders of PNGs, holds none, at any depth"
        raise InputError(folder, "", rule)
    return {place: found[place] for place in sorted(found, key=natural)}


def _folders(folder: Path) -> list[tuple[Path, list[Path]]]:
    """The folders that hold PNGs, and those.

    Raises: InputError where they lie in several places.
    """
    found = pngs(folder)
    if len({place.parent for place in found}) > 1:
        some = ", ".join(str(place.relative_to(folder)) for place in sorted(found)[:4])
        rule = f"holds PNGs in several places ({some}): name the folder of one of them"
        cure = "or, where each object has PNGs of its own, `stan convert objects`"
        raise InputError(folder, "", rule, cure)
    return list(found.items())


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
            return [line.strip() for line in read_lines(file) if line.strip()]
    return []


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text. Raises: InputError where it cannot be read."""
    try:
        return file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(file, "", f"must be a readable text: {error}") from None


def _with_inside(ids: Int[np.ndarray, "h w"]) -> set[int]:
    """Ids that have a pixel whose four neighbours are of the same object."""
    middle = ids[1:-1, 1:-1]
    same = (middle == ids[:-2, 1:-1]) & (middle == ids[2:, 1:-1])
    same &= (middle == ids[1:-1, :-2]) & (middle == ids[1:-1, 2:])
    return set(np.unique(middle[same]).tolist())


def _pixels(file: Path, mode: str | None = None) -> np.ndarray:
    """The pixels as stored, or as a mode of pillow."""
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(file, "", f"must be a whole image: {error}") from None


def _ids(file: Path) -> Int[np.ndarray, "h w"]:
    pixels = _pixels(file)
    if pixels.ndim == 3 and (pixels[..., :1] == pixels[..., :3]).all():
        pixels = pixels[..., 0]  # grey, written with three channels
    if pixels.ndim != 2:
        rule = "must have one channel of ids (palette or grey), not colours"
        kinds = {2: "grey and alpha", 3: "RGB", 4: "RGBA"}
        found = pixels.reshape(-1, pixels.shape[-1])
        number = len(np.unique(found, axis=0))
        cure = (
            f"it is {kinds.get(pixels.shape[-1], 'another')} of {number} colours: where"
            " each is an object, `stan convert colours --palette=FILE` takes it"
        )
        raise InputError(file, "", rule, cure)
    return pixels.astype(np.int64)


def _ids16(file: Path) -> Int[np.ndarray, "h w"]:
    pixels = _pixels(file)
    if pixels.ndim == 2 and pixels.dtype == np.uint8 and pixels.max(initial=0) > 0:
        raise InputError(file, "", "must have 16 bits a pixel, as MOTS has")
    return _ids(file)


def _rgba(file: Path) -> Int[np.ndarray, "h w"]:
    pixels = _pixels(file)
    if pixels.ndim != 3 or pixels.shape[-1] != 4:
        raise InputError(file, "", "must be RGBA, as the bitmasks of BDD100K are")
    r, g, b, a = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return np.where(r > 0, r << 24 | (g & (CROWD | IGNORED)) << 16 | b << 8 | a, 0)
