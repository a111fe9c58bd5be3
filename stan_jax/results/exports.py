"""Other people's formats of tracks, made from tracks.jsonl with little memory."""

import csv
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.masks import codec
from stan_jax.results.frame_lines import read_lines
from stan_jax.results.record_store import RecordStore
from stan_jax.results.writer import ResultsWriter, TrackResult

MOTS_CLASS = 1000  # an id of MOTS is class x 1000 + number


def to_results(lines: Path, out: Path) -> None:
    """The official results.json, of video 1; a track's score is its mean.

    Source: MaskTrackRCNN coco_utils.py results2json_videoseg.
    """
    store, tracks, length = RecordStore(), {}, 0
    for line in read_lines(lines):
        for row in line["tracks"]:
            scores, classes, frames, places = tracks.setdefault(
                row["id"], ([0, 0.0], Counter(), array("q"), array("q"))
            )
            scores[0] += 1
            scores[1] += row["score"]
            classes[row["class_id"]] += 1
            rle = row["segmentation"]
            if codec.area(rle):
                frames.append(line["frame"])
                places.append(store.add(rle))
        length = line["frame"] + 1

    def results() -> Iterator[TrackResult]:
        for _, (scores, classes, frames, places) in sorted(tracks.items()):
            if frames:
                most = max(classes.values())
                yield TrackResult(
                    score=scores[1] / scores[0],
                    category_id=min(k for k, n in classes.items() if n == most),
                    segmentations={
                        t: store.get(place)
                        for t, place in zip(frames, places, strict=True)
                    },
                )

    with ResultsWriter(out) as writer:
        writer.add_video(1, results(), length=length)


def to_csv(lines: Path, out: Path) -> None:
    """One row for each track in each frame, boxes and areas in pixels."""
    names = ["frame", "seconds", "id", "class_id", "class", "score"]
    with replacing(out) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "x1", "y1", "x2", "y2", "area"])
        for line in read_lines(lines):
            for row in line["tracks"]:
                first = [line["frame"], line["seconds"]]
                first += [row[name] for name in names[2:]]
                writer.writerow([*first, *row["box"], codec.area(row["segmentation"])])


def to_mot(lines: Path, out: Path) -> None:
    """Boxes as MOTChallenge has them: frames, ids and pixels count from 1."""
    with replacing(out) as path, open(path, "w") as file:
        for line in read_lines(lines):
            for row in line["tracks"]:
                x1, y1, x2, y2 = row["box"]
                box = f"{x1 + 1:.2f},{y1 + 1:.2f},{x2 - x1:.2f},{y2 - y1:.2f}"
                identity = f"{line['frame'] + 1},{row['id'] + 1}"
                file.write(f"{identity},{box},{row['score']:.4f},-1,-1,-1\n")


def to_mots(lines: Path, out: Path) -> None:
    """Masks as MOTS has them, none over another: the better score is on top.

    Frames count from 1; ids are class x 1000 + number.
    Raises: InputError for a class of more than 999 tracks.
    """
    numbers: dict[int, Counter] = {}
    with replacing(out) as path, open(path, "w") as file:
        for line in read_lines(lines):
            height, width = line["size"]
            taken = np.zeros((height, width), bool)
            for row in sorted(line["tracks"], key=lambda row: -row["score"]):
                top, left, part = codec.decode_part(row["segmentation"])
                place = np.s_[top : top + part.shape[0], left : left + part.shape[1]]
                seen = part & ~taken[place]
                taken[place] |= part
                if not seen.any():
                    continue
                kind = row["class_id"]
                known = numbers.setdefault(kind, Counter())
                number = known.setdefault(row["id"], len(known) + 1)
                if number >= MOTS_CLASS:
                    rule = f"holds {MOTS_CLASS} tracks of {row['class']}, MOTS fewer"
                    raise InputError(lines, f"frame {line['frame']}", rule)
                counts = codec.encode_part(seen, (top, left), (height, width))["counts"]
                identity = f"{line['frame'] + 1} {kind * MOTS_CLASS + number} {kind}"
                file.write(f"{identity} {height} {width} {counts}\n")


