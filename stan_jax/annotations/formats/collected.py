"""What a source holds, record by record, and a count of what becomes of it.

Every reader of another format registers here what it meets, so nothing is lost without
being counted: of videos, frames, tracks and masks, read = written + left out.
"""

import contextlib
from collections import Counter
from collections.abc import Generator, Hashable, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from stan_jax.annotations import rules
from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.masks.codec import RLE
from stan_jax.media.pictures import natural

UNITS = "videos", "frames", "tracks", "masks"
BOXES = "are boxes alone"
EMPTY = "have no pixel"
MOST_CELLS = 2**26  # of a frame: more would be a slip, and take the memory


class Balance:
    """How many of each unit were read, written and left out, and why.

    Each reason has its number and one example; `notes` tell what else one should know.
    """

    def __init__(self):
        self.read: Counter[str] = Counter()
        self.left: dict[tuple[str, str], tuple[int, str]] = {}
        self.notes: list[str] = []
        self._told: dict[str, tuple[int, str]] = {}

    def leave(self, unit: str, reason: str, example: str, number: int = 1) -> None:
        """Count records that are left out; the first one is the example."""
        before, first = self.left.get((unit, reason), (0, example))
        self.left[unit, reason] = before + number, first

    def tell(self, text: str, example: str) -> None:
        """Count what is no record of its own; the first one is the example."""
        before, first = self._told.get(text, (0, example))
        self._told[text] = before + 1, first

    def left_out(self) -> Counter[str]:
        """Return how many of each unit are left out."""
        total: Counter[str] = Counter()
        for (unit, _), (number, _) in self.left.items():
            total[unit] += number
        return total

    def written(self) -> Counter[str]:
        """Return how many of each unit are written."""
        left = self.left_out()
        return Counter({unit: self.read[unit] - left[unit] for unit in UNITS})

    def lines(self) -> list[str]:
        """Return the balance and a line for each reason and note."""
        rows = ("read", self.read), ("written", self.written())
        rows = (*rows, ("left out", self.left_out()))
        return [
            *(
                f"{name:9}" + ", ".join(f"{of[unit]:,} {unit}" for unit in UNITS)
                for name, of in rows
            ),
            *(
                f"warning: {number:,} {unit} {reason}, e.g. {example}: left out"
                for (unit, reason), (number, example) in self.left.items()
            ),
            *(
                f"note: {number:,} {text}, e.g. {example}"
                for text, (number, example) in self._told.items()
            ),
            *(f"note: {note}" for note in self.notes),
        ]


