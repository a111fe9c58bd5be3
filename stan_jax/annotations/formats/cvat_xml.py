"""CVAT for video 1.1: an XML with a track an object, read and written.

Source: CVAT's documentation, "XML annotation format". A shape is of one frame; with
`outside` the object is not in view. A mask is `rle`, runs row by row inside the box
`left top width height`, the first one of background.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.formats.collected import (
    BOXES,
    EMPTY,
    MOST_CELLS,
    Balance,
    Collected,
    by_name,
    found_below,
)
from stan_jax.annotations.formats.writers import places, start
from stan_jax.errors import InputError
from stan_jax.masks import codec, segmentations
from stan_jax.masks.codec import RLE
from stan_jax.media.pictures import is_image

NO_AREA = "are lines, points or cuboids: no area"


def read(source: str | Path, *, suffix: str = ".PNG") -> Collected:
    """Read the annotations.xml of a task or a project, or a folder of such files.

    Where `images` lies beside a file its frames are those with the frame's number in
    their names, below the folder of the file or the one that was given; else they are
    called <file>/frame_<number, six digits>, as CVAT does.
    A mask is kept to frames that are listed, as CVAT lists all of them on export.

    Args:
      source: a file, or a folder: each file is one video, a project one for each task.
      suffix: of the frames that are not there.
    Raises: InputError for a file that is none, or of images, whose tracks are cut up.
    """
    source = Path(source)
    files = [source]
    if source.is_dir():
        files = found_below(source, ".xml")
    if not files:
        raise InputError(source, "", "must be an XML of CVAT, or a folder of them")
    found, labels, shapes = Collected(source), [], []
    for file in files:
        root = _root(file)
        labels += [x.text or "" for x in root.iterfind("meta//label/name")]
        labels += [t.get("label", "") for t in root.iterfind("track")]
        shapes.append((file, root))
    numbers, found.categories = by_name(labels)
    for file, root in shapes:
        base = source if source.is_dir() else file.parent
        _read_file(found, file, base, root, numbers, suffix)
    return found


def _root(file: Path) -> ElementTree.Element:
    try:
        text = file.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise InputError(file, "", "must be plain XML, without a document type")
        root = ElementTree.fromstring(text)  # without entities
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(file, "", f"must be a readable XML: {error}") from None
    if root.tag != "annotations":
        raise InputError(file, "", f"must hold <annotations>, holds <{root.tag}>")
    if root.find("image") is not None and root.find("track") is None:
        rule = "is 'CVAT for images', which knows no tracks"
        cure = "export the task as 'CVAT for video 1.1' or as COCO"
        raise InputError(file, "", rule, cure)
    return root


def _read_file(
    found: Collected,
    file: Path,
    base: Path,
    root: ElementTree.Element,
    numbers: dict[str, int],
    suffix: str,
) -> None:
    tasks = list(root.iterfind("meta/project/tasks/task"))
    single = root.find("meta/task")
    if single is None:
        single = root.find("meta/job")
    if not tasks and single is None:
        raise InputError(file, "meta", "must tell the task: its size and frames")
    videos = {}
    for task in tasks or [single]:
        assert task is not None
        name = file.parent.name if file.stem == "annotations" else file.stem
        if tasks:
            name = f"{name}/{task.findtext('id')}"
        times, size = _frames(file, task)
        names = _names(file, base, name, times, suffix)
        place = {time: t for t, time in enumerate(times)}
        number = found.video(names, size)
        videos[task.findtext("id") if tasks else None] = number, size, place
    for n, track in enumerate(root.iterfind("track")):
        key = track.get("task_id") if tasks else None
        where = f"track {track.get('id', n)}"
        if key not in videos:
            raise InputError(file, where, f"task {key} is not among the tasks")
        number, size, place = videos[key]
        for shape in track:
            if shape.tag == "attribute" or shape.get("outside") == "1":
                continue
            time = _whole(file, where, shape, "frame")
            at = f"{where}, frame {time}"
            if time not in place:
                raise InputError(file, at, "is not among the frames of its task")
            mask, reason = _mask(file, at, shape, size)
            found.mask(
                number,
                n,
                place[time],
                mask,
                category=numbers[track.get("label", "")],
                where=f"{file.relative_to(base)}, {at}",
                reason=reason,
            )


def _frames(file: Path, task: ElementTree.Element) -> tuple[list[int], tuple]:
    """Numbers of the frames of a task, and their size."""
    where = f"task {task.findtext('id', '')}"
    size = task.find("original_size")
    if size is None:
        size = task.find("../original_size")
    if size is None:
        raise InputError(file, where, "must have <original_size>: is it of a video?")
    values = {}
    for name, element in (
        ("width", size.find("width")),
        ("height", size.find("height")),
        ("start_frame", task.find("start_frame")),
        ("stop_frame", task.find("stop_frame")),
    ):
        text = "" if element is None else (element.text or "").strip()
        if not text.isdecimal() or int(text) > 10**7:
            raise InputError(file, where, f"<{name}> must be a number, is '{text}'")
        values[name] = int(text)
    step = re.fullmatch(r"step=(\d+)", task.findtext("frame_filter", "") or "")
    stride = max(int(step[1]), 1) if step else 1
    times = list(range(values["start_frame"], values["stop_frame"] + 1, stride))
    height, width = values["height"], values["width"]
    if not times or not 0 < height * width <= MOST_CELLS:
        rule = f"must have frames and a size, has {len(times)} of {height} x {width}"
        raise InputError(file, where, rule)
    return times, (height, width)


def _names(
    file: Path, base: Path, name: str, times: list[int], suffix: str
) -> list[str]:
    """Names of the frames, below `base`: those of `images`, where it is there."""
    images = file.parent / "images"
    there = {}
    for path in images.rglob("*") if images.is_dir() else ():
        digits = re.findall(r"\d+", path.stem)
        if digits and is_image(path):
            there[int(digits[-1])] = path.relative_to(base).as_posix()
    if not there:
        return [f"{name}/frame_{time:06}{suffix}" for time in times]
    for time in times:
        if time not in there:
            raise InputError(images, f"frame {time}", "must be there, as the XML says")
    return [there[time] for time in times]


def _mask(
    file: Path, where: str, shape: ElementTree.Element, size: tuple[int, int]
) -> tuple[RLE | None, str]:
    """The mask of a shape; or None and why there is none."""
    if shape.tag == "box":
        return None, BOXES
    read: dict[str, Callable] = {
        "mask": _runs,
        "polygon": _polygon,
        "ellipse": _ellipse,
    }
    if shape.tag not in read:
        return None, NO_AREA
    try:
        return read[shape.tag](shape, size), EMPTY
    except (ValueError, KeyError) as error:
        rule = f"<{shape.tag}> must give a mask: {error}"
        raise InputError(file, where, rule) from None


def _runs(shape: ElementTree.Element, size: tuple[int, int]) -> RLE | None:
    left, top, width, height = (
        int(shape.attrib[key]) for key in ("left", "top", "width", "height")
    )
    runs = np.array([int(x) for x in shape.attrib["rle"].split(",")])
    if min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        box = f"{left}, {top}, {width} x {height}"
        raise ValueError(f"its box, {box}, leaves the frame of {size[0]} x {size[1]}")
    if runs.min() < 0 or runs.sum() != width * height:
        total = int(runs.sum())
        raise ValueError(f"runs must add up to {width} x {height}, add up to {total}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = values.reshape(height, width)
    return codec.encode(mask) if mask.any() else None


def _polygon(shape: ElementTree.Element, size: tuple[int, int]) -> RLE | None:
    points = [float(x) for x in re.split("[,;]", shape.attrib["points"])]
    return segmentations.compress([points], *size)


def _ellipse(shape: ElementTree.Element, size: tuple[int, int]) -> RLE | None:
    x, y, rx, ry = (float(shape.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
    angle = np.deg2rad(float(shape.get("rotation", 0)))
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    across, down = rx * np.cos(turn), ry * np.sin(turn)
    points = np.stack(
        [
            x + across * np.cos(angle) - down * np.sin(angle),
            y + across * np.sin(angle) + down * np.cos(angle),
        ],
        axis=1,
    )
    return segmentations.compress([points.ravel().tolist()], *size)


def _whole(file: Path, where: str, shape: ElementTree.Element, key: str) -> int:
    text = shape.get(key, "")
    if not text.isdecimal():
        raise InputError(file, where, f"'{key}' must be a number, is '{text}'")
    return int(text)


def write(dataset: youtube_vis.Dataset, out: str | Path) -> Balance:
    """Write an XML for each video, as CVAT imports it; names of frames are lost.

    Raises: InputError where such a file is there already.
    """
    balance, paths, crowds = start(dataset), places(dataset, out, ".xml"), 0
    for video in dataset.videos:
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        _write_task(root, video, [c.name for c in dataset.categories])
        for n, track in enumerate(video.tracks):
            if not any(track.segmentations):
                continue
            crowds += track.crowd
            label = dataset.categories[track.label].name
            about = {"id": str(n), "label": label, "source": "file"}
            element = ElementTree.SubElement(root, "track", about)
            masks = track.segmentations
            for t, rle in enumerate(masks):
                if rle is not None:
                    mask, hidden = codec.decode(rle), False
                elif t and (before := masks[t - 1]) is not None:
                    mask, hidden = codec.decode(before), True  # it ends here
                else:
                    continue
                ElementTree.SubElement(element, "mask", _shape(mask, t, hidden))
        ElementTree.indent(root)
        text = ElementTree.tostring(root, "utf-8", xml_declaration=True)
        paths[video.id].write_bytes(text)
    if crowds:
        balance.notes.append(f"{crowds} crowds are tracks like others in it")
    balance.notes.append("frames have numbers in it, no names")
    return balance


def _write_task(root: ElementTree.Element, video: Any, labels: list[str]) -> None:
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    last = len(video.file_names) - 1
    for key, value in (
        ("id", video.id),
        ("name", video.name),
        ("size", last + 1),
        ("mode", "interpolation"),
        ("start_frame", 0),
        ("stop_frame", last),
    ):
        ElementTree.SubElement(task, key).text = str(value)
    every = ElementTree.SubElement(task, "labels")
    for label in labels:
        one = ElementTree.SubElement(every, "label")
        ElementTree.SubElement(one, "name").text = label
    size = ElementTree.SubElement(task, "original_size")
    ElementTree.SubElement(size, "width").text = str(video.width)
    ElementTree.SubElement(size, "height").text = str(video.height)


def _shape(mask: Bool[np.ndarray, "h w"], t: int, outside: bool) -> dict[str, str]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    inside = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = np.concatenate([[False], inside.ravel()])
    edges = np.flatnonzero(np.diff(flat)).tolist()
    runs = np.diff([0, *edges, inside.size]).tolist()
    return {
        "frame": str(t),
        "outside": str(int(outside)),
        "occluded": "0",
        "keyframe": "1",
        "rle": ", ".join(map(str, runs)),
        "left": str(left),
        "top": str(top),
        "width": str(inside.shape[1]),
        "height": str(inside.shape[0]),
        "z_order": "0",
    }