def to_cvat(lines: Path, out: Path) -> None:
    """CVAT for video 1.1: a track for each mask, as CVAT itself exports them.

    CVAT knows no tracks of masks; those of one track share a group.
    """
    classes, length, size = set(), 0, [0, 0]
    for line in read_lines(lines):
        classes.update(row["class"] for row in line["tracks"])
        length, size = length + 1, line["size"]
    labels = "".join(
        f"<label><name>{escape(name)}</name></label>" for name in sorted(classes)
    )
    head = (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n'
        "<version>1.1</version>\n"
        f"<meta><task><size>{length}</size><mode>interpolation</mode>"
        f"<labels>{labels}</labels><original_size><width>{size[1]}</width>"
        f"<height>{size[0]}</height></original_size></task></meta>\n"
    )
    with replacing(out) as path, open(path, "w", encoding="utf-8") as file:
        file.write(head)
        number = 0
        for line in read_lines(lines):
            for row in line["tracks"]:
                top, left, part = codec.decode_part(row["segmentation"])
                if part.size:
                    file.write(_cvat_track(number, line["frame"], row, top, left, part))
                    number += 1
        file.write("</annotations>\n")


def _cvat_track(number: int, frame: int, row: dict, top, left, part) -> str:
    pixels = part.reshape(-1)
    edges = np.flatnonzero(np.diff(pixels.view(np.int8), prepend=0))
    runs = np.diff(edges, prepend=0, append=pixels.size).tolist()
    shape = (
        f'occluded="0" rle="{", ".join(map(str, runs))}" left="{left}" top="{top}" '
        f'width="{part.shape[1]}" height="{part.shape[0]}" z_order="0"'
    )
    return (
        f'<track id="{number}" label={quoteattr(row["class"])} '
        f'group_id="{row["id"] + 1}" source="auto">'
        f'<mask frame="{frame}" keyframe="1" outside="0" {shape}></mask>'
        f'<mask frame="{frame + 1}" keyframe="1" outside="1" {shape}></mask></track>\n'
    )


def to_id_masks(lines: Path, out: Path) -> None:
    """A PNG a frame whose pixels are id + 1, and 0 where no track is.

    Of two tracks at a pixel that of the better score is seen. 8 bits with colours
    where all ids fit, else 16.
    """
    last = max((row["id"] for x in read_lines(lines) for row in x["tracks"]), default=0)
    if last + 1 >= 1 << 16:
        rule = f"has ids up to {last}, a PNG holds {(1 << 16) - 2}"
        raise InputError(lines, "", rule)
    kind = np.uint8 if last < 255 else np.uint16
    out.mkdir(parents=True, exist_ok=True)
    for line in read_lines(lines):
        ids = np.zeros(line["size"], kind)
        for row in sorted(line["tracks"], key=lambda row: row["score"]):
            top, left, part = codec.decode_part(row["segmentation"])
            place = ids[top : top + part.shape[0], left : left + part.shape[1]]
            place[part] = row["id"] + 1
        image = Image.fromarray(ids)
        if kind is np.uint8:
            image.putpalette(codec.palette())
        image.save(out / f"{line['frame']:06}.png")


FORMATS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "results": ("results.json", to_results),
    "csv": ("tracks.csv", to_csv),
    "mot": ("mot.txt", to_mot),
    "mots": ("mots.txt", to_mots),
    "cvat": ("cvat.xml", to_cvat),
    "masks": ("masks", to_id_masks),
}


def export(lines: str | Path, names: Sequence[str]) -> dict[str, Path]:
    """Write some formats beside the lines; return where, by name.

    names: of `FORMATS`.
    Raises: InputError if a file cannot be written, or cannot hold the tracks.
    """
    lines, made = Path(lines), {}
    for name in names:
        file, make = FORMATS[name]
        out = lines.with_name(file)
        try:
            make(lines, out)
        except OSError as error:
            rule = f"cannot be written: {error.strerror or error}"
            raise InputError(out, "", rule) from error
        made[name] = out
    return made


def cut_out(image: np.ndarray, rle: codec.RLE) -> Any:
    """Return the object of a mask as an image with a transparent ground, or None."""
    top, left, part = codec.decode_part(rle)
    if not part.size:
        return None
    pixels = image[top : top + part.shape[0], left : left + part.shape[1]]
    alpha = np.where(part, np.uint8(255), np.uint8(0))
    return Image.fromarray(np.dstack([pixels, alpha]))