class Collected:
    """Videos, tracks and masks as a reader meets them.

    file: what the errors name. faults: where a reader is to go on behind a broken
    record, the list that its error is added to.
    """

    def __init__(self, file: str | Path, faults: list[InputError] | None = None):
        self.file, self.faults = file, faults
        self.balance = Balance()
        self.categories: list[dict[str, Any]] = []
        self.videos: list[dict[str, Any]] = []
        self._lengths: dict[int, int] = {}
        self._tracks: dict[tuple[int, Hashable], dict[str, Any]] = {}
        self._dropped: dict[tuple[int, Hashable], tuple[str, str]] = {}
        self._made: dict[str, Any] | None = None

    @contextlib.contextmanager
    def record(self) -> Generator[None]:
        """Read one record: its error goes to the faults, if they are wanted."""
        try:
            yield
        except InputError as error:
            if self.faults is None:
                raise
            self.faults.append(error)

    def video(
        self, names: list[str], size: tuple[int, int], number: int | None = None
    ) -> int:
        """Register a video of frames of a size (height, width); return its id.

        number: the id it is to have; without it they are counted from 1.
        """
        height, width = size
        names = [rules.posix(name) for name in names]
        number = len(self.videos) + 1 if number is None else number
        sizes = {"height": height, "width": width, "length": len(names)}
        self.videos.append({"id": number, "file_names": names, **sizes})
        self._lengths[number] = len(names)
        self.balance.read["videos"] += 1
        self.balance.read["frames"] += len(names)
        for name, often in Counter(names).items():
            if often > 1:
                self.balance.tell("frames share their name with another", name)
        return number

    def mask(
        self,
        video: int,
        key: Hashable,
        t: int,
        mask: RLE | None,
        *,
        category: int,
        where: str,
        crowd: bool = False,
        reason: str = EMPTY,
    ) -> None:
        """Register the mask of a track in frame t; pieces of one mask are joined.

        Args:
          video: id of a video that is registered.
          key: tells the track apart within its video.
          t: index of the frame.
          mask: of the frame's size, or None: it is left out.
          category: id of the track's category.
          where: its place in the source, for messages.
          crowd: whether it is a group, or counts for nobody.
          reason: why it is left out, where it is.
        Raises: InputError where the track is of another category elsewhere.
        """
        place = video, key
        if place not in self._tracks:
            absent: list = [None] * self._lengths[video]
            new = {"video_id": video, "category_id": category, "iscrowd": 0}
            self._tracks[place] = new | {"segmentations": absent}
            self.balance.read["tracks"] += 1
        track = self._tracks[place]
        if track["category_id"] != category:
            rule = (
                f"instance {key} is of category {track['category_id']} elsewhere,"
                f" here of {category}"
            )
            raise InputError(self.file, where, rule)
        track["iscrowd"] |= int(crowd)
        before = track["segmentations"][t]
        if mask is None or before is None:
            self.balance.read["masks"] += 1
        if mask is None:
            self.balance.leave("masks", reason, where)
        elif before is None:
            track["segmentations"][t] = mask
        else:
            track["segmentations"][t] = codec.union([before, mask])

    def has(self, video: int, key: Hashable, t: int) -> bool:
        """Return whether a track has a mask in frame t already."""
        track = self._tracks.get((video, key))
        return track is not None and track["segmentations"][t] is not None

    def drop(self, video: int, key: Hashable, reason: str, where: str) -> None:
        """Leave a track out, with its masks."""
        self._dropped[video, key] = reason, where

    def official(self) -> dict[str, Any]:
        """Return the content of the official file; nothing can be registered after."""
        if self._made is not None:
            return self._made
        annotations: list[dict[str, Any]] = []
        for (video, key), track in self._tracks.items():
            masks = [mask for mask in track["segmentations"] if mask]
            where = f"track {key} of video {video}"
            if found := self._dropped.get((video, key)):
                reason, where = found
                self.balance.leave("tracks", reason, where)
                if masks:
                    self.balance.leave(
                        "masks", f"of tracks that {reason}", where, len(masks)
                    )
            elif not masks:
                self.balance.leave("tracks", "show nothing in any frame", where)
            else:
                annotations.append(_row(len(annotations) + 1, track, masks))
        self._made = {
            "videos": self.videos,
            "categories": self.categories,
            "annotations": annotations,
        }
        return self._made


def _row(number: int, track: dict[str, Any], shown: list[RLE]) -> dict[str, Any]:
    boxes = iter(coco_mask.toBbox(shown).tolist())
    # One by one: pycocotools counts no more than 255 of them under numpy 2.
    areas = iter([codec.area(mask) for mask in shown])
    masks = track["segmentations"]
    return {
        "id": number,
        **track,
        "bboxes": [next(boxes) if mask else None for mask in masks],
        "areas": [next(areas) if mask else None for mask in masks],
    }


def found_below(folder: Path, ending: str | None = None) -> list[Path]:
    """Return the files below a folder, folders and names as people count; none hidden.

    ending: of the names, such as `.xml`, which finds `.XML` as well; None is any.
    """
    found = []
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if ending in (None, file.suffix.lower()) and file.is_file() and not hidden:
            found.append(([natural(Path(part)) for part in parts], file))
    return [file for _, file in sorted(found)]


def named(kinds: set[int], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the categories of numbers 1, 2, ...: the first is named names[0]."""
    return [
        {"id": c, "name": names[c - 1] if 0 < c <= len(names) else f"class {c}"}
        for c in sorted(kinds)
    ]


def by_name(names: Sequence[str]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return the number of each name, in the order of the list, and the categories."""
    numbers = {name: n for n, name in enumerate(dict.fromkeys(names), start=1)}
    return numbers, [{"id": n, "name": name} for name, n in numbers.items()]
