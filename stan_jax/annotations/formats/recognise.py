"""What format a source is in, by what lies there, and why that is thought."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from stan_jax.annotations import rules, youtube_vis
from stan_jax.annotations.formats import coco, id_images
from stan_jax.annotations.formats.collected import found_below
from stan_jax.errors import InputError

LOOKED_AT = 20  # images of a folder
ROBOFLOW = "_annotations.coco.json"
MOTS_LINE = re.compile(r"\d+ \d+ \d+ \d+ \d+ \S+")


class Found(NamedTuple):
    """A format by its name, where it begins, and what tells it."""

    kind: str
    source: Path
    why: str


def recognise(source: str | Path) -> Found:
    """Say what a file or folder is.

    Raises: InputError where it is nothing that is known, or already official.
    """
    source = Path(source)
    if source.is_dir():
        return _folder(source)
    if not source.is_file():
        raise InputError(source, "", "must be a file or a folder, is absent")
    ending = source.suffix.lower()
    if ending == ".xml":
        return Found("cvat", source, "an XML of CVAT")
    if ending == ".txt":
        return _text(source)
    if ending == ".png":
        return _folder(source.parent)
    return _json(source)


def _text(file: Path) -> Found:
    lines = [line for line in id_images.read_lines(file) if line.strip()]
    if not lines or not MOTS_LINE.fullmatch(lines[0].strip()):
        rule = "is a text, but not of MOTS: frame, id, class, height, width, RLE"
        raise InputError(file, "", rule)
    return Found("mots-txt", file, "lines of frame, id, class, size and RLE")


def _json(file: Path) -> Found:
    root = youtube_vis.read_any(file)
    if isinstance(root, list):
        return _list(file, root)
    if not isinstance(root, dict):
        raise InputError(file, "", "must hold an object or a list")
    if rules.is_meta(root.get("videos")):
        return _folder(file.parent)._replace(why="the meta.json of YouTube-VOS")
    if "shapes" in root and "imagePath" in root:
        return Found(
            "labelme", file.parent, "shapes and imagePath, as labelme has them"
        )
    videos = root.get("videos")
    if isinstance(videos, list) and any("file_names" in v for v in videos if v):
        raise InputError(file, "", "is the official format already")
    if "images" not in root or "annotations" not in root:
        known = ", ".join(list(map(str, root))[:6])
        raise InputError(file, "", f"is no format that is known: it has {known}")
    if "videos" in root:
        return Found("cocovid", file, "images, annotations and videos, as CocoVID")
    if coco.has_tracks(root):
        return Found("cocovid", file, "COCO whose annotations have a track_id")
    return Found("coco", file, "COCO without tracks: stills")


def _list(file: Path, root: list[Any]) -> Found:
    first = root[0] if root and isinstance(root[0], dict) else {}
    if "data" in first:
        return Found("label-studio", file, "a list of tasks with data and annotations")
    if "segmentations" in first:
        rule = "is a results file: stan score and submit read it"
        cure = "to other formats: stan convert to-cocovid TRUTH OUT --results=FILE"
        raise InputError(file, "", rule, cure)
    if "segmentation" in first or "bbox" in first:
        rule = "is a results file of COCO, of images: it has no tracks"
        raise InputError(file, "", rule)
    known = ", ".join(list(map(str, first))[:6]) or "nothing"
    raise InputError(file, "", f"is a list of no format that is known: of {known}")


def _folder(folder: Path) -> Found:
    """The first of the marks that is there, the plainest first."""
    files = found_below(folder)
    roboflow = [file for file in files if file.name == ROBOFLOW]
    if len(roboflow) > 1:
        some = ", ".join(str(f.parent.relative_to(folder)) for f in roboflow)
        rule = f"holds {ROBOFLOW} in {some}: name one of these folders"
        raise InputError(folder, "", rule, "then `stan merge` joins them")
    if roboflow:
        return _json(roboflow[0])._replace(why=f"{ROBOFLOW}, as Roboflow exports")
    for ending in (".xml", ".txt", ".json"):
        some = [f for f in files if f.suffix.lower() == ending]
        some = [f for f in some if f.name not in (id_images.LABELS, "meta.json")]
        if ending == ".txt":
            some = [f for f in some if _is_mots(f)]
        if not some:
            continue
        if ending == ".xml":
            return Found("cvat", folder, f"{some[0].name}, of CVAT")
        if ending == ".txt":
            return _text(some[0])._replace(source=some[0].parent)
        found = _json(some[0])
        if found.kind == "labelme":
            return found._replace(source=folder)
        if len(some) > 1:
            names = ", ".join(file.name for file in some[:4])
            raise InputError(folder, "", f"holds several json, {names}: name one")
        return found
    return _images(folder)


def _is_mots(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            return bool(MOTS_LINE.match(text.readline()))
    except OSError:
        return False


def _images(folder: Path) -> Found:
    """A folder of PNGs, told by pixels of some of them."""
    by_folder = id_images.pngs(folder)
    every = [file for files in by_folder.values() for file in files]
    some = [every[i] for i in np.linspace(0, len(every) - 1, LOOKED_AT).astype(int)]
    modes, values = set(), []
    for file in dict.fromkeys(some):
        try:
            with Image.open(file) as image:
                modes.add(image.mode)
                values.append(np.unique(np.asarray(image)))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(file, "", f"must be a whole image: {error}") from None
    highest = max(int(v.max(initial=0)) for v in values)
    if modes == {"RGBA"}:
        return Found("bdd100k", folder, "PNGs with alpha, as bitmasks of BDD100K")
    if modes & {"RGB", "RGBA"}:
        return Found("colours", folder, "PNGs in colour")
    if highest > 255:
        return Found("mots", folder, f"16-bit ids up to {highest}")
    binary = all(len(v[v > 0]) <= 1 for v in values)
    parents = {place.parent for place in by_folder}
    if binary and len(by_folder) > 1 and (len(parents) > 1 or _numbered(by_folder)):
        return Found(
            "objects", folder, "folders of PNGs with one value, an object each"
        )
    why = f"PNGs of ids up to {highest}"
    if binary and len(by_folder) > 1:
        why += ", one each; where a folder is an object: stan convert objects"
    return Found("davis", folder, why)


def _numbered(by_folder: dict[Path, list[Path]]) -> bool:
    """Whether folders of one parent have numbers for names, and the same frames."""
    frames = {tuple(file.stem for file in files) for files in by_folder.values()}
    return len(frames) == 1 and all(place.name.isdecimal() for place in by_folder)
